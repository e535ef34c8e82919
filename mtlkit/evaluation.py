"""Pooled metrics of a model, or of constant predictions, over a split."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.distributed import gather, sum_over_ranks
from mtlkit.losses import loss_of
from mtlkit.registry import suggest
from mtlkit.task import Task

Outputs = Mapping[str, Tensor]
Targets = dict[str, Tensor]
NAMED = 5  #: files that one record names


@torch.no_grad()
def evaluate(
    batches: Iterable[Any],
    tasks: Mapping[str, Task],
    prepare: Callable[[Any], tuple[Tensor, Targets]],
    forward: Callable[[Tensor, Targets], Outputs],
    device: torch.device,
) -> dict[str, Any]:
    """Losses and metrics over all samples of all processes, each of which passes its own share, which may be empty.

    Args:
        prepare: batch -> image and targets on the device.
        forward: image, targets -> outputs of the decoders.

    Returns:
        `loss/<task>` and `<task>/<metric>`; None where no label was valid or the figure is not finite. And what
        `LeftOut` reports.
    """
    metrics = {name: task.metrics().to(device) for name, task in tasks.items()}
    sums = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in tasks}
    left_out = LeftOut()
    for batch in batches:
        image, targets = prepare(batch)
        left_out.add(batch)
        outputs = forward(image, targets)
        for name, task in tasks.items():
            total, count = loss_of(task, outputs[name], targets[name])
            sums[name] += torch.stack([total.double(), count.double()])
            metrics[name].update(task.predict(outputs[name]), targets[name])
    found: dict[str, float | None] = {}
    for name in tasks:
        total, count = sum_over_ranks(sums[name]).tolist()
        found[f"loss/{name}"] = _finite(total / count) if count else None
        found |= {f"{name}/{key}": value for key, value in _compute(metrics[name]).items()}
    return found | left_out.report()


@torch.no_grad()
def evaluate_constants(
    batches: Iterable[Any],
    tasks: Mapping[str, Task],
    prepare: Callable[[Any], tuple[Tensor, Targets]],
    constants: Mapping[str, Tensor],
    device: torch.device,
) -> dict[str, float | None]:
    """The metrics of constant predictions, over the samples that all processes pass."""
    metrics = {name: tasks[name].metrics().to(device) for name in constants}
    for batch in batches:
        _, targets = prepare(batch)
        for name, constant in constants.items():
            target = targets[name]
            shape = (len(target), *constant.shape[1:-2], *target.shape[-2:]) if tasks[name].dense else None
            prediction = constant.to(device).expand(shape or (len(target), *constant.shape[1:]))
            metrics[name].update(prediction, target)
    return {
        f"{name}/{key}": value for name, collection in metrics.items() for key, value in _compute(collection).items()
    }


def _compute(metrics: MetricCollection) -> dict[str, float | None]:
    """The figures over all processes, of which one that has few samples may have seen none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method of metric .* was called before the ``update``")
        return {name: _finite(float(value)) for name, value in metrics.compute().items()}


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


class LeftOut:
    """Counts the samples that `data.on_error: skip` left out, over all processes, and names each once.

    >>> left_out = LeftOut()
    >>> left_out.add({"error": ["", "a.png is damaged", ""]})
    >>> left_out.report(), left_out.report()
    ({'left_out': 1, 'incident': '1 sample left out: a.png is damaged'}, {})
    """

    def __init__(self) -> None:
        self._new: list[str] = []
        self._named: set[str] = set()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Takes note of a batch of `mtlkit.data.loader.Loaded` samples."""
        self._new += filter(None, batch.get("error", ()))

    def report(self) -> dict[str, Any]:
        """What is new since the last report, for the log: nothing without such samples. All processes call it."""
        new = [message for messages in gather(self._new) for message in cast(list[str], messages)]
        self._new = []
        if not new:
            return {}
        record: dict[str, Any] = {"left_out": len(new)}
        if unnamed := sorted(set(new) - self._named):
            self._named.update(unnamed)
            more = f"; and {len(unnamed) - NAMED} more" if len(unnamed) > NAMED else ""
            samples = "1 sample" if len(new) == 1 else f"{len(new)} samples"
            record["incident"] = f"{samples} left out: {'; '.join(unnamed[:NAMED])}{more}"
        return record


class Monitor:
    """Decides which evaluation is the best, and counts those without gain.

    Without a key, what counts is the mean over tasks of validation loss over that of the untrained model, so that no
    task counts more because its loss is in larger units. A key names a metric, `<task>/<metric>`, whose direction
    the metric knows; `*/<metric>` is its mean over the tasks that have it. A figure without a value is never the best.
    Raises `ValueError` for an unknown key.

    >>> monitor = Monitor({}, None)
    >>> monitor.update({"loss/depth": 2.0}), monitor.update({"loss/depth": 1.0}), monitor.update({"loss/depth": 1.5})
    (False, True, False)
    >>> monitor.best, monitor.without_gain
    (0.5, 1)
    """

    def __init__(self, tasks: Mapping[str, Task], key: str | None) -> None:
        known = directions(tasks)
        self.keys = [name for name in known if key in (name, f"*/{name.partition('/')[2]}")]
        if key is not None and not self.keys:
            raise ValueError(f"trainer.monitor: no metric is {key!r}. {suggest(key, known)}")
        self.sign = -1.0 if self.keys and known[self.keys[0]] else 1.0
        self.best: float | None = None  # lower is better
        self.without_gain = 0
        self.initial: dict[str, float] | None = None  # losses of the untrained model, from the first evaluation

    def update(self, record: Mapping[str, Any]) -> bool:
        """Whether this evaluation is the best so far; the first one, of the untrained model, is not."""
        losses = {key: loss for key, loss in record.items() if key.startswith("loss/") and loss is not None}
        if self.initial is None:
            self.initial = losses
            return False
        if self.keys:
            figures = [record.get(key) for key in self.keys]
            value = math.inf if None in figures else self.sign * fmean(cast(list[float], figures))
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
