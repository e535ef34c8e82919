"""The common metrics of the tasks, pooled over a split, and checks of tensors.

Every metric here adds up over batches and processes. Its value is therefore the value on the whole split, for any batch
size. Macro figures average over the classes that have positives *in the targets*. The number of these classes depends
only on the split, so two methods are always averaged over the same classes. A metric with figures of single classes has
`per_class()`, see `Task.metrics`. A figure without any valid element is NaN.
Sums are kept in float64 (torch's MPS device has no float64: keep metrics on the CPU there).
Metrics of one base class have the same state, and a task names them as one compute group. (mtlkit never uses
torchmetrics' own search for groups: it also joins metrics that only agree by chance on the first batch.)
"""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


def check_shapes(what: str, *tensors: tuple[str, Tensor, tuple[int | str, ...], str]) -> None:
    """Raises `ValueError` unless each (role, tensor, shape, "float" or "int64") has that shape and type.

    A letter in a shape stands for any size. The same letter always stands for the same size.

    >>> check_shapes("loss", ("target", torch.zeros(2, 1, 4, 5), ("B", 1, "H", "W"), "float"))
    >>> check_shapes("loss", ("target", torch.zeros(2, 4, 5), ("B", 1, "H", "W"), "float"))
    Traceback (most recent call last):
    ValueError: The loss expected target (B, 1, H, W) float, found target (2, 4, 5) float32.
    """
    sizes: dict[str, int] = {}
    fits = True
    for _, tensor, shape, kind in tensors:
        fits &= tensor.is_floating_point() if kind == "float" else tensor.dtype == torch.int64
        fits &= tensor.ndim == len(shape) and all(
            size == (sizes.setdefault(want, size) if isinstance(want, str) else want)
            for want, size in zip(shape, tensor.shape, strict=True)
        )
    if not fits:
        expected = " and ".join(f"{role} ({', '.join(map(str, shape))}) {kind}" for role, _, shape, kind in tensors)
        found = " and ".join(
            f"{role} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for role, tensor, _, _ in tensors
        )
        raise ValueError(f"The {what} expected {expected}, found {found}.")


def check_values(what: str, valid: Tensor, values: Tensor, expected: str) -> None:
    """Raises `ValueError` with the first of the `values` that is not `valid`. This synchronises with the device."""
    if not valid.all():
        wrong = values[~valid]
        raise ValueError(f"The {what} expected {expected}, found {wrong[0].item()} ({len(wrong)} such values).")


def collect(*groups: dict[str, Metric]) -> MetricCollection:
    """Collects metrics under their names. Metrics of one group have the same base class and share its state.

    >>> collect({"miou": MeanIoU(3), "pixel_accuracy": Accuracy(3)}).compute_groups
    {0: ['miou', 'pixel_accuracy']}
    """
    every = {name: metric for group in groups for name, metric in group.items()}
    return MetricCollection(every, compute_groups=[list(group) for group in groups])  # type: ignore[arg-type]


class Pooled(Metric):
    """A metric whose state is one tensor of sums over all elements so far."""

    full_state_update = False
    unit = ""  #: of the figure: "m", "°", ...; empty for fractions, numbers and figures in the data set's own unit
    sums: Tensor

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")


class BatchMean(Pooled):
    """The mean over batches of a metric's value per batch. The number of elements in a batch does not matter.

    It depends on the batch size. Use it only to compare with tables that were made in this way. A batch on which the
    metric has no value does not count.
    """

    def __init__(self, metric: Metric) -> None:
        super().__init__(2)
        self.metric = metric
        self.unit = getattr(metric, "unit", "")
        self.metric.distributed_available_fn = _alone  # its value is for the batch of one process

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        return self.metric.higher_is_better

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.metric.reset()
        self.metric.update(prediction, target)
        value = self.metric.compute().double()
        self.sums = self.sums + torch.where(value.isfinite(), torch.stack([value, torch.ones_like(value)]), 0)

    def compute(self) -> Tensor:
        return self.sums[0] / self.sums[1]


def _alone() -> bool:
    return False


def batch_means(metrics: dict[str, Metric]) -> MetricCollection:
    """Returns the metrics as means over batches, under their names."""
    groups: list[dict[str, Metric]] = [{name: BatchMean(metric)} for name, metric in metrics.items()]
    return collect(*groups)


class Confusion(Pooled):
    """Metrics of class numbers: counts of (target, prediction) pairs. A target of -1 is ignored.

    The prediction is class numbers in the target's shape, or scores with one more axis, the classes, at position 1.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        if prediction.ndim == target.ndim + 1:
            prediction = prediction.argmax(1)
        classes, what = len(self.sums), f"metric {type(self).__name__}"
        axes = tuple(f"axis{i}" for i in range(target.ndim))
        check_shapes(what, ("prediction", prediction, axes, "int64"), ("target", target, axes, "int64"))
        valid = target != -1
        target, prediction = target[valid], prediction[valid]
        check_values(what, (target >= 0) & (target < classes), target, f"labels -1 to {classes - 1}")
        counts = torch.bincount(target * classes + prediction, minlength=classes * classes)
        self.sums = self.sums + counts.view(classes, classes)

    def confusion(self) -> Tensor:
        """Returns the counts (C, C) of targets (rows) by predictions (columns), int64."""
        return self.sums

    def shares(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns per class, in float64: the hits, the pixels in the target, the pixels in the prediction."""
        sums = self.sums.double()
        return sums.diagonal(), sums.sum(1), sums.sum(0)


class MeanIoU(Confusion):
    """Intersection over union, a fraction, averaged over the classes with a union (in targets or predictions)."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return _mean_of_known(self.per_class()["iou"])

    def per_class(self) -> dict[str, Tensor]:
        hits, present, predicted = self.shares()
        return {"iou": hits / (present + predicted - hits)}


class ClassesPresent(Confusion):
    """The number of classes over which the macro figures beside it are averaged."""

    higher_is_better = None

    def compute(self) -> Tensor:
        _, present, predicted = self.shares()
        return (present + predicted > 0).sum()


class Accuracy(Confusion):
    """The fraction of valid elements whose class is correct."""

    higher_is_better = True

    def compute(self) -> Tensor:
        hits, present, _ = self.shares()
        return hits.sum() / present.sum()

    def per_class(self) -> dict[str, Tensor]:
        hits, present, _ = self.shares()
        return {"accuracy": hits / present}


class MacroF1(Confusion):
    """F1 = 2 TP / (2 TP + FP + FN), a fraction, averaged over the classes in targets or predictions."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return _mean_of_known(self.per_class()["f1"])

    def per_class(self) -> dict[str, Tensor]:
        hits, present, predicted = self.shares()
        return {"f1": 2 * hits / (present + predicted)}


def _mean_of_known(values: Tensor) -> Tensor:
    return values[~values.isnan()].mean()  # NaN is 0 / 0: a class that is in neither targets nor predictions
