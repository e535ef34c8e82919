"""Sentences that a reader must know together with the figures of a comparison."""

from collections.abc import Iterable, Iterator
from typing import Any

from mtlkit.study.comparison import Comparison
from mtlkit.study.outcome import Outcome
from mtlkit.study.statistics import FEWEST


def remarks(comparison: Comparison) -> Iterator[str]:
    """Yields the sentences, the most important ones first."""
    yield from comparison.context.notes
    if comparison.on_test:
        yield "The figures are of test data."
    if "selected on test data" in comparison.kind:
        yield "The model was selected on the same test data, so every figure is too good (protocol: published)."
    for run, reason in comparison.context.failed:
        yield f"Failed: {run}. {reason}"
    yield from _missing(comparison)
    if len(comparison.seeds) < FEWEST:
        count = len(comparison.seeds)
        yield f"{count} {'seed' if count == 1 else 'seeds'}: below {FEWEST}, there are no intervals and no tests."
    yield from _differing(comparison.outcomes, "steps of training", lambda o: o.history.info.get("total_steps"))
    yield from _differing(comparison.outcomes, "validation", lambda o: o.history.info.get("validation"))
    yield from _differing(comparison.outcomes, "protocol", lambda o: o.history.info.get("protocol"))
    yield from _differing(
        comparison.outcomes, "rule that selects the best evaluation", lambda o: o.monitor, "not relevant"
    )
    yield from _differing(comparison.outcomes, "processes", lambda o: o.history.info.get("processes"))
    if not comparison.singles:
        yield (
            "There are no single-task runs. Whether the tasks help each other cannot be seen here; gains are relative "
            f"to {comparison.reference}."
        )
    if found := sum(outcome.incidents for outcome in comparison.outcomes):
        incidents = f"{found} {'incident' if found == 1 else 'incidents'}"
        yield f"The logs of the runs report {incidents}; each report.html lists its own."


def _missing(comparison: Comparison) -> Iterator[str]:
    """Says which rows lack a seed. Differences use the seeds of both sides."""
    for row in comparison.rows:
        have = [comparison.values(row, metric.key).keys() for metric in comparison.metrics]
        if lacking := [str(seed) for seed in comparison.seeds if not all(seed in seeds for seeds in have)]:
            yield (
                f"{row} lacks figures of seed {', '.join(lacking)}. Its means are over the others, and differences "
                "over the seeds that both sides have."
            )


def _differing(outcomes: Iterable[Outcome], what: str, value: Any, nothing: str = "unknown") -> Iterator[str]:
    """Says so if a fact that should be equal differs between rows."""
    found: dict[Any, dict[str, None]] = {}
    for outcome in outcomes:
        name = " ".join(filter(None, (outcome.entry.method, outcome.entry.task)))
        found.setdefault(value(outcome), {})[name] = None
    if len(found) > 1:
        parts = "; ".join(
            f"{nothing if key in (None, '') else key}: {', '.join(names)}" for key, names in found.items()
        )
        yield f"Not equal for all: the {what}. {parts}."
