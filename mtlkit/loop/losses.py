"""The losses that a loop hands over: means, or pairs of a sum and the number of elements in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlkit.balancer import Balancer
from mtlkit.contract import described
from mtlkit.engine.losses import Indicators, Losses, totals_of
from mtlkit.gradients import at_least_float32
from mtlkit.network import Features
from mtlkit.registry import suggest
from mtlkit.sample_group import SampleGroup
from mtlkit.step import Step

LossOf = Tensor | tuple[Tensor, Tensor | float]
Again = Callable[[], Mapping[str, LossOf]]


def pairs_of(losses: Mapping[str, LossOf], tasks: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns (sum, count) for each given task, in the order of `tasks`. A mean counts as the sum of one element.

    Raises:
        ValueError: the losses are no mapping, a name is no task, or a loss is neither a scalar nor such a pair.
    """
    if not isinstance(losses, Mapping):
        raise ValueError(f"The losses must be a mapping from task to loss, got {described(losses)}.")
    for name in losses:
        if name not in tasks:
            raise ValueError(f"There is a loss of {name!r}, which is no task. {suggest(str(name), tasks)}")
    return {name: _pair(name, losses[name]) for name in tasks if name in losses}


def _parts(value: Any) -> tuple[Any, Any]:
    """Returns a pair as it is; a mean counts as the sum of one element."""
    return (value[0], value[1]) if isinstance(value, tuple | list) and len(value) == 2 else (value, 1.0)


def _pair(name: str, loss: Any) -> tuple[Tensor, Tensor]:
    what = f"The loss of task {name!r} must be a scalar tensor, or a pair (sum over the valid elements, their number)"
    total, count = _parts(loss)
    if not isinstance(total, Tensor) or total.shape != ():
        raise ValueError(f"{what}, got {described(total)}. Take .mean(), or (.sum(), number).")
    if not total.is_floating_point():
        raise ValueError(f"{what}, got a tensor of {total.dtype}.")
    if not isinstance(count, Tensor):
        # `torch.tensor` would copy it to the device, and wait for that.
        count = total.detach().new_full((), float(count), dtype=torch.float64)
    if count.shape != () or count.is_complex():
        raise ValueError(f"{what}; the number is {described(count)}. Write valid.sum().")
    if count.requires_grad:
        raise ValueError(f"{what}; the number has a gradient. Was it the sum, and the sum the number?")
    return at_least_float32(total), count.to(total.device)


def plain_sum(pairs: Losses, recorded: bool, samples: SampleGroup) -> Tensor:
    """Returns the sum of the mean losses over all processes, for an evaluation.

    Raises `ValueError` if the features were `recorded` with gradients: then the loss was meant to have one.
    """
    if recorded:
        raise ValueError(
            "balanced(features) ran with gradients, but balanced.loss(...) runs without, under torch.no_grad(). Call "
            "both in the same way: with gradients to train, and without to evaluate."
        )
    means = [total / count for total, count, _ in totals_of(pairs, samples).values() if count > 0]
    device = next((total.device for total, _ in pairs.values()), torch.device("cpu"))
    return torch.tensor(math.fsum(means), device=device)


def completed(
    pairs: Losses, aliases: Mapping[str, Features], everywhere: bool
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Returns the pairs of all tasks, and for each a tensor that a loss without labels can stay connected to.

    All processes send a row for every task, whether or not they have its loss. The backward pass must reach the
    features on all of them, for they wait for each other there: also where this process has no loss at all. With
    `everywhere`, the loss of each task must depend on its features.
    """
    dtypes = [total.dtype for total, _ in pairs.values()]
    widest = torch.float64 if torch.float64 in dtypes else torch.float32
    found: dict[str, tuple[Tensor, Tensor]] = {}
    outputs: dict[str, Tensor] = {}
    reached = any(total.requires_grad for total, _ in pairs.values())
    for name, levels in aliases.items():
        if name in pairs:
            total, count = pairs[name]
            found[name] = total.to(widest), count
            connected = total.requires_grad
        else:
            like = levels[0].detach()
            found[name] = like.new_zeros((), dtype=widest), like.new_zeros((), dtype=torch.float64)
            connected, reached = reached and not everywhere, True
        outputs[name] = found[name][0] if connected else _first_number(levels).to(widest)
    devices = {str(total.device) for total, _ in found.values()}
    if len(devices) > 1:
        where = ", ".join(f"{name} on {total.device}" for name, (total, _) in found.items())
        raise ValueError(f"The losses and the features must be on one device, got {where}.")
    return found, outputs


def _first_number(levels: Features) -> Tensor:
    level = next(level for level in levels if level.requires_grad)
    return level[(slice(1),) * level.dim()]  # `flatten` would copy channels that are not second in memory


def nothing(pairs: Losses) -> tuple[Tensor, Tensor]:
    """Returns the loss of a task that has no labels."""
    like = next((total for total, _ in pairs.values()), torch.zeros(()))
    return like.new_zeros(()), like.new_zeros(())


def check_extras(balancer: Balancer, again: Again | None, indicators: Mapping[str, Any] | None) -> None:
    """Raises `ValueError` if the method needs more than losses and did not get it, or got what it does not need."""
    name = type(balancer).__name__
    if "second_forward" in balancer.needs and again is None:
        raise ValueError(
            f"{name} looks at the losses of the same batch once more when the model has moved. Pass a function that "
            f"returns them: balanced.loss(losses, again=lambda: losses_of(batch))."
        )
    if "indicators" in balancer.needs and indicators is None:
        raise ValueError(
            f"{name} needs to know how well each task does on the batch. Pass balanced.loss(losses, indicators={{task: "
            f"share of right answers}}), with numbers in [0, 1]. A task that is left out gets exp(-loss)."
        )
    for argument, value, need in (("again", again, "second_forward"), ("indicators", indicators, "indicators")):
        if value is not None and need not in balancer.needs:
            raise ValueError(f"{name} does not use {argument}=. Leave it out.")


def indicator_pairs(
    indicators: Mapping[str, Any] | None, tasks: Sequence[str], device: torch.device, samples: SampleGroup
) -> Indicators | None:
    """Returns (sum, count) of each task's indicator; None: this loop has none for it, on any process, or none at all.

    Raises `ValueError` for an indicator of something that is no task.
    """
    if indicators is None:
        return None
    nothing = torch.zeros((), device=device)
    for name in indicators:
        if name not in tasks:
            raise ValueError(f"There is an indicator of {name!r}, which is no task. {suggest(str(name), tasks)}")
    given: dict[str, tuple[Tensor, Tensor] | None] = {}
    for name in tasks:
        value = indicators.get(name)
        if value is None:
            # Several processes send one row for each task: another one may know this indicator.
            given[name] = (nothing, nothing) if samples.size > 1 else None
            continue
        given[name] = tuple(torch.as_tensor(x).detach().to(device) for x in _parts(value))  # type: ignore[assignment]
    return given


def check_indicators(step: Step, told: Mapping[str, Any] | None) -> None:
    """Raises `ValueError` if one of the indicators of a loop (the mean over all processes) is not in [0, 1]."""
    for name, value in zip(step.tasks, step.indicators.tolist(), strict=True) if told is not None else ():
        if not 0 <= value <= 1:
            raise ValueError(f"The indicator of task {name!r} is {value:g}. It must be in [0, 1].")
