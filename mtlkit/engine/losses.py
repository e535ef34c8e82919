"""The losses of a step: means over all processes, whose gradients are this process's share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mtlkit.contract import described
from mtlkit.errors import StepError
from mtlkit.sample_group import SampleGroup, of_all_ranks
from mtlkit.task import Task, no_loss

ROWS = ("", "rows")  # no task has this name
Losses = Mapping[str, tuple[Tensor, Tensor]]  # task -> (sum, count) on this process
Indicators = Mapping[str, tuple[Tensor, Tensor] | None]  # the same; None: the task has none
Key = TypeVar("Key", bound=Hashable)


class Unread(Protocol):
    """A number on the device that the host does not know yet."""

    value: Tensor

    def read(self, number: float) -> None:
        """Takes the number when it has come to the host."""


class NonFiniteError(StepError):
    """A loss or a gradient is not finite, so a step would ruin the model. It is raised before the optimizer moves."""


def loss_of(task: Task, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `task.loss(output, target)`. Raises `ValueError` unless it is two scalars, the first with a gradient.

    The gradient is needed only in training, and only if there is a valid label.
    """
    # Checked in every step: a plug-in's loss may fail only for some batches, and a sum of the wrong shape would
    # broadcast into a wrong number without a word.
    found: Any = task.loss(output, target)
    what = f"{type(task).__name__}.loss of task {task.name!r} must return (sum over the valid elements, their number)"
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ValueError(f"{what}, got {described(found)}. Return the sum and the number, not their quotient.")
    for value, word, example in zip(found, ("sum", "number"), ("errors.sum()", "valid.sum()"), strict=True):
        if not isinstance(value, Tensor) or value.shape != ():
            raise ValueError(f"{what}, two scalar tensors; the {word} is {described(value)}. Write {example}.")
    total, count = found
    if output.requires_grad and not total.requires_grad and bool(count > 0):
        raise ValueError(
            f"{what}. This sum has no gradient, so nothing would be learned: leave out `detach`, `item` and `no_grad`."
        )
    return total, count


def indicators_of(
    tasks: Mapping[str, Task], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Indicators:
    """Returns how well each task does on the samples of this process."""
    return {name: task.indicator(outputs[name], targets[name]) for name, task in tasks.items()}


def gradient_error(
    norm: float, number: int, tasks: Sequence[str], weights: Tensor | None, method: str
) -> NonFiniteError:
    """Returns the error for a gradient that is not finite although the losses are. It names a faulty balancer."""
    what = f"The gradient is {norm} at step {number}, although the losses of {', '.join(tasks)} are finite"
    if weights is not None and not bool(torch.isfinite(weights).all()):
        what += f": {method} gave the weights {', '.join(f'{w:g}' for w in weights.tolist())}"
    return NonFiniteError(f"{what}; the model was left as it was before this step.")


class FirstLosses:
    """Divides each loss by its mean over the first `steps` optimizer steps (0: losses are not divided).

    During these steps, a loss is divided by its mean so far. With `steps=1`, every normalised loss starts at exactly 1.
    From the step `again` on, the divisor is the mean over `steps` steps from there (None: it is never taken anew).

    >>> first = FirstLosses(steps=1, again=20)
    >>> [first.scale("depth", loss, number) for loss, number in ((4.0, 0), (3.0, 1), (2.0, 20), (1.0, 21))]
    [4.0, 4.0, 2.0, 2.0]
    """

    def __init__(self, steps: int = 0, again: int | None = None) -> None:
        self.steps = steps
        self.again = again
        self.sums: dict[str, list[float]] = {}  # name, or name@again from that step on -> [sum, number]

    def scale(self, name: str, loss: float, number: int) -> float:
        if self.steps == 0:
            return 1.0
        start, key = 0, name
        if self.again is not None and number >= self.again:
            start, key = self.again, f"{name}@{self.again}"
        if number < start + self.steps or key not in self.sums:  # a task may first appear later
            total, count = self.sums.get(key, [0.0, 0])
            self.sums[key] = [total + loss, count + 1]
        total, count = self.sums[key]
        return total / count if total > 0 else 1.0


class LossMeans:
    """The global means of one micro-batch's losses.

    One table brings all sums and counts to the host: the one time in a forward pass that it waits for the device.

    A mean's value is global while its gradient is this process's share, times the number of processes because DDP
    averages: any function of the means then has the gradient it would have in one process. So a mean's gradient is
    `factors` times that of this process's sum.

    Attributes:
        tasks: those with at least one valid label on any process; the order of all lists below.
        raw: task -> its mean loss as a number.
        values: (k,) the same, divided by the first losses, on the host.
        sums: this process's sums over the valid elements, differentiable, on the device.
        factors: (k,) the derivatives of the means by these sums, on the host.
        alike: whether all processes have the same number of `rows`.
        anchors: zeros that keep the decoders of absent tasks in the graph, as DDP expects of all.

    Raises:
        NonFiniteError: naming the task, on all processes alike.
    """

    def __init__(
        self,
        losses: Losses,
        outputs: Mapping[str, Tensor],
        first_losses: FirstLosses,
        number: int,
        samples: SampleGroup | None = None,
        *,
        rows: int | None = None,
        indicators: Indicators | None = None,
        unread: Sequence[Unread] = (),
    ) -> None:
        self.alike = True
        self.raw: dict[str, float] = {}
        self.sums: list[Tensor] = []
        self.anchors: list[Tensor] = []
        self._scales: list[float] = []
        self._number = number
        self._samples = samples = samples or SampleGroup()
        factors: list[float] = []
        # The names of tasks are texts, so those of the indicators cannot be taken for them.
        more: dict[Hashable, tuple[Tensor, Tensor]] = {}
        more |= {(name, "indicator"): pair for name, pair in (indicators or {}).items() if pair is not None}
        if rows is not None and samples.size > 1 and losses:
            # Who needs to know whether all have the same number asks here, where a sum over processes is read anyway.
            like = next(iter(losses.values()))[0].detach().double()
            more[ROWS] = torch.full_like(like, rows), torch.full_like(like, rows**2)
        totals = totals_of({**losses, **more}, samples, unread)
        if ROWS in totals:  # all are equal if the square of their sum is their number times the sum of their squares
            total, squares, _ = totals[ROWS]
            self.alike = total**2 == samples.size * squares
        found = {name: totals[name, "indicator"] for name in indicators or {} if (name, "indicator") in totals}
        self._indicators = {name: total / count for name, (total, count, _) in found.items() if count > 0}
        for name in losses:
            total, count, here = totals[name]
            # `count` is that of all processes, `here` that of this one: it may have none of the labels.
            mine = losses[name][0]
            if here == 0:  # a decoder without a gradient would leave DDP's sum waiting on the other processes
                mine = no_loss(outputs[name])[0]
            if count == 0:  # no label anywhere: the balancer must not see this task, but DDP must see its decoder
                self.anchors.append(mine)
                continue
            mean = total / count
            if not math.isfinite(mean):  # a global mean, so that all processes stop together and none waits for ever
                raise NonFiniteError(
                    f"The loss of task {name!r} is {mean} at step {number}; the model was left as it was before this "
                    f"step. A lower learning rate, a clipped gradient (trainer.clip_norm) or a look at the data may "
                    f"help."
                )
            self.raw[name] = mean
            scale = first_losses.scale(name, mean, number)
            # The value is the global mean. The gradient is that of this process's samples. DDP takes the mean of such
            # gradients over processes, so the factor `samples.size` makes it a sum.
            self._scales.append(scale)
            self.sums.append(mine)
            factors.append(samples.size / (count * scale))
        self.tasks = tuple(self.raw)
        # Half precision is too coarse for means. A model in float64 keeps it.
        dtype = torch.float64 if any(own.dtype == torch.float64 for own in self.sums) else torch.float32
        means = [mean / scale for mean, scale in zip(self.raw.values(), self._scales, strict=True)]
        self.values, self.factors = torch.tensor(means, dtype=dtype), torch.tensor(factors, dtype=dtype)

    def means(self) -> list[Tensor]:
        """Returns the differentiable means on the device, for methods that differentiate gradients once more."""
        pairs = zip(self.values.tolist(), self.sums, self.factors.tolist(), strict=True)
        return [of_all_ranks(value, own * factor) for value, own, factor in pairs]

    def after(self, losses: Losses) -> list[float]:
        """Returns the mean losses of the same batch after the model has moved."""
        totals = totals_of(losses, self._samples)
        for name in self.tasks:
            if not math.isfinite(totals[name][0]):
                raise NonFiniteError(
                    f"The loss of task {name!r} is no longer finite on the batch of step {self._number} after that "
                    f"step was made. A lower learning rate may help; the last checkpoint is not touched."
                )
        return [totals[n][0] / totals[n][1] / scale for n, scale in zip(self.tasks, self._scales, strict=True)]

    def indicators(self) -> list[float]:
        """Returns the mean indicators of the tasks; a task without an indicator gets exp(-loss)."""
        return [self._indicators.get(name, math.exp(-max(loss, 0.0))) for name, loss in self.raw.items()]


def totals_of(
    pairs: Mapping[Key, tuple[Tensor, Tensor]], samples: SampleGroup, unread: Sequence[Unread] = ()
) -> dict[Key, tuple[float, float, float]]:
    """Returns every (sum, count) over all processes, by one collective, and this process's own count.

    `unread` are numbers on the device that nobody has waited for yet: they come to the host in the same transfer.
    """
    if not pairs:
        return {}
    # One collective of 2K numbers, and one wait for the device. Float64, or a count above 2^24 pixels would be rounded.
    with torch.no_grad():
        here = torch.stack([_doubles([total for total, _ in pairs.values()]), _doubles([n for _, n in pairs.values()])])
    table = [samples.sum(here), here[1:]] + [one.value.double().expand(1, len(pairs)) for one in unread]
    total, count, own, *rest = torch.cat(table).tolist()
    for one, row in zip(unread, rest, strict=True):
        one.read(row[0])
    return dict(zip(pairs, zip(total, count, own, strict=True), strict=True))


def _doubles(values: Sequence[Tensor]) -> Tensor:
    # Numbers of one type are converted together: one operation, and not one per task.
    if len({value.dtype for value in values}) == 1:
        return torch.stack(list(values)).double()
    return torch.stack([value.double() for value in values])
