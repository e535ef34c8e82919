"""The direction of the surface at every pixel."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from mtlkit.gradients import at_least_float32
from mtlkit.metrics import Pooled, batch_means, check_shapes, collect
from mtlkit.task import TASKS, ErrorMap, Task

MAP = ("B", 3, "H", "W")
BINS = 1000  # per degree, in the histogram of angles


@TASKS.register("normals")
class Normals(Task):
    """The unit normal of the surface at every pixel.

    Target: float32 (B, 3, H, W), unit, x right, y down, z forward, facing the camera. A pixel is valid where
    |n|² > 0.25, so (0, 0, 0) is invalid. Output: any vector (B, 3, H, W). Prediction: unit vectors.

    Losses, over valid pixels. Here b is the target scaled to length 1, and a = output / sqrt(|output|² + 1e-6), which
    has a finite slope at an output of zero.

    - `cosine`: 1 - a.b, in [0, 2].
    - `l1`: the mean over the three components of |a - b|.
    - `mse`: the mean over the three components of (a - b)².

    Metrics, over all valid pixels of the split: `mean` and `median` of the angle between prediction and target in
    degrees, lower is better. `within_11`, `within_22` and `within_30` are the fractions of angles below 11.25, 22.5 and
    30 degrees, higher is better. With `compat: mtan`, each figure is the mean over the batches of an evaluation, as in
    most published tables on NYUv2. `median` is then the mean of the batches' medians. And in the loss, b is the target
    as it is, valid where the sum of its components is not 0: the augmentation of that code makes normals shorter, and
    they then count less. One difference is left. In the metrics, that code does not scale targets to unit length, so a
    shorter target gives a larger angle. Data sets have unit normals here, and `mtlkit data show` says how many of
    MTAN's own have another length.

    `compat: cosreg` adds the mean of 1 - |cos| of CosReg (arXiv 1912.06844), lower is better, in two encodings.
    `abs_cos_unit` is that of the normals themselves. `abs_cos_01` is that of (n + 1) / 2, which most likely gave its
    published figures. A wrong sign does not change |cos|.

    Indicator: `within_30`, because early in training hardly any angle is below 11.25 degrees. Constant: the mean
    direction, optimal for `cosine` and `mse`. Pictures: red is right, green is up, blue is towards the camera, and
    black is invalid.

    >>> task = Normals("normals")
    >>> up = torch.tensor([0.0, -1.0, 0.0]).view(1, 3, 1, 1)
    >>> total, count = task.loss(-5 * up, up)
    >>> round(float(total), 4), int(count)
    (2.0, 1)
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the task.

        Args:
            loss: 1 - cosine of the angle, or the mean error of the three components
            compat: `mtan` and `cosreg`: metrics as in these published codes
        """

        loss: Literal["cosine", "l1", "mse"] = "cosine"
        compat: Literal["mtan", "cosreg"] | None = None

    dense = True
    learns = "normals"
    regression = True
    named = False
    out_channels = 3
    options: Options

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        check_shapes(f"task {self.name!r}", ("output", output, MAP, "float"), ("target", target, MAP, "float"))
        published = self.options.compat == "mtan"
        valid = target.sum(1, keepdim=True) != 0 if published else target.square().sum(1, keepdim=True) > 0.25
        output = torch.where(valid, at_least_float32(output), 0)
        a = output * (output.square().sum(1, keepdim=True) + 1e-6).rsqrt()
        b = torch.where(valid, target, 0)
        b = b if published else F.normalize(b, dim=1)
        if self.options.loss == "cosine":
            losses = 1 - (a * b).sum(1, keepdim=True)
        else:
            error = a - b
            losses = (error.abs() if self.options.loss == "l1" else error.square()).mean(1, keepdim=True)
        return torch.where(valid, losses, 0).sum(), valid.sum(dtype=losses.dtype)

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        valid = target.square().sum(1) > 0.25
        cosines = (self.predict(output.detach()) * F.normalize(target, dim=1)).sum(1)
        return (valid & (cosines > math.cos(math.radians(30)))).sum(), valid.sum()

    def predict(self, output: Tensor) -> Tensor:
        return _unit(at_least_float32(output))

    def metrics(self) -> MetricCollection:
        within = {f"within_{int(limit)}": WithinAngle(limit) for limit in (11.25, 22.5, 30.0)}
        angles: dict[str, Metric] = {"mean": MeanAngle(), "median": MedianAngle(), **within}
        if self.options.compat == "mtan":
            return batch_means(angles)
        cosines: dict[str, Metric] = {"abs_cos_unit": AbsoluteCosine(), "abs_cos_01": AbsoluteCosine01()}
        return collect(angles, cosines) if self.options.compat == "cosreg" else collect(angles)

    def constant(self, targets: Tensor) -> Tensor:
        valid = targets.square().sum(1) > 0.25
        if not valid.any():
            raise ValueError(f"The task {self.name!r} has no valid pixel in the targets: all normals are (0, 0, 0).")
        directions = F.normalize(targets.movedim(1, -1)[valid], dim=1)
        return _unit(directions.sum(0, dtype=torch.float64).float().view(1, 3, 1, 1))

    def picture(self, value: Tensor) -> np.ndarray:
        normals = value.float().nan_to_num(0, 0, 0).cpu()
        colours = np.zeros((*normals.shape[1:], 3), np.uint8)
        valid = (torch.einsum("chw,chw->hw", normals, normals) > 0.25).numpy()
        for channel, half in enumerate((0.5, -0.5, -0.5)):  # one at a time: a photo has 12 million pixels
            levels = np.round(255 * np.clip(normals[channel].numpy() * np.float64(half) + 0.5, 0, 1))
            colours[..., channel] = np.where(valid, levels, 0)
        return colours

    def legend(self) -> str:
        return "Red: to the right. Green: up. Blue: towards the camera. Black: no label."

    def errors(self, prediction: Tensor, target: Tensor) -> ErrorMap:
        angles = _angles(prediction.movedim(0, -1).double(), target.movedim(0, -1).double())
        return ErrorMap(torch.where(target.square().sum(0) > 0.25, angles, torch.nan), "°")


def _unit(vectors: Tensor) -> Tensor:
    """Returns unit vectors along axis 1. A vector without direction becomes (0, 0, -1), which faces the camera."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    camera = vectors.new_tensor([0, 0, -1]).view(3, 1, 1)
    return torch.where(length < 1e-12, camera, vectors / length.clamp_min(1e-12))


def _angles(a: Tensor, b: Tensor) -> Tensor:
    """Returns the angles in degrees between vectors (..., 3); NaN where one of them has no direction."""
    cross, dot = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1), (a * b).sum(-1)
    return torch.where((cross == 0) & (dot == 0), torch.nan, torch.atan2(cross, dot).rad2deg())


class Angles(Pooled):
    """Metrics of the angle between directions (B, 3, H, W), in degrees, where the target's |n|² > 0.25.

    The angle is atan2(|a x b|, a.b). It is exact near 0 and 180 degrees, where arccos is not. The state is the exact
    sum and a histogram in bins of 0.001 degrees, so that the pooled median needs no list of all pixels. A prediction
    that is zero or not finite has no angle: every figure is then NaN.
    """

    total: Tensor

    def __init__(self) -> None:
        super().__init__(180 * BINS + 2, dtype=torch.int64)  # the last two bins: exactly 180, and no angle
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        check_shapes("normals metrics", ("prediction", prediction, MAP, "float"), ("target", target, MAP, "float"))
        valid = target.square().sum(1) > 0.25
        angles = _angles(*(x.movedim(1, -1)[valid].double() for x in (prediction, target)))
        bins = (angles * BINS).nan_to_num(180 * BINS + 1).long()
        self.sums = self.sums + torch.bincount(bins, minlength=len(self.sums))
        self.total = self.total + angles.sum()


class MeanAngle(Angles):
    """The mean angle in degrees."""

    higher_is_better = False
    unit = "°"

    def compute(self) -> Tensor:
        return self.total / self.sums.sum()


class MedianAngle(Angles):
    """The median angle in degrees, up to 0.0005. Of an even number of angles, it is the mean of the middle two."""

    higher_is_better = False
    unit = "°"

    def compute(self) -> Tensor:
        upto, count = self.sums.cumsum(0), self.sums.sum()
        middle = torch.stack([(count + 1) // 2, count // 2 + 1])  # how many angles lie at or below each
        bins = torch.searchsorted(upto, middle).double()
        median = ((bins + 0.5) / BINS).clamp(max=180).mean()
        return median + 0 * self.total / count  # NaN where there is none, or where one is no angle


class WithinAngle(Angles):
    """The fraction of angles below a limit in degrees, a multiple of 0.001."""

    higher_is_better = True

    def __init__(self, degrees: float) -> None:
        super().__init__()
        self.limit = round(degrees * BINS)

    def compute(self) -> Tensor:
        count = self.sums.sum().double()
        return self.sums[: self.limit].sum() / count + 0 * self.total / count


class Cosines(Pooled):
    """Metrics of 1 - |cos| between directions (B, 3, H, W), where the target's |n|² > 0.25, in both encodings.

    A prediction that is zero or not finite has no direction: every figure is then NaN.
    """

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__(3)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        check_shapes("normals metrics", ("prediction", prediction, MAP, "float"), ("target", target, MAP, "float"))
        valid = target.square().sum(1) > 0.25
        a, b = (x.movedim(1, -1)[valid].double() for x in (prediction, target))
        a, b = (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (a, b))
        plain, shifted = (
            (1 - torch.cosine_similarity(x, y, dim=-1).abs()).sum() for x, y in ((a, b), ((a + 1) / 2, (b + 1) / 2))
        )
        self.sums = self.sums + torch.stack([plain, shifted, valid.sum()])


class AbsoluteCosine(Cosines):
    """The mean of 1 - |cos| between unit normals."""

    def compute(self) -> Tensor:
        return self.sums[0] / self.sums[2]


class AbsoluteCosine01(Cosines):
    """The mean of 1 - |cos| between normals encoded as colours, (n + 1) / 2."""

    def compute(self) -> Tensor:
        return self.sums[1] / self.sums[2]
