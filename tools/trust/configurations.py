"""Mutated configurations: each is refused in one message, or means what was typed."""

import copy
import math
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf._utils import get_yaml_loader  # what makes numbers of 1e-3 in Hydra's files, too

from mtlkit.config.composition import compose, read_config
from mtlkit.config.schema import Config
from trust.result import HangsError, Result, guarded, misbehaved

EXPERIMENTS = ("scenes", "demo", "nyuv2", "cityscapes", "multimnist", "celeba")
#: Keys whose typed value has a short form or is added to others.
SHORT = ("defaults", "plugins", "preset", "output_dir")
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**12, 10**40, -(10**19),
    0.5, -0.5, 1e308, 1e-320, math.inf, -math.inf, math.nan),
    *("", " ", "0", "1e5", "true", "null", "nan", "adam", "???", "${seed}", "${nothing.here}", "${", "${seed",
    "$${seed}"),
    *("größe", "深度", "\u202egnp", "a\x00b", "\x1b[31m", "x" * 20_000, "../../etc", "/dev/null", "a b", "a: b", "-",
    "~"),
    *("uniform", "rotograd", "segmentation", "scenes", "test_resnet", "linear", "True", "1_000", "0x10", "1:30",
    "2026-01-01"),
    *([], [[]], [1], [1, 2], [1.5, "a"], ["a", "b"], [None], list(range(2000)), {}, {"name": "uniform"},
    {"a": {"b": {}}}),
    *({"": 1}, {1: 2}, {None: 1}, {True: 1}, {"name": None}, {"name": ["a"]}, {"type": "depth"}, {"a.b": 1},
    {"größe": 1}),
)  # fmt: skip


def run(folder: Path, seed: int, count: int) -> Result:
    """Mutates `count` files, many of them in two processes. Every third is an experiment, the others are of runs."""
    if count < 1000:
        return _some(folder, seed, range(count))
    result, half = Result(), count // 2
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        parts = (range(half), range(half, count))
        for found in pool.map(_some, (folder / "0", folder / "1"), (seed, seed), parts):
            result.outcomes += found.outcomes
            result.faults += found.faults
    return result


def _some(folder: Path, seed: int, numbers: range) -> Result:
    result, bases = Result(), [compose(name).to_dict() for name in EXPERIMENTS]
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        draw = random.Random(f"{seed} {number}")
        name, base = draw.choice(list(zip(EXPERIMENTS, bases, strict=True)))
        of_run = number % 3 > 0
        path = folder / ("config.yaml" if of_run else "mine.yaml")
        text = mutated(copy.deepcopy(base) if of_run else _experiment(name, base, draw), draw)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            with guarded():
                outcome, wrong = _look(path, of_run, folder)
        except HangsError as error:
            outcome, wrong = "", str(error)
        if wrong:
            kept = folder / "faults" / f"{number}.yaml"
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(path, kept)
            result.fault(f"configuration {number} ({kept}): {wrong}")
        else:
            result.outcomes[outcome] += 1
    return result


def _look(path: Path, of_run: bool, folder: Path) -> tuple[str, str]:
    """Returns what became of the file, and what is wrong with that."""
    try:
        config = read_config(path) if of_run else compose(str(path))
    except Exception as error:  # noqa: BLE001 (any other error than one for users is the fault that is looked for)
        return "refused", misbehaved(error)
    try:
        again = folder / "again"
        again.mkdir(exist_ok=True)
        config.save(again / "config.yaml")
        if read_config(again / "config.yaml") != config:
            return "", "its config.yaml is read as another configuration"
    except Exception as error:  # noqa: BLE001
        return "", f"its config.yaml is refused: {type(error).__name__}: {str(error)[:300]}"
    typed = yaml.load(path.read_text(encoding="utf-8"), Loader=get_yaml_loader())
    return "composed as typed", next(unlike(typed, config), "")


def unlike(typed: dict[str, Any], config: Config) -> Iterator[str]:
    """Yields the values that were typed and are others in the configuration, and numbers that no run can use."""
    found = config.to_dict()
    for path, value in _leaves({key: value for key, value in typed.items() if key not in SHORT}):
        if isinstance(value, str) and ("${" in value or not value):
            continue
        there = _at(found, path)
        if not _same(value, there):
            yield f"{'.'.join(map(str, path))} was typed as {value!r:.80} and is {there!r:.80}"
    for path, value in _leaves(found):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{'.'.join(map(str, path))} is {value}"


def _same(typed: Any, found: Any) -> bool:
    if isinstance(typed, str) and isinstance(found, dict):  # `encoder: lenet` is short for {name: lenet}
        return typed in found.values() or typed in found
    if isinstance(typed, list) and isinstance(found, list | tuple):
        return len(typed) == len(found) and all(map(_same, typed, found))
    if isinstance(typed, list) and isinstance(found, dict):  # task: [depth, normals]
        return list(found) == typed
    if isinstance(found, float) and type(typed) is int:
        return float(typed) == found
    return bool(typed == found) and type(typed) is type(found)


def _leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, (*path, key))
    elif not isinstance(values, dict):
        yield path, values


def _at(values: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return "absent"
        values = values[key]
    return values


def _experiment(name: str, base: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Returns an experiment that builds on another one, with a few of its settings again."""
    values: dict[str, Any] = {"defaults": [name]}
    for path, value in draw.sample([leaf for leaf in _leaves(base) if leaf[0][0] != "preset"], 8):
        place = values
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    values.pop("experiment", None)  # it is the mark of a run's own file
    return values


# Ways to mutate


def mutated(values: dict[str, Any], draw: random.Random) -> str:
    """Returns the values as YAML, with one to three mutations of the values or of the text."""
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        draw.choice(OF_VALUES)(values, draw)
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    if draw.random() < 0.3:
        text = draw.choice(OF_TEXT)(text, draw)
    return text


def _place(values: dict[str, Any], draw: random.Random) -> tuple[dict[Any, Any], Any]:
    """Returns a mapping in the values, at any depth, and one of its keys."""
    places = [(values, key) for key in values]
    for inner, key in places:  # it grows
        if isinstance(inner[key], dict):
            places += [(inner[key], below) for below in inner[key]]
    return draw.choice(places)


def other_value(values: dict[str, Any], draw: random.Random) -> None:
    inner, key = _place(values, draw)
    inner[key] = copy.deepcopy(draw.choice(HOSTILE))


def misspelt_key(values: dict[str, Any], draw: random.Random) -> None:
    inner, key = _place(values, draw)
    text = str(key) or "x"
    at = draw.randrange(len(text))
    new = draw.choice(
        [
            text[:at] + text[at + 1 :],
            text[:at] + text[at:][:2][::-1] + text[at + 2 :],
            text.upper(),
            f"{text}s",
            f" {text}",
        ]
    )
    inner[new] = inner.pop(key)


def lost_key(values: dict[str, Any], draw: random.Random) -> None:
    inner, key = _place(values, draw)
    if len(values) > 1:
        del inner[key]


def new_key(values: dict[str, Any], draw: random.Random) -> None:
    inner, _ = _place(values, draw)
    inner[
        draw.choice(
            ["x", "name", "type", 7, True, None, 1.5, "größe", "a.b", "_target_", "", "hydra", "decoder", "concat"]
        )
    ] = copy.deepcopy(draw.choice(HOSTILE))


def nested(values: dict[str, Any], draw: random.Random) -> None:
    inner, key = _place(values, draw)
    for _ in range(draw.choice([1, 2, 5, 50, 120])):
        inner[key] = draw.choice([[inner[key]], {"a": inner[key]}])


def swapped(values: dict[str, Any], draw: random.Random) -> None:
    (one, a), (other, b) = _place(values, draw), _place(values, draw)
    if not isinstance(one[a], dict) and not isinstance(other[b], dict):
        one[a], other[b] = other[b], one[a]


def huge_number(values: dict[str, Any], draw: random.Random) -> None:
    inner, key = _place(values, draw)
    inner[key] = draw.choice([-1, 1]) * draw.choice([10 ** draw.randrange(3, 300), 10.0 ** draw.randrange(-300, 300)])


def _line(text: str, draw: random.Random) -> tuple[list[str], int]:
    lines = text.splitlines(keepends=True)
    return lines, draw.randrange(len(lines))


def lost_text(text: str, draw: random.Random) -> str:
    start = draw.randrange(len(text))
    return text[:start] + text[start + draw.randrange(1, 40) :]


def typed_text(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text))
    return (
        text[:at]
        + draw.choice([*":#-?&*!|>%@`{}[]'\",\t\n \\", "\x00", "\u2028", "\ufeff", "é", "🙂", "\udcff", "<<: "])
        + text[at:]
    )


def twice(text: str, draw: random.Random) -> str:
    lines, at = _line(text, draw)
    return "".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])


def indented(text: str, draw: random.Random) -> str:
    lines, at = _line(text, draw)
    lines[at] = draw.choice([f"  {lines[at]}", f"\t{lines[at]}", lines[at].lstrip()])
    return "".join(lines)


def aliases(text: str, draw: random.Random) -> str:
    """Small text that stands for much: every line names the one before nine times."""
    depth = draw.choice([1, 2, 4, 9, 30])
    lines = ["bomb0: &b0 [1, 2]"]
    sign = draw.choice(["[{}]", "{{<<: [{}]}}"])
    if sign[0] == "{":
        lines[0] = "bomb0: &b0 {a: 1}"
    lines += [f"bomb{i}: &b{i} {sign.format(', '.join([f'*b{i - 1}'] * 9))}" for i in range(1, depth + 1)]
    return "\n".join([*lines, draw.choice([f"seed: *b{depth}", "a: 1"]), text])


def tags(text: str, draw: random.Random) -> str:
    tag = draw.choice(
        ["!!python/object/apply:os.getcwd []", "!!binary aGVsbG8=", "!!set {a, b}", "!!float 3", "!x y", "!!int x"]
    )
    lines, at = _line(text, draw)
    lines[at] = lines[at].partition(":")[0] + f": {tag}\n"
    return "".join(lines)


def loops(text: str, draw: random.Random) -> str:
    return f"loop: &l [*l]\n{text}" if draw.random() < 0.5 else text.replace(":", ": &a", 1) + "\nx: *a\n"


OF_VALUES: tuple[Callable[[dict[str, Any], random.Random], None], ...] = (
    *(other_value, other_value, other_value, misspelt_key, lost_key, new_key, nested, swapped, huge_number),
)
OF_TEXT = (lost_text, typed_text, twice, indented, aliases, tags, loops)
