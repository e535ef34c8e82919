"""Decides which evaluation of a run is the best."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from mtlkit.engine.evaluation import directions
from mtlkit.registry import suggest
from mtlkit.task import Task


class Monitor:
    """Decides which evaluation is the best, and counts the evaluations since then.

    Without a key, it compares the mean over tasks of the validation loss divided by that of the untrained model. So no
    task counts more because its loss is in larger units. A key names a metric, `<task>/<metric>`, whose direction the
    metric knows; `*/<metric>` is its mean over the tasks that have it. With a baseline, the figures of single-task runs
    by `<task>/<metric>`, it compares delta-m: the mean over tasks of the mean relative gain of their metrics.

    The first evaluation, of the untrained model, decides for the whole run which tasks are averaged: those that have a
    value there. An evaluation without a value for one of them cannot be compared, so it is never the best. Evaluations
    without gain are counted only after there is a best one. `remark` says when one of these cases happens.

    Attributes:
        best: the value of the best evaluation (lower is better); None until there is one.
        entries: what the log says of the last evaluation: its value as `monitor`, and `best` if it is the best so far.
        without_gain: the number of evaluations since the best one.
        initial: the values of the first evaluation for the figures that count; None before it.
        remark: what a reader must know about the last evaluation, in a sentence; usually empty.

    Raises `ValueError` for an unknown key, for a metric without a direction, and for a baseline of 0.

    >>> monitor = Monitor({}, None)
    >>> monitor.update({"loss/depth": 2.0}), monitor.update({"loss/depth": 1.0}), monitor.update({"loss/depth": 1.5})
    (False, True, False)
    >>> monitor.best, monitor.without_gain
    (0.5, 1)
    """

    def __init__(self, tasks: Mapping[str, Task], key: str | None, baseline: Mapping[str, float] | None = None) -> None:
        known = directions(tasks)
        self.baseline = dict(baseline or {})
        self.name = f"trainer.monitor={key}" if key else "the mean of loss / untrained loss"
        option, wanted = "trainer.monitor", [key] if key is not None else []
        if self.baseline:
            assert key is None
            self.name, option, wanted = "delta-m against trainer.baseline", "trainer.baseline", list(self.baseline)
        self.keys = [name for name in known if {name, f"*/{name.partition('/')[2]}"} & set(wanted)]
        for one in wanted:
            if one not in self.keys and (self.baseline or not self.keys):
                raise ValueError(f"{option}: no metric is {one!r}. {suggest(one, known)}")
        # A mean over metrics of opposite directions would have no direction, so that is refused, too.
        ways = {known[name] for name in self.keys}
        if None in ways or (len(ways) > 1 and not self.baseline):
            raise ValueError(
                f"{option}={key or self.baseline}: for {', '.join(self.keys)} it is not known whether higher or lower "
                "is better (`higher_is_better` of the metric). Monitor another metric."
            )
        if zero := [name for name, value in self.baseline.items() if value == 0]:
            raise ValueError(f"trainer.baseline: {zero[0]} is 0, and no gain is relative to that. Leave it out.")
        self.signs = {name: -1.0 if known[name] else 1.0 for name in self.keys}
        self.best: float | None = None
        self.entries: dict[str, float | bool] = {}
        self.without_gain = 0
        self.initial: dict[str, float] | None = None
        self.remark = ""

    def update(self, record: Mapping[str, Any]) -> bool:
        """Returns whether this evaluation is the best so far. The first one, of the untrained model, never is."""
        self.remark, self.entries = "", {}
        if self.initial is None:
            self._begin(record)
            return False
        value = self._value(record)
        self.entries = {} if value is None else {"monitor": value}
        # Strictly below: of equal evaluations the earlier one is kept, and a metric that stands still counts as no
        # gain.
        if value is not None and (self.best is None or value < self.best):
            self.best, self.without_gain = value, 0
            self.entries["best"] = True
            return True
        if self.best is not None:
            self.without_gain += 1
        return False

    def forget(self) -> None:
        """Forgets the best evaluation, whose checkpoint is lost. The next evaluation with a value takes its place."""
        self.best, self.without_gain = None, 0

    def _begin(self, record: Mapping[str, Any]) -> None:
        keys = self.keys or [key for key in record if key.startswith("loss/")]
        # The tasks are chosen once: a mean over other tasks than before would jump, and look like a gain or a loss.
        self.initial = {key: record[key] for key in keys if record.get(key) is not None}
        if not self.keys:  # a ratio to 0 or to a negative number does not show progress
            self.initial = {key: loss for key, loss in self.initial.items() if loss > 0}
        left_out = [key for key in keys if key not in self.initial]
        why = "no value (no valid label, or not finite)" if self.keys else "no value above 0 (or no valid label)"
        if not self.initial:
            until = "Until there is one" if self.keys else "In this run"
            self.remark = (
                f"{self.name}: {', '.join(left_out)} has {why}. {until}, no evaluation is the best, "
                "trainer.early_stopping does not count, and the checkpoint `last` stands for the results."
            )
        elif left_out:
            self.remark = (
                f"{self.name}: {', '.join(left_out)} has {why} at the first evaluation, and is left out for the whole "
                f"run. The mean over {', '.join(self.initial)} counts."
            )

    def _value(self, record: Mapping[str, Any]) -> float | None:
        """Returns the figure that is compared; None where it has no value."""
        assert self.initial is not None
        members = [key for key in self.keys if key in self.initial] or self.keys or list(self.initial)
        missing = [key for key in members if record.get(key) is None]
        if missing or not members:
            if self.initial:
                self.remark = (
                    f"{', '.join(missing)} has no value at this evaluation, so {self.name} has none: it cannot be the "
                    "best."
                )
            return None
        if self.baseline:
            losses: dict[str, list[float]] = {}
            for key in members:
                change = self.signs[key] * (record[key] - self.baseline[key]) / abs(self.baseline[key])
                losses.setdefault(key.partition("/")[0], []).append(change)
            return fmean(map(fmean, losses.values()))
        if self.keys:
            return fmean(self.signs[key] * record[key] for key in members)
        return fmean(record[key] / self.initial[key] for key in members)
