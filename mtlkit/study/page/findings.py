"""What several figures of the page need, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtlkit.page.look import Look
from mtlkit.study.comparison import Comparison
from mtlkit.study.cost import peak_memory, step_time
from mtlkit.study.delta_m import Result
from mtlkit.study.gains import delta, gains
from mtlkit.study.outcome import Metric
from mtlkit.study.page.looks import looks
from mtlkit.study.ranking import ranks
from mtlkit.study.statistics import Ranks, Summary, best_of, summarise

MAX_PANELS = 8  #: with more tasks or metrics than this, the figures show those that change most


@dataclass(frozen=True)
class Findings:
    """A comparison with what was computed from it.

    Attributes:
        looks: the look of every row.
        gains: the gain in percent per row and task over `comparison.base_of(row)`. Positive is better.
        deltas: delta-m in the definition of the study per row, or the reason why there is none.
        times, memories: the cost per row.
        tasks: the tasks that the figures show, in their order.
    """

    comparison: Comparison
    looks: Mapping[str, Look]
    gains: Mapping[str, Mapping[str, Summary]]
    deltas: Mapping[str, Result | str]
    ranks: Ranks
    times: Mapping[str, Summary | None]
    memories: Mapping[str, Summary | None]
    tasks: tuple[str, ...]

    @property
    def gaining(self) -> list[str]:
        """The rows that have gains: all but the one that gains are relative to."""
        return [row for row in self.comparison.methods if row != self.comparison.base_of(row)]

    @property
    def shown_metrics(self) -> list[Metric]:
        """The metrics that the curves show: first of all one of each shown task."""
        metrics = [metric for metric in self.comparison.metrics if metric.task in self.tasks]
        firsts = {metric.task: metric for metric in reversed(metrics)}.values()
        shown = [*firsts, *(metric for metric in metrics if metric not in firsts)][: MAX_PANELS + 1]
        return [metric for metric in metrics if metric in shown]

    @property
    def all_shown(self) -> bool:
        return len(self.tasks) == len(self.comparison.tasks)

    def delta_by_seed(self, row: str) -> dict[int, float]:
        """Returns delta-m by seed such that positive is better. It is empty if the definition has no seeds."""
        found = self.deltas[row]
        if isinstance(found, str):
            return {}
        sign = self.sign
        return {seed: sign * value for seed, value in found.by_seed.items()}

    def delta(self, row: str) -> Summary | None:
        """Returns delta-m such that positive is better. It has no interval if the definition has no seeds."""
        found = self.deltas[row]
        if isinstance(found, str):
            return None
        by_seed = self.delta_by_seed(row)
        return summarise(list(by_seed.values())) if by_seed else Summary(self.sign * found.value, len(found.by_seed))

    def best_delta(self) -> tuple[str | None, set[str]]:
        """Returns the method with the best delta-m and those within noise of it, as `Comparison.best` does."""
        return best_of({row: self.delta_by_seed(row) for row in self.gaining}, higher=True)

    @property
    def sign(self) -> int:
        """1, or -1 if in the study's definition of delta-m lower is better."""
        return -1 if self.comparison.context.delta.get("better") == "negative" else 1


def find(comparison: Comparison) -> Findings:
    """Computes what the page shows."""
    rows = comparison.rows
    gained = {row: gains(comparison, row) for row in rows}
    changes = {
        task: max((abs(found[task].mean) for found in gained.values() if task in found), default=0.0)
        for task in comparison.tasks
    }
    largest = sorted(comparison.tasks, key=changes.__getitem__, reverse=True)[:MAX_PANELS]
    return Findings(
        comparison,
        looks(comparison),
        gained,
        {row: delta(comparison, row) for row in rows},
        ranks(comparison),
        {row: step_time(comparison, row) for row in rows},
        {row: peak_memory(comparison, row) for row in rows},
        tuple(task for task in comparison.tasks if task in largest),
    )
