"""What methods cost: time per step and memory."""

from collections.abc import Callable

from mtlkit.study.comparison import BySeed, Comparison
from mtlkit.study.outcome import Outcome
from mtlkit.study.statistics import Summary, summarise


def step_time(comparison: Comparison, row: str) -> Summary | None:
    """Returns the seconds per optimizer step, with the loading of data. For single-task training: summed over tasks."""
    return _summary(step_times(comparison, row))


def step_times(comparison: Comparison, row: str) -> BySeed:
    """Returns the same by seed."""
    return _by_seed(comparison, row, lambda outcome: outcome.step_time, sum)


def peak_memory(comparison: Comparison, row: str) -> Summary | None:
    """Returns the peak memory in bytes. For single-task training, it is that of the largest task."""
    return _summary(_by_seed(comparison, row, lambda outcome: outcome.peak_memory, max))


def _by_seed(
    comparison: Comparison,
    row: str,
    figure: Callable[[Outcome], float | None],
    join: Callable[[list[float]], float],
) -> BySeed:
    """Joins the runs of each seed. Leaves out a seed that is not complete: a part of the tasks would look cheap."""
    outcomes = comparison.of(row)
    needed = len(tasks_of(comparison)) if row in comparison.singles else 1
    by_seed: dict[int, list[float]] = {}
    for outcome in outcomes:
        if (value := figure(outcome)) is not None:
            by_seed.setdefault(outcome.entry.seed, []).append(value)
    return {seed: join(values) for seed, values in by_seed.items() if len(values) == needed}


def tasks_of(comparison: Comparison) -> set[str]:
    """Returns the tasks of all runs, also those that do not count or have no single-task run that finished."""
    return {metric.task for outcome in comparison.outcomes for metric in outcome.metrics.values()}


def _summary(by_seed: BySeed) -> Summary | None:
    return summarise(list(by_seed.values())) if by_seed else None
