"""The distance of every pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mtlkit.metrics import (
    Pooled,
    at_least_float32,
    batch_means,
    check_no_names,
    check_number,
    check_owner,
    check_shapes,
    collect,
)
from mtlkit.option_checks import check_option
from mtlkit.task import TASKS, Task

MAP = ("B", 1, "H", "W")
SMALLEST = 1e-6  # of a prediction: no depth in any unit, but not the 0 that stands for none


@TASKS.register("depth")
class Depth(Task):
    """One positive number per pixel: depth, or disparity in any unit.

    Target: float32 (B, 1, H, W), > 0, 0 invalid. Output: (B, 1, H, W). Prediction: in the target's unit, >= 1e-6.

    Losses; e is output - target at a valid pixel, so that the output is the depth, but for `silog` its logarithm:

    - `l1`: |e|.
    - `mse`: e².
    - `berhu`: |e| up to c and (e² + c²) / 2c beyond (Laina et al. 2016, arXiv 1606.00373). The paper's c is a fifth
      of the batch's largest |e|; then the loss of a batch is no sum over its parts, and would change with the number
      of processes. Here c is fixed, `berhu_threshold` in the target's unit: 0.5 by default, a fifth of 2.5 m.
    - `silog`: the scale-invariant error (Eigen et al. 2014, arXiv 1406.2283), mean(d²) - lambda mean(d)² over the
      valid pixels of an image, d = output - log target; the mean is over the images that have any. `silog_lambda`
      is 0.5 by default, as in the paper; at 1 the scale of the prediction is free.

    Metrics, over all valid pixels of the split: `abs`, mean |e|, and `rmse`, in the target's unit; `rel`, mean |e| /
    target, a fraction; lower is better. `delta1`, the fraction with max(p / t, t / p) < 1.25; higher is better, and
    the indicator. `compat: mtan` gives the means of these figures over the batches of an evaluation instead, as most
    published tables on NYUv2 and Cityscapes have them (with `data.eval_batch_size` 2 and 8). Constant: the median
    depth, optimal for `abs`. Pictures: turbo from 0 to `max_depth` (10), black where invalid.

    >>> task = Depth("depth", loss="berhu", berhu_threshold=1)
    >>> total, count = task.loss(torch.tensor([[[[2.0, 5.0, 7.0]]]]), torch.tensor([[[[1.5, 2.0, 0.0]]]]))
    >>> float(total), int(count)  # 0.5 and (9 + 1) / 2
    (5.5, 2)
    """

    dense = True
    learns = "depth"
    regression = True
    out_channels = 1

    def __init__(
        self,
        name: str,
        classes: Sequence[str] = (),
        decoder: Mapping[str, Any] | str = "conv",
        loss: str = "l1",
        berhu_threshold: float | None = None,
        silog_lambda: float | None = None,
        max_depth: float = 10.0,
        compat: str | None = None,
    ) -> None:
        super().__init__(name, tuple(classes), decoder)
        what = f"task {name!r}"
        check_no_names(self)
        check_option(what, "loss", loss, ("l1", "mse", "berhu", "silog"))
        check_owner(what, loss, "berhu", berhu_threshold=berhu_threshold)
        check_owner(what, loss, "silog", silog_lambda=silog_lambda)
        if compat is not None:
            check_option(what, "compat", compat, ("mtan",))
        self.compat = compat
        self.loss_name = loss
        self.berhu_threshold = 0.5 if berhu_threshold is None else berhu_threshold
        self.silog_lambda = 0.5 if silog_lambda is None else silog_lambda
        self.max_depth = max_depth
        check_number(what, "berhu_threshold", self.berhu_threshold, lambda v: v > 0, "> 0")
        check_number(what, "silog_lambda", self.silog_lambda, lambda v: 0 <= v <= 1, "in [0, 1]")
        check_number(what, "max_depth", max_depth, lambda v: v > 0, "> 0")

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        check_shapes(f"task {self.name!r}", ("output", output, MAP, "float"), ("target", target, MAP, "float"))
        output = at_least_float32(output)
        valid = target > 0
        if self.loss_name == "silog":
            return self._silog(output, target, valid)
        error = torch.where(valid, output - target, 0)
        size, c = error.abs(), self.berhu_threshold
        if self.loss_name == "l1":
            losses = size
        elif self.loss_name == "mse":
            losses = error.square()
        else:
            losses = torch.where(size <= c, size, (error.square() + c**2) / (2 * c))
        return losses.sum(), valid.sum(dtype=losses.dtype)

    def _silog(self, output: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        logs = torch.where(valid, target, 1).log()
        d, mask = torch.where(valid, output - logs, 0).flatten(1), valid.flatten(1)
        pixels = mask.sum(1, keepdim=True)
        mean = d.sum(1, keepdim=True) / pixels.clamp_min(1)
        variance = torch.where(mask, d - mean, 0).square().sum(1, keepdim=True) / pixels.clamp_min(1)
        losses = variance + (1 - self.silog_lambda) * mean.square()
        return losses.sum(), (pixels > 0).sum(dtype=losses.dtype)

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        valid = target > 0
        return (valid & within_ratio(self.predict(output.detach()), target)).sum(), valid.sum()

    def predict(self, output: Tensor) -> Tensor:
        output = at_least_float32(output)
        return (output.exp() if self.loss_name == "silog" else output).clamp_min(SMALLEST)

    def metrics(self) -> MetricCollection:
        metrics: dict[str, Metric] = {
            "abs": AbsoluteError(self.unit),
            "rel": RelativeError(),
            "rmse": RootMeanSquaredError(self.unit),
            "delta1": Delta1(),
        }
        return batch_means(metrics) if self.compat == "mtan" else collect(metrics)

    def constant(self, targets: Tensor) -> Tensor:
        valid = targets[targets > 0]
        if not len(valid):
            raise ValueError(f"The task {self.name!r} has no valid pixel in the targets: all depths are 0.")
        return valid.median().view(1, 1, 1, 1)

    def picture(self, value: Tensor) -> np.ndarray:
        depth = value[0].float().cpu().numpy()
        colours = matplotlib.colormaps["turbo"](depth / self.max_depth, bytes=True)[..., :3]
        return np.where(depth[..., None] > 0, colours, np.uint8(0))


def within_ratio(prediction: Tensor, target: Tensor) -> Tensor:
    """Which depths are right to a factor of 1.25."""
    return (prediction < 1.25 * target) & (target < 1.25 * prediction)


class Errors(Pooled):
    """Metrics of depth where the target t is > 0: sums of |e|, |e| / t, e², max(p / t, t / p) < 1.25, and 1."""

    higher_is_better = False

    def __init__(self, unit: str = "") -> None:
        super().__init__(5)
        self.unit = unit

    def update(self, prediction: Tensor, target: Tensor) -> None:
        check_shapes("depth metrics", ("prediction", prediction, MAP, "float"), ("target", target, MAP, "float"))
        valid = target > 0
        prediction, target = prediction[valid], target[valid]
        error = (prediction - target).abs()
        parts = (error, error / target, error.double().square(), within_ratio(prediction, target), valid)
        self.sums = self.sums + torch.stack([part.sum(dtype=torch.float64) for part in parts])


class AbsoluteError(Errors):
    """The mean absolute error, in the target's unit."""

    def compute(self) -> Tensor:
        return self.sums[0] / self.sums[4]


class RelativeError(Errors):
    """The mean of |e| / target, a fraction."""

    def compute(self) -> Tensor:
        return self.sums[1] / self.sums[4]


class RootMeanSquaredError(Errors):
    """The root of the mean squared error over all pixels (not of one image), in the target's unit."""

    def compute(self) -> Tensor:
        return (self.sums[2] / self.sums[4]).sqrt()


class Delta1(Errors):
    """The fraction of pixels that are right to a factor of 1.25."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return self.sums[3] / self.sums[4]
