"""The numeric options of every balancer: values at both ends of each range, and outside."""

import math
import re

import pytest

from mtlkit import BALANCERS
from mtlkit.option_checks import check_choice, check_number, check_task_names, check_whole_number
from mtlkit.registry import options_of

OURS = [name for name in BALANCERS.names() if BALANCERS.get(name).__module__.startswith("mtlkit.")]
COMMON = {"lr": "[0, 1e6]", "lr_decay": "(0, 1]"}
WHOLE = {"adversarial": {"ramp_epochs": 0, "hidden": 1}, "excess_mtl": {"warmup_steps": 1}, "nash": {"update_every": 1}}
WHOLE |= {"dwa": {"window": 1}, "rotograd": {"burn_in": 0}, "sdmgrad": {"iterations": 1}, "stch": {"warmup_epochs": 0}}
RANGES = {
    "adversarial": {"alpha": "[0, inf)"},
    "cagrad": {"c": "[0, inf)"},
    "cosreg": {"alpha": "[0, inf)"},
    "db_mtl": {"beta": "[0, 1)", "decay": "[0, inf)"},
    "dtp": {"alpha": "(0, 1]", "gamma": "[0, inf)"},
    "dwa": {"temperature": "(0, inf)"},
    "excess_mtl": {"eta": "(0, inf)"},
    "fairgrad": {"alpha": "(0, inf)", "max_norm": "(0, inf)"},
    "famo": {"gamma": "[0, inf)"},
    "graddrop": {"leak": "[0, 1]"},
    "gradnorm": {"alpha": "[0, inf)"},
    "gradvac": {"beta": "[0, 1]"},
    "moco": {"beta": "(0, 1]", "gamma": "(0, inf)", "rho": "[0, inf)"},
    "modo": {"gamma": "(0, inf)", "rho": "[0, inf)"},
    "nash": {"max_norm": "(0, inf)"},
    "rotograd_procrustes": {"alpha": "[0, inf)", "weight_lr": "[0, inf)", "lr": "(0, 1]"},
    "sdmgrad": {"lam": "[0, inf)", "beta": "(0, inf)", "momentum": "[0, 1)", "max_norm": "(0, inf)"},
    "stch": {"mu": "(0, inf)"},
    "uncertainty": {"initial": "(-inf, inf)", "weight_decay": "[0, inf)"},
}
CHOICES = {
    "cagrad": {"rescale": "sqrt"},
    "mgda": {"normalization": "l1", "weigh": "plain"},
    "rotograd": {"update": "sgd", "start": "identity"},
    "rotograd_procrustes": {"update": "adam"},
    "sdmgrad": {"divide_by": "length"},
    "uncertainty": {"likelihood": "gausian"},
}  #: balancer -> option -> a value that does not exist
BY_TASK = [("famo", "min_losses", "(-inf, inf)"), ("fixed", "weights", "[0, inf)")]
BY_TASK += [("stch", "preference", "(0, inf)"), ("stch", "ideal", "(-inf, inf)")]
UNBOUNDED = {"level", "dim"}  # `setup` compares them with the encoder


@pytest.fixture(params=OURS)
def name(request) -> str:
    return request.param


def numbers(name: str) -> set[str]:
    """Returns the options that take a number, according to their types."""
    options = options_of(BALANCERS.get(name))
    return {key for key, option in options.items() if option.annotation in (int, float, float | None, int | None)}


def inside_and_outside(interval: str) -> tuple[list[float], list[float]]:
    """Returns values at and next to both ends of an interval: those inside, and those outside."""
    low, high = map(float, interval[1:-1].split(","))
    inside, outside = [], [math.nan]
    for end, closed, inward in ((low, interval[0] == "[", math.inf), (high, interval[-1] == "]", -math.inf)):
        (inside if closed else outside).append(end)
        if math.isfinite(end):
            inside.append(math.nextafter(end, inward))
            outside.append(math.nextafter(end, -inward))
    return inside, outside


def test_every_number_option_has_a_range(name):
    ranges = COMMON | RANGES.get(name, {})
    assert numbers(name) <= ranges.keys() | WHOLE.get(name, {}).keys() | UNBOUNDED
    assert RANGES.get(name, {}).keys() | WHOLE.get(name, {}).keys() <= numbers(name)


def test_numbers_up_to_the_ends_are_taken_and_others_are_refused(name):
    ranges = {key: interval for key, interval in (COMMON | RANGES.get(name, {})).items() if key in numbers(name)}
    for option, interval in ranges.items():
        inside, outside = inside_and_outside(interval)
        for value in inside:
            assert getattr(BALANCERS.build(name, tasks=("a", "b"), **{option: value}), option, value) == value
        for value in outside:
            with pytest.raises(ValueError, match=rf"balancer\.{option} must be a number in {re.escape(interval)}"):
                BALANCERS.build(name, tasks=("a", "b"), **{option: value})


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in WHOLE for option in WHOLE[name]])
def test_whole_numbers(name, option):
    least = WHOLE[name][option]
    assert getattr(BALANCERS.build(name, tasks=("a", "b"), **{option: least}), option) == least
    with pytest.raises(ValueError, match=rf"balancer\.{option} must be a whole number >= {least}, got {least - 1}"):
        BALANCERS.build(name, tasks=("a", "b"), **{option: least - 1})


@pytest.mark.parametrize(("name", "option", "interval"), BY_TASK)
def test_numbers_by_task(name, option, interval):
    more = {"warmup_epochs": None} if name == "stch" else {}
    inside, outside = inside_and_outside(interval)
    for value in inside:
        BALANCERS.build(name, tasks=("a", "b"), **more, **{option: {"b": value}})
    for value in outside:
        with pytest.raises(ValueError, match=rf"balancer\.{option}\.b must be a number in {re.escape(interval)}"):
            BALANCERS.build(name, tasks=("a", "b"), **more, **{option: {"a": 1.0, "b": value}})
    with pytest.raises(ValueError, match=rf"balancer\.{option} names the task 'bb'\. Did you mean 'b'"):
        BALANCERS.build(name, tasks=("a", "b"), **more, **{option: {"bb": 1.0}})


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in CHOICES for option in CHOICES[name]])
def test_choices(name, option):
    with pytest.raises(ValueError, match=rf"balancer\.{option} cannot be '{CHOICES[name][option]}'\. .*Known: "):
        BALANCERS.build(name, tasks=("a", "b"), **{option: CHOICES[name][option]})


@pytest.mark.parametrize("option", ["preference", "ideal"])
def test_stch_takes_these_in_its_plain_form_only(option):
    with pytest.raises(ValueError, match=r"belong to the plain form, balancer\.warmup_epochs=null"):
        BALANCERS.build("stch", tasks=("a", "b"), warmup_epochs=0, **{option: {"a": 1.0}})


def test_what_is_no_number_at_all():
    with pytest.raises(ValueError, match=r"^lr must be a number in \[0, 1\], got much\.$"):
        check_number("lr", "much", "[0, 1]")
    with pytest.raises(ValueError, match=r"^steps must be a whole number >= 1, got 1\.5\.$"):
        check_whole_number("steps", 1.5, 1)
    with pytest.raises(ValueError, match=r"^form cannot be 'squar'\. Did you mean 'square'\? Known: round, square\.$"):
        check_choice("form", "squar", ("square", "round"))
    with pytest.raises(ValueError, match=r"^weights names the task 'c'\. Known: a, b\.$"):
        check_task_names("weights", ["a", "c"], ("b", "a"))
