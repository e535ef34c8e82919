"""The mean ranks of methods."""

from collections.abc import Collection
from statistics import fmean

from mtlkit.study.comparison import Comparison
from mtlkit.study.outcome import Metric
from mtlkit.study.statistics import FEWEST, Ranks, mean_ranks


def ranks(comparison: Comparison) -> Ranks:
    """Returns the mean ranks over blocks, each of one task and one seed.

    In a block, a method is placed by the mean share of the other methods that it beats, over the metrics of the task.
    So a task with more metrics does not count more. Blocks of one task share its data: the ranks speak of these tasks
    with other seeds, and not of other tasks. So below three seeds there is no critical difference. Tasks of one run
    are not independent, as the test assumes, so the critical difference is rather too small.
    """
    left_out = unranked(comparison)
    rows = [row for row in comparison.methods if row not in left_out]
    blocks = []
    for task in comparison.tasks if rows else ():
        metrics = [metric for metric in comparison.metrics if metric.task == task]
        for seed in comparison.seeds:
            blocks.append({row: fmean(_beaten(comparison, row, one, seed, rows) for one in metrics) for row in rows})
    return mean_ranks(blocks, tested=len(comparison.seeds) >= FEWEST)


def unranked(comparison: Comparison) -> list[str]:
    """Returns the methods without a figure for every metric and every seed. They have no rank."""
    return [
        row
        for row in comparison.methods
        if any(comparison.values(row, metric.key).keys() != set(comparison.seeds) for metric in comparison.metrics)
    ]


def _beaten(comparison: Comparison, row: str, metric: Metric, seed: int, rows: Collection[str]) -> float:
    """Returns how many of the other methods a method beats in one metric and seed. A tie counts one half."""
    figures = {other: comparison.values(other, metric.key)[seed] for other in rows}
    own, sign = figures.pop(row), 1 if metric.higher else -1
    return sum(0.5 if value == own else float(sign * (own - value) > 0) for value in figures.values())
