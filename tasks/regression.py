"""Numbers per image."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.gradients import at_least_float32
from mtlkit.metrics import Pooled, check_shapes, collect
from mtlkit.task import TASKS, Task

from .multilabel import bars


@TASKS.register("regression")
class Regression(Task):
    """C numbers per image, named by `classes`.

    Target: float32 (B, C), NaN unknown. Output and prediction: (B, C), in the target's unit.

    Losses, over known numbers, with e = output - target: `mse` is e², and `l1` is |e|.

    Metrics: `mse` and `mae`, averaged over the outputs that have known targets, lower is better; and `r2`,
    1 - sum e² / sum (target - mean target)², averaged over the outputs whose targets differ, higher is better.
    Constant: the mean, optimal for `mse`. Pictures: bars of length |v| / (1 + |v|), red below zero.

    >>> task = Regression("count", classes=("sum",))
    >>> total, count = task.loss(torch.tensor([[1.0], [5.0]]), torch.tensor([[3.0], [torch.nan]]))
    >>> float(total), int(count)
    (4.0, 1)
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the task.

        Args:
            loss: the squared or the absolute error
        """

        loss: Literal["mse", "l1"] = "mse"

    dense = False
    learns = "regression"
    regression = True
    named = True
    options: Options

    @property
    def out_channels(self) -> int:
        return len(self.classes)

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        axes = ("B", self.out_channels)
        check_shapes(f"task {self.name!r}", ("output", output, axes, "float"), ("target", target, axes, "float"))
        known = ~target.isnan()
        error = torch.where(known, at_least_float32(output) - target, 0)
        losses = error.abs() if self.options.loss == "l1" else error.square()
        return losses.sum(), known.sum(dtype=losses.dtype)

    def predict(self, output: Tensor) -> Tensor:
        return at_least_float32(output)

    def metrics(self) -> MetricCollection:
        outputs = len(self.classes)
        return collect(
            {"mse": MeanSquaredError(outputs), "mae": MeanAbsoluteError(outputs), "r2": R2Score(outputs)},
        )

    def constant(self, targets: Tensor) -> Tensor:
        if targets.isnan().all():
            raise ValueError(f"The task {self.name!r} has no known number in the targets: all are NaN.")
        return (
            targets.double().nanmean(0, keepdim=True).float().nan_to_num(0)
        )  # an output that is never known changes no figure

    def picture(self, value: Tensor) -> np.ndarray:
        return bars(self.classes, value, value / (1 + value.abs()))

    def numbers(self, value: Tensor) -> Tensor:
        return value


class Errors(Pooled):
    """Metrics of numbers (B, C), NaN unknown. They keep the sums of 1, |e|, e², target and target² of each output."""

    def __init__(self, outputs: int) -> None:
        super().__init__(5, outputs)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        axes = ("B", self.sums.shape[1])
        check_shapes("regression metrics", ("prediction", prediction, axes, "float"), ("target", target, axes, "float"))
        known = ~target.isnan()
        target = torch.where(known, target, 0).double()
        error = torch.where(known, prediction - target, 0)
        parts = torch.stack([known, error.abs(), error.square(), target, target.square()])
        self.sums = self.sums + parts.sum(1)


class MeanSquaredError(Errors):
    """The mean squared error, averaged over outputs."""

    higher_is_better = False

    def compute(self) -> Tensor:
        known, _, squares, _, _ = self.sums
        return (squares / known)[known > 0].mean()


class MeanAbsoluteError(Errors):
    """The mean absolute error, averaged over outputs."""

    higher_is_better = False

    def compute(self) -> Tensor:
        known, sizes, _, _, _ = self.sums
        return (sizes / known)[known > 0].mean()


class R2Score(Errors):
    """The share of the targets' variance that is explained, averaged over the outputs whose targets differ."""

    higher_is_better = True

    def compute(self) -> Tensor:
        known, _, residual, target, squares = self.sums
        spread = squares - target.square() / known
        differ = spread > 1e-12 * squares  # smaller differences are rounding errors of float64
        return (1 - residual / spread)[differ].mean()
