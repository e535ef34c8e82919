"""The distance of every pixel."""

from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mtlkit.gradients import at_least_float32
from mtlkit.legend import Scale, stops
from mtlkit.metrics import Pooled, batch_means, check_shapes, collect
from mtlkit.options import check_owner
from mtlkit.task import TASKS, ErrorMap, Task
from mtlkit.typed import Positive, Share

MAP = ("B", 1, "H", "W")


@TASKS.register("depth")
class Depth(Task):
    """One positive number per pixel: depth, or disparity in any unit.

    Target: float32 (B, 1, H, W), > 0, 0 invalid. Output: (B, 1, H, W). Prediction: the output in the target's unit, not
    clipped. Nothing keeps a prediction above 0, except with `loss: silog`.

    Losses. Here e = output - target at a valid pixel. The output is the depth. Only for `silog` it is its logarithm.

    - `l1`: |e|.
    - `mse`: e².
    - `berhu`: |e| up to c and (e² + c²) / 2c beyond (Laina et al. 2016, arXiv 1606.00373). In the paper, c is a
      fifth of the batch's largest |e|. Then the loss of a batch is no sum over its parts, and it would change with the
      number of processes. Here c is fixed: `berhu_threshold`, in the target's unit, by default 0.5, a fifth of 2.5 m.
    - `silog`: the scale-invariant error (Eigen et al. 2014, arXiv 1406.2283), mean(d²) - lambda mean(d)² over the
      valid pixels of an image, d = output - log target, averaged over the images with valid pixels. `silog_lambda`
      is 0.5 by default, as in the paper. With 1, the scale of the prediction does not matter.

    Metrics, over all valid pixels of the split: `abs`, mean |e|, and `rmse`, both in the target's unit, and `rel`, mean
    |e| / target, a fraction. For these three, lower is better. `delta1` is the fraction with max(p / t, t / p) < 1.25.
    Higher is better, and it is the indicator. All of them measure the prediction as it is, also below 0, as the
    published code does. On disparity, where most targets are close to 0, a prediction that is clipped at 0 has about
    half the `rel`. With `compat: mtan`, each figure is the mean over the batches of an evaluation, as in most published
    tables on NYUv2 and Cityscapes (with `data.eval_batch_size` 2 and 8). Constant: the median depth, optimal for `abs`.
    Pictures: the colours "turbo" from 0 to `max_depth`, its first colour below 0, and black at 0, which means invalid.

    >>> task = Depth("depth", loss="berhu", berhu_threshold=1)
    >>> total, count = task.loss(torch.tensor([[[[2.0, 5.0, 7.0]]]]), torch.tensor([[[[1.5, 2.0, 0.0]]]]))
    >>> float(total), int(count)  # 0.5 and (9 + 1) / 2
    (5.5, 2)
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the task.

        Args:
            loss: the absolute error, the squared error, both joined (berhu), or the scale-invariant error
            berhu_threshold: the error from which `loss: berhu` is a square; null: 0.5
            silog_lambda: with 1, `loss: silog` ignores the scale of the prediction; null: 0.5
            max_depth: the depth with the last colour of a picture
            compat: `mtan`: each metric is the mean over the batches of an evaluation, as in most published tables
        """

        loss: Literal["l1", "mse", "berhu", "silog"] = "l1"
        berhu_threshold: Positive | None = None
        silog_lambda: Share | None = None
        max_depth: Positive = 10.0
        compat: Literal["mtan"] | None = None

        def __post_init__(self) -> None:
            check_owner(self, "loss", "berhu", "berhu_threshold")
            check_owner(self, "loss", "silog", "silog_lambda")

    dense = True
    learns = "depth"
    regression = True
    named = False
    out_channels = 1
    options: Options

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        check_shapes(f"task {self.name!r}", ("output", output, MAP, "float"), ("target", target, MAP, "float"))
        output = at_least_float32(output)
        valid = target > 0
        if self.options.loss == "silog":
            return self._silog(output, target, valid)
        error = torch.where(valid, output - target, 0)
        size, c = error.abs(), _or_half(self.options.berhu_threshold)
        if self.options.loss == "l1":
            losses = size
        elif self.options.loss == "mse":
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
        losses = variance + (1 - _or_half(self.options.silog_lambda)) * mean.square()
        return losses.sum(), (pixels > 0).sum(dtype=losses.dtype)

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        valid = target > 0
        return (valid & within_ratio(self.predict(output.detach()), target)).sum(), valid.sum()

    def predict(self, output: Tensor) -> Tensor:
        output = at_least_float32(output)
        return output.exp() if self.options.loss == "silog" else output  # not clipped, which would flatter `rel`

    def metrics(self) -> MetricCollection:
        metrics: dict[str, Metric] = {
            "abs": AbsoluteError(self.unit),
            "rel": RelativeError(),
            "rmse": RootMeanSquaredError(self.unit),
            "delta1": Delta1(),
        }
        return batch_means(metrics) if self.options.compat == "mtan" else collect(metrics)

    def constant(self, targets: Tensor) -> Tensor:
        valid = targets[targets > 0]
        if not len(valid):
            raise ValueError(f"The task {self.name!r} has no valid pixel in the targets: all depths are 0.")
        return valid.median().view(1, 1, 1, 1)

    def picture(self, value: Tensor) -> np.ndarray:
        depth = value[0].float().cpu().numpy()
        colours = matplotlib.colormaps["turbo"](depth / self.options.max_depth, bytes=True)[..., :3]
        return np.where(depth[..., None] != 0, colours, np.uint8(0))

    def legend(self) -> Scale:
        colours = stops(lambda share: matplotlib.colormaps["turbo"](share, bytes=True))
        return Scale(0, self.options.max_depth, colours, self.unit, "Black: no label.")

    def errors(self, prediction: Tensor, target: Tensor) -> ErrorMap:
        return ErrorMap(torch.where(target > 0, (prediction - target).abs(), torch.nan)[0], self.unit)


def _or_half(value: float | None) -> float:
    return 0.5 if value is None else value


def within_ratio(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns which depths are right up to a factor of 1.25."""
    return (prediction < 1.25 * target) & (target < 1.25 * prediction)


class Errors(Pooled):
    """Metrics of depth where the target t is > 0. The sums are of |e|, |e| / t, e², max(p / t, t / p) < 1.25, and 1."""

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
    """The fraction of pixels that are right up to a factor of 1.25."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return self.sums[3] / self.sums[4]
