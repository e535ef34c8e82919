"""Losses and metrics of a model, or of constant predictions, over all samples of a split."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.distributed import gather
from mtlkit.engine.feed import feed
from mtlkit.engine.losses import loss_of
from mtlkit.engine.predictor import Predictor
from mtlkit.sample_group import SampleGroup
from mtlkit.task import Task

NAMED = 5  #: the number of files that one record names


@torch.no_grad()
def evaluate_model(batches: Iterable[Any], predictor: Predictor) -> dict[str, Any]:
    """Returns losses and metrics over the samples of all processes. Each passes its own share, which may be empty.

    Returns:
        `loss/<task>`, `<task>/<metric>` and `<task>/<metric>/<class>`, with None where no label was valid or the figure
        is not finite, and the report of `LeftOut`.
    """
    tasks = predictor.tasks
    # Sums and counts, not a mean of batch means: batches differ in their numbers of valid elements, and the result must
    # not depend on the batch size or the number of processes. Float64, as a split may have 1e9 valid pixels.
    metrics = {name: task.metrics().to(predictor.device) for name, task in tasks.items()}
    sums = {name: torch.zeros(2, dtype=torch.float64, device=predictor.device) for name in tasks}
    left_out = LeftOut()
    # No collective of ours in the loop: processes may have different numbers of batches.
    for batch in feed(batches, predictor):
        image, targets = predictor.inputs(batch)
        left_out.add(batch)
        outputs = predictor.outputs(image, output_sizes(tasks, targets))
        for name, task in tasks.items():
            total, count = loss_of(task, outputs[name], targets[name])
            sums[name] += torch.stack([total.double(), count.double()])
            metrics[name].update(task.predict(outputs[name]), targets[name])
    found: dict[str, float | None] = {}
    for name in tasks:  # all processes go through the same tasks in the same order, as collectives require
        total, count = SampleGroup().sum(sums[name]).tolist()
        found[f"loss/{name}"] = _finite(total / count) if count else None
        found |= {f"{name}/{key}": value for key, value in _compute(metrics[name]).items()}
        found |= {f"{name}/{key}": value for key, value in _per_class(metrics[name], tasks[name].classes).items()}
    return found | left_out.report()


@torch.no_grad()
def evaluate_constants(
    batches: Iterable[Any], predictor: Predictor, constants: Mapping[str, Tensor]
) -> dict[str, float | None]:
    """Returns the metrics of constant predictions over the samples that all processes pass."""
    tasks, device = predictor.tasks, predictor.device
    metrics = {name: tasks[name].metrics().to(device) for name in constants}
    for batch in feed(batches, predictor):
        _, targets = predictor.inputs(batch)
        for name, constant in constants.items():
            metrics[name].update(spread_constant(tasks[name], constant.to(device), targets[name]), targets[name])
    return {
        f"{name}/{key}": value for name, collection in metrics.items() for key, value in _compute(collection).items()
    }


def spread_constant(task: Task, constant: Tensor, target: Tensor) -> Tensor:
    """Returns the constant prediction (1, ...) repeated for every sample of a target, at the target's size."""
    size = task.map_size(target)
    shape = constant.shape[1:] if size is None else (*constant.shape[1:-2], *size)
    # Contiguous, like a model's predictions: metrics of torchmetrics call `view` on it.
    return constant.expand(len(target), *shape).contiguous()


def _compute(metrics: MetricCollection) -> dict[str, float | None]:
    """Returns the figures over all processes."""
    # A process without samples never called `update`. That is no mistake: `compute` adds up all processes.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method of metric .* was called before the ``update``")
        return {name: _finite(float(value)) for name, value in metrics.compute().items()}


def _per_class(metrics: MetricCollection, classes: Sequence[str]) -> dict[str, float | None]:
    """Returns `<metric>/<class>` over all processes, for the metrics that have figures of single classes."""
    found: dict[str, float | None] = {}
    for metric in metrics.values():
        per_class = getattr(metric, "per_class", None)
        if per_class is not None:
            with metric.sync_context():  # as `compute` does: it adds up the states of all processes
                for name, values in per_class().items():
                    found |= {f"{name}/{c}": _finite(v) for c, v in zip(classes, values.tolist(), strict=True)}
    return found


def directions(tasks: Mapping[str, Task]) -> dict[str, bool | None]:
    """Returns for each `<task>/<metric>` whether higher is better (None: neither)."""
    return {
        f"{name}/{key}": metric.higher_is_better
        for name, task in tasks.items()
        for key, metric in task.metrics().items()
    }


def units(tasks: Mapping[str, Task]) -> dict[str, str]:
    """Returns the unit of each `<task>/<metric>` that has one: `metric.unit`, a text such as "m"."""
    return {
        f"{name}/{key}": unit
        for name, task in tasks.items()
        for key, metric in task.metrics().items()
        if (unit := getattr(metric, "unit", ""))
    }


def output_sizes(tasks: Mapping[str, Task], targets: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Returns the (H, W) of every target that is a map."""
    sizes = {name: tasks[name].map_size(target) for name, target in targets.items()}
    return {name: size for name, size in sizes.items() if size is not None}


class LeftOut:
    """Counts the samples of all processes that `data.on_error: skip` left out, and names each one once.

    >>> left_out = LeftOut()
    >>> left_out.add({"error": ["", "a.png is damaged", ""]})
    >>> left_out.report(), left_out.report()
    ({'left_out': 1, 'incident': '1 sample left out: a.png is damaged'}, {})
    """

    def __init__(self) -> None:
        self._new: list[str] = []
        self._named: set[str] = set()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Notes the errors in a batch of `mtlkit.data.loader.Loaded` samples."""
        self._new += filter(None, batch.get("error", ()))

    def report(self) -> dict[str, Any]:
        """Returns what is new since the last report, for the log (empty: nothing). All processes must call it."""
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


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
