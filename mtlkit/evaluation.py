"""Pooled metrics of a model, or of constant predictions, over a split."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.distributed import sum_over_ranks
from mtlkit.registry import suggest
from mtlkit.task import Task

Outputs = Mapping[str, Tensor]
Targets = dict[str, Tensor]


@torch.no_grad()
def evaluate(
    batches: Iterable[Any],
    tasks: Mapping[str, Task],
    prepare: Callable[[Any], tuple[Tensor, Targets]],
    forward: Callable[[Tensor, Targets], Outputs],
) -> dict[str, float | None]:
    """Losses and metrics over all samples of all processes, each of which passes its own share.

    Args:
        prepare: batch -> image and targets on the device.
        forward: image, targets -> outputs of the decoders.

    Returns:
        `loss/<task>` and `<task>/<metric>`; None where no label was valid or the figure is not finite.
    """
    metrics: dict[str, MetricCollection] = {}
    sums: dict[str, Tensor] = {}
    for batch in batches:
        image, targets = prepare(batch)
        outputs = forward(image, targets)
        for name, task in tasks.items():
            if name not in metrics:
                metrics[name] = task.metrics().to(image.device)
                sums[name] = torch.zeros(2, dtype=torch.float64, device=image.device)
            total, count = task.loss(outputs[name], targets[name])
            sums[name] += torch.stack([total.double(), count.double()])
            metrics[name].update(task.predict(outputs[name]), targets[name])
    found: dict[str, float | None] = {}
    for name in tasks:
        total, count = sum_over_ranks(sums[name]).tolist()
        found[f"loss/{name}"] = _finite(total / count) if count else None
        found |= {f"{name}/{key}": _finite(float(value)) for key, value in metrics[name].compute().items()}
    return found


@torch.no_grad()
def evaluate_constants(
    batches: Iterable[Any],
    tasks: Mapping[str, Task],
    prepare: Callable[[Any], tuple[Tensor, Targets]],
    constants: Mapping[str, Tensor],
) -> dict[str, float | None]:
    """The metrics of constant predictions, over the samples that all processes pass."""
    metrics = {name: tasks[name].metrics() for name in constants}
    for batch in batches:
        image, targets = prepare(batch)
        for name, constant in constants.items():
            target = targets[name]
            shape = (len(target), *constant.shape[1:-2], *target.shape[-2:]) if tasks[name].dense else None
            prediction = constant.to(image.device).expand(shape or (len(target), *constant.shape[1:]))
            metrics[name] = metrics[name].to(image.device)
            metrics[name].update(prediction, target)
    return {
        f"{name}/{key}": _finite(float(value))
        for name, collection in metrics.items()
        for key, value in collection.compute().items()
    }


def directions(tasks: Mapping[str, Task]) -> dict[str, bool | None]:
    """`<task>/<metric>` -> whether higher is better (None: neither)."""
    return {
        f"{name}/{key}": metric.higher_is_better
        for name, task in tasks.items()
        for key, metric in task.metrics().items()
    }


def output_sizes(targets: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """(H, W) of every target that is a map."""
    return {name: (target.shape[-2], target.shape[-1]) for name, target in targets.items() if target.ndim >= 3}


class Monitor:
    """Decides which evaluation is the best, and counts those without gain.

    Without a key, what counts is the mean over tasks of validation loss over that of the untrained model, so that no
    task counts more because its loss is in larger units. A key names a metric, `<task>/<metric>`, whose direction
    the metric knows. A figure without a value is never the best. Raises `ValueError` for an unknown key.

    >>> monitor = Monitor({}, None)
    >>> monitor.update({"loss/depth": 2.0}), monitor.update({"loss/depth": 1.0}), monitor.update({"loss/depth": 1.5})
    (False, True, False)
    >>> monitor.best, monitor.without_gain
    (0.5, 1)
    """

    def __init__(self, tasks: Mapping[str, Task], key: str | None) -> None:
        known = directions(tasks)
        if key is not None and key not in known:
            raise ValueError(f"trainer.monitor: no metric is {key!r}. {suggest(key, known)}")
        self.key = key
        self.sign = -1.0 if key is not None and known[key] else 1.0
        self.best: float | None = None  # lower is better
        self.without_gain = 0
        self.initial: dict[str, float] | None = None  # losses of the untrained model, from the first evaluation

    def update(self, record: Mapping[str, Any]) -> bool:
        """Whether this evaluation is the best so far; the first one, of the untrained model, is not."""
        losses = {key: loss for key, loss in record.items() if key.startswith("loss/") and loss is not None}
        if self.initial is None:
            self.initial = losses
            return False
        if self.key is not None:
            value = math.inf if record.get(self.key) is None else self.sign * record[self.key]
        else:
            ratios = [losses[key] / self.initial[key] for key in losses if self.initial.get(key)]
            value = sum(ratios) / len(ratios) if ratios else math.inf
        if self.best is None or value < self.best:
            self.best, self.without_gain = value, 0
        else:
            self.without_gain += 1
        return self.without_gain == 0


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
