"""The losses of a step: global means whose gradients are this process's share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mtlkit.distributed import sum_over_ranks, world_size
from mtlkit.normalization import FirstLosses
from mtlkit.task import no_loss

Losses = Mapping[str, tuple[Tensor, Tensor]]  # task -> (sum, count) on this process


class NonFiniteError(RuntimeError):
    """A loss or a gradient is not finite: going on would ruin the model. Raised before the optimizer moves."""


class LossMeans:
    """The global means of one micro-batch's losses.

    A mean's value is global while its gradient is this process's share, times the number of processes because DDP
    averages: any function of the means then has the gradient it would have in one process.

    Attributes:
        tasks: those with at least one valid label on any process; the order of all lists below.
        raw: task -> its mean loss as a number.
        means: the same, divided by the first losses and differentiable.
        anchors: zeros that keep the decoders of absent tasks in the graph, as DDP expects of all.

    Raises:
        NonFiniteError: naming the task, on all processes alike.
        ValueError: for a loss in a wrong form.
    """

    def __init__(self, losses: Losses, outputs: Mapping[str, Tensor], first_losses: FirstLosses, number: int) -> None:
        for name, pair in losses.items():
            if len(pair) != 2 or any(value.shape != () for value in pair):
                raise ValueError(f"The loss of task {name!r} must be two scalars (sum, count), got {pair}.")
        self.raw: dict[str, float] = {}
        self.means: list[Tensor] = []
        self.anchors: list[Tensor] = []
        self._scales: list[float] = []
        self._number = number
        for name, (total, count) in totals_of(losses).items():
            mine, local_count = losses[name]
            if local_count == 0:  # the decoder must run backwards on every process, but with no gradient
                mine = no_loss(outputs[name])[0]
            if count == 0:
                self.anchors.append(mine)
                continue
            mean = total / count
            if not math.isfinite(mean):
                raise NonFiniteError(
                    f"The loss of task {name!r} is {mean} at step {number}; the model was left as it was before "
                    f"this step. A lower learning rate, trainer.clip_norm or a look at the data may help."
                )
            self.raw[name] = mean
            scale = first_losses.scale(name, mean, number)
            local = mine * (world_size() / (count * scale))
            self._scales.append(scale)
            self.means.append(local + (mean / scale - local).detach())
        self.tasks = tuple(self.raw)

    def after(self, losses: Losses) -> list[float]:
        """The means of the same batch's losses when the model has moved."""
        totals = totals_of(losses)
        for name in self.tasks:
            if not math.isfinite(totals[name][0]):
                raise NonFiniteError(
                    f"The loss of task {name!r} is no longer finite on the batch of step {self._number} after that "
                    f"step was made. A lower learning rate may help; the last checkpoint is not touched."
                )
        return [totals[n][0] / totals[n][1] / scale for n, scale in zip(self.tasks, self._scales, strict=True)]

    def indicators(self, pairs: Mapping[str, tuple[Tensor, Tensor] | None]) -> list[float]:
        """The means of the tasks' indicators; exp(-loss) stands for that of a task that has none."""
        totals = totals_of({name: pair for name, pair in pairs.items() if pair is not None})
        means = {name: total / count for name, (total, count) in totals.items() if count > 0}
        return [means.get(name, math.exp(-max(loss, 0.0))) for name, loss in self.raw.items()]


def totals_of(pairs: Losses) -> dict[str, tuple[float, float]]:
    """The (sum, count) of every task over all processes, in one collective."""
    if not pairs:
        return {}
    table = [torch.stack([total.detach().double(), count.double()]) for total, count in pairs.values()]
    rows = sum_over_ranks(torch.stack(table)).tolist()
    return {name: (total, count) for name, (total, count) in zip(pairs, rows, strict=True)}
