"""What a set of runs says about the methods that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mtlkit.registry import suggest
from mtlkit.study.outcome import SINGLE, Metric, Outcome
from mtlkit.study.statistics import Difference, Summary, best_of, difference, holm, summarise

BySeed = dict[int, float]


@dataclass(frozen=True)
class Trial:
    """One setting that tuning tried for a method: its words, the seeds, and the figure that decides (lower is better).

    `score` is None if no run of it ended well. `chosen` marks the one that the method's runs use.
    """

    method: str
    words: str
    seeds: tuple[int, ...]
    score: float | None
    chosen: bool = False
    task: str = ""


@dataclass(frozen=True)
class Context:
    """What the runs themselves do not say.

    Attributes:
        title: the name of the study.
        reference: the method that the others are compared with; "" is the first one.
        delta: options of `DeltaM`: average, better, seeds, without.
        metrics: the keys that count, "<task>/<metric>"; empty: all metrics with a direction.
        failed: what could not be finished, as pairs of a run in words and the reason.
        trials: what tuning tried; empty without tuning.
        at_a_time: how many runs shared the machine, which affects step times; None: unknown.
        command: the words that made the comparison.
        notes: further sentences that a reader must know.
    """

    title: str = "comparison"
    reference: str = ""
    delta: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    failed: Sequence[tuple[str, str]] = ()
    trials: Sequence[Trial] = ()
    at_a_time: int | None = None
    command: str = ""
    notes: Sequence[str] = ()


class Comparison:
    """Figures of methods by seed, with intervals, paired differences, gains over single-task training, ranks and cost.

    Attributes:
        methods: the names, in the order of their first run. Single-task training is not among them.
        seeds: all seeds, sorted.
        metrics: those that count, in the order of the tasks.
        tasks: the tasks of these metrics.
        reference: the method that the others are compared with.
        singles: the rows of single-task runs: none, or one for all methods that differ in the balancer alone.

    Raises `ValueError` if figures cannot be compared, and `LookupError` for an unknown reference or metric.
    """

    def __init__(self, outcomes: Sequence[Outcome], context: Context | None = None) -> None:
        self.context = context or Context()
        self.outcomes = list(outcomes)
        _check_alike(self.outcomes)
        names = {outcome.entry.method: outcome.entry for outcome in self.outcomes}
        self.singles = [name for name, entry in names.items() if entry.task]
        self.methods = [name for name in names if name not in self.singles]
        if not self.methods:
            why = "".join(f" {run}: {reason}" for run, reason in self.context.failed[:1])
            raise ValueError(f"There is no finished run of a multi-task method, so there is nothing to compare.{why}")
        self._bases = {name: entry.base for name, entry in names.items() if entry.base in self.singles}
        self._of: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            self._of.setdefault(outcome.entry.method, []).append(outcome)
        self.seeds = sorted({outcome.entry.seed for outcome in self.outcomes})
        self.reference = self.context.reference or self.methods[0]
        if self.reference not in self.rows:
            known = suggest(self.reference, self.rows)
            raise LookupError(f"reference: no method with a finished run is called {self.reference!r}. {known}")
        self.metrics = self._metrics()
        self.tasks = list(dict.fromkeys(metric.task for metric in self.metrics))

    # -- figures ------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[str]:
        """The rows of the tables: single-task training, if there is any, and the methods."""
        return [*self.singles, *self.methods]

    @property
    def kind(self) -> str:
        """What the figures are, such as "val figures of the best evaluation"."""
        return self.outcomes[0].kind

    @property
    def on_test(self) -> bool:
        return self.kind.startswith("test")

    def of(self, row: str) -> list[Outcome]:
        """Returns the runs of a row."""
        return self._of.get(row, [])

    def values(self, row: str, key: str) -> BySeed:
        """Returns the figures of a row by seed, without seeds that have none."""
        found = ((outcome.entry.seed, outcome.figures.get(key)) for outcome in self.of(row))
        return {seed: value for seed, value in sorted(found, key=lambda pair: pair[0]) if value is not None}

    def summary(self, row: str, key: str) -> Summary | None:
        """Returns the mean over seeds with its interval. None: there is no figure."""
        values = self.values(row, key)
        return summarise(list(values.values())) if values else None

    def difference(self, row: str, key: str) -> Difference | None:
        """Returns row minus reference over the seeds of both. None for the reference and if no seed is common."""
        return self._differences.get((row, key))

    @cached_property
    def _differences(self) -> dict[tuple[str, str], Difference]:
        found: dict[tuple[str, str], Difference] = {}
        for row in self.rows:
            for metric in self.metrics if row != self.reference else ():
                one = difference(self.values(row, metric.key), self.values(self.reference, metric.key))
                if one is not None:
                    found[row, metric.key] = one
        tested = [key for key, one in found.items() if one.p is not None]
        adjusted = holm([found[key].p or 0.0 for key in tested])
        return found | {key: replace(found[key], holm=p) for key, p in zip(tested, adjusted, strict=True)}

    def best(self, metric: Metric) -> tuple[str | None, set[str]]:
        """Returns the method with the best mean, and the others that are within noise of it.

        Within noise means that the 95 % interval of the paired difference to the best one contains 0. Single-task
        training does not take part. Below three common seeds, nothing is known to be within noise.
        """
        return best_of({row: self.values(row, metric.key) for row in self.methods}, metric.higher)

    @property
    def base(self) -> str:
        """What gains are relative to, in words: single-task training, or the reference if there is none."""
        return SINGLE if self.singles else self.reference

    def base_of(self, row: str) -> str:
        """Returns the row that the gains of a row are relative to."""
        return row if row in self.singles else self._bases.get(row, self.reference)

    def _metrics(self) -> list[Metric]:
        """Returns the metrics that every method has, in the order of the first run, or those that the context names."""
        known: dict[str, Metric] = {}
        for outcome in self.outcomes:
            known |= {key: metric for key, metric in outcome.metrics.items() if key not in known}
        for key in self.context.metrics:
            if key not in known:
                raise LookupError(f"metrics: no run has the metric {key!r}. {suggest(key, known)}")
        if not known:
            raise ValueError("The runs have no metric for which it is known whether higher or lower is better.")
        return [known[key] for key in self.context.metrics] if self.context.metrics else list(known.values())


def _check_alike(outcomes: Sequence[Outcome]) -> None:
    """Raises `ValueError` if two runs measure different things, or if a run is there twice."""
    seen: dict[tuple[str, int, str], Outcome] = {}
    for outcome in outcomes:
        first, entry = outcomes[0], outcome.entry
        if outcome.kind != first.kind:
            raise ValueError(
                f"{entry.run} has {outcome.kind}, {first.entry.run} has {first.kind}. They cannot be compared: give "
                "all runs the same trainer.selection and data.validation, or measure all of them with --split."
            )
        for key, metric in outcome.metrics.items():
            if (other := first.metrics.get(key, metric)) != metric:
                raise ValueError(f"{key} means {metric} in {entry.run} and {other} in {first.entry.run}.")
        place = (entry.method, entry.seed, entry.task)
        if place in seen:
            raise ValueError(f"{entry.run} and {seen[place].entry.run} are both {entry}; pass one of the two.")
        seen[place] = outcome
