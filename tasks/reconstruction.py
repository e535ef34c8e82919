"""A picture: the image itself, or one that is hidden in it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.gradients import at_least_float32
from mtlkit.legend import Scale
from mtlkit.metrics import Pooled, check_shapes, collect
from mtlkit.task import TASKS, ErrorMap, Task
from mtlkit.typed import Positive, Share

MAP = ("B", "C", "H", "W")


@TASKS.register("reconstruction")
class Reconstruction(Task):
    """A picture of C channels, named by `classes`.

    Target: float32 (B, C, H, W) in [0, 1], NaN unknown. Output: standardised pictures (B, C, H, W). Prediction:
    output * `deviation` + `mean`, not clipped. By default both are the same: `mean` is 0 and `deviation` is 1.

    Losses, over known values (a value is one channel of a pixel), with e = output - (target - `mean`) / `deviation`:
    `mse` is e², and `l1` is |e|. The two options are those of the pictures' values (0.1307 and 0.3081 for MNIST). They
    change what a new decoder predicts (`mean`, not black), how far one step moves the prediction, and the weight of the
    task in a plain sum. Up to version 0.2, the output was the prediction and e was (output - target) / `deviation`.
    That is the same loss of the same prediction, but a new decoder then has another prediction and larger gradients.

    Metrics, over all known values of the split: `mse` and `mae`, lower is better; and `psnr` in dB, -10 log10 of the
    pooled `mse`, higher is better. Some papers give the mean of the PSNRs of single pictures, which is larger.
    Constant: the mean picture, optimal for `mse`. Pictures: three channels are drawn as red, green and blue. Of any
    other number of channels, the mean is drawn as grey. Black is unknown.

    >>> task = Reconstruction("ink", classes=("grey",))
    >>> total, count = task.loss(torch.tensor([[[[0.5, 1.0]]]]), torch.tensor([[[[1.0, torch.nan]]]]))
    >>> float(total), int(count)
    (0.25, 1)
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the task.

        Args:
            loss: the squared or the absolute error
            mean: the mean of the pictures' values; the prediction for an output of 0
            deviation: the standard deviation of the pictures' values; the prediction changes by it if the output
                changes by 1
        """

        loss: Literal["mse", "l1"] = "mse"
        mean: Share = 0.0
        deviation: Positive = 1.0

    dense = True
    learns = "reconstruction"
    regression = True
    named = True
    options: Options

    @property
    def out_channels(self) -> int:
        return len(self.classes)

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        axes = ("B", self.out_channels, "H", "W")
        check_shapes(f"task {self.name!r}", ("output", output, axes, "float"), ("target", target, axes, "float"))
        known = ~target.isnan()
        standardised = (target - self.options.mean) / self.options.deviation
        error = torch.where(known, at_least_float32(output) - standardised, 0)
        losses = error.abs() if self.options.loss == "l1" else error.square()
        return losses.sum(), known.sum(dtype=losses.dtype)

    def predict(self, output: Tensor) -> Tensor:
        return at_least_float32(output) * self.options.deviation + self.options.mean

    def metrics(self) -> MetricCollection:
        return collect({"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "psnr": PSNR()})

    def constant(self, targets: Tensor) -> Tensor:
        if targets.isnan().all():
            raise ValueError(f"The task {self.name!r} has no known value in the targets: all are NaN.")
        mean = targets.nanmean(0, keepdim=True, dtype=torch.float64)
        return torch.where(
            mean.isnan(), mean.nanmean(), mean
        ).float()  # a pixel that is never known gets the overall mean

    def picture(self, value: Tensor) -> np.ndarray:
        levels = value.float().cpu().nan_to_num(0).clamp(0, 1).numpy().transpose(1, 2, 0)
        if levels.shape[2] != 3:
            levels = levels.mean(2, keepdims=True).repeat(3, axis=2)
        return np.uint8(np.round(255 * levels))

    def legend(self) -> Scale | str:
        if len(self.classes) == 3:
            return "The picture's own colours. Black: also where nothing is known."
        of = "" if len(self.classes) == 1 else f"The mean of {len(self.classes)} channels. "
        return Scale(0, 1, ["#000000", "#ffffff"], note=f"{of}Black: also where nothing is known.")

    def errors(self, prediction: Tensor, target: Tensor) -> ErrorMap:
        return ErrorMap((prediction - target).abs().nanmean(0))


class Errors(Pooled):
    """Metrics of pictures (B, C, H, W), NaN unknown. They keep the sums of 1, |e| and e² over known values."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__(3)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        check_shapes(
            "reconstruction metrics", ("prediction", prediction, MAP, "float"), ("target", target, MAP, "float")
        )
        known = ~target.isnan()
        error = torch.where(known, prediction - target, 0).double()
        self.sums = self.sums + torch.stack([known.sum(dtype=torch.float64), error.abs().sum(), error.square().sum()])


class MeanSquaredError(Errors):
    """The mean squared error over all known values."""

    def compute(self) -> Tensor:
        return self.sums[2] / self.sums[0]


class MeanAbsoluteError(Errors):
    """The mean absolute error over all known values."""

    def compute(self) -> Tensor:
        return self.sums[1] / self.sums[0]


class PSNR(Errors):
    """The peak signal-to-noise ratio of values in [0, 1] in dB, from the mean squared error over all known ones."""

    higher_is_better = True
    unit = "dB"

    def compute(self) -> Tensor:
        return -10 * (self.sums[2] / self.sums[0]).log10()
