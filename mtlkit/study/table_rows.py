"""The tables of a comparison, before they become Markdown, LaTeX or text in a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mtlkit.report.many import EACH, is_many
from mtlkit.report.table import ARROWS
from mtlkit.study.comparison import BySeed, Comparison
from mtlkit.study.cost import peak_memory, step_time
from mtlkit.study.delta_m import Result
from mtlkit.study.gains import all_deltas, delta, gains, worse
from mtlkit.study.numbers import NONE, fixed, interval_text, mean_text, p_text
from mtlkit.study.outcome import Metric
from mtlkit.study.ranking import ranks
from mtlkit.study.statistics import Summary, best_of, summarise

Mark = Literal["", "best", "near"]


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is the best of its column or within noise of the best (`near`)."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Column:
    """A heading in two parts, such as "depth/abs" and "↓ (m)", and one cell per row."""

    name: str
    detail: str
    cells: Sequence[Cell]

    @property
    def heading(self) -> str:
        return f"{self.name} {self.detail}".rstrip()


@dataclass(frozen=True)
class Table:
    """Columns under a title. The first `keys` columns name the rows."""

    title: str
    columns: Sequence[Column]
    keys: int = 1

    @property
    def rows(self) -> Iterator[tuple[Cell, ...]]:
        return zip(*(column.cells for column in self.columns), strict=True)

    def parts(self, fits: Callable[[Sequence[Column]], bool]) -> Iterator["Table"]:
        """Yields the table in parts of whole columns that fit. Each part repeats the columns that name the rows.

        A column that does not fit alone makes a part of its own.
        """
        keys, waiting = list(self.columns[: self.keys]), list(self.columns[self.keys :])
        while waiting:
            n = 1
            while n < len(waiting) and fits([*keys, *waiting[: n + 1]]):
                n += 1
            yield replace(self, columns=[*keys, *waiting[:n]])
            waiting = waiting[n:]


def main_table(comparison: Comparison) -> Table:
    """Returns a row per method: every metric, delta-m, mean rank, tasks worse than the base, step time and memory."""
    metrics = [_metric(comparison, metric) for metric in comparison.metrics]
    return Table("Results", [_methods(comparison.rows), *metrics, *_overall(comparison)])


def overview_table(comparison: Comparison, intervals: bool = True) -> Table:
    """Returns delta-m, rank and cost, and one column per task, the gain over the base in percent.

    Of many tasks (`mtlkit.report.many`), there are only those on which the methods differ most.
    """
    tasks = differing(comparison) if is_many(comparison.tasks) else comparison.tasks
    columns = [_methods(comparison.rows), *_overall(comparison, False), *_gains(comparison, intervals, tasks=tasks)]
    return Table(f"Gains over {comparison.base} in %", columns)


def gains_table(comparison: Comparison) -> Table:
    """Returns the gain per task in percent, its median over tasks, and how its mean moves if one task is left out."""
    rows = [row for row in comparison.rows if row != comparison.base]
    found = {row: {task: gain.mean for task, gain in gains(comparison, row).items()} for row in rows}
    results = {
        row: Result(0.0, "", {}, values) for row, values in found.items() if len(values) == len(comparison.tasks)
    }
    columns = _gains(comparison, True, rows)
    if len(comparison.tasks) > 1:
        medians = [Cell(fixed(results[row].median, 2, True) if row in results else NONE) for row in rows]
        columns.append(Column("median", "over tasks", medians))
        ranges = []
        for row in rows:
            ends = sorted(results[row].without.values()) if row in results else []
            ranges.append(Cell(f"{fixed(ends[0], 2, True)} to {fixed(ends[-1], 2, True)}" if ends else NONE))
        columns.append(Column("mean", "without any one task", ranges))
    return Table(f"Gain per task over {comparison.base} in %, positive is better", [_methods(rows), *columns])


def differences_table(comparison: Comparison) -> Table:
    """Returns a row per metric and method: method minus reference, over the seeds of both.

    The last column says "better" or "worse" where the adjusted p is below 5 %.
    """
    rows: list[tuple[str, ...]] = []
    for metric in comparison.metrics:
        for row in comparison.rows:
            if row == comparison.reference:
                continue
            found, verdict = comparison.difference(row, metric.key), ""
            if found is None:
                rows.append((metric.key, row, NONE, NONE, NONE, "0", ""))
                continue
            if found.holm is not None and found.holm < 0.05:
                verdict = "better" if (found.mean > 0) == metric.higher else "worse"
            mean = mean_text(found, signed=True, interval=False)
            rows.append((metric.key, row, mean, interval_text(found), p_text(found.holm), str(found.n), verdict))
    names = ("metric", "method", "difference", "95 % interval", "p (Holm)", "n", "at 5 %")
    cells = list(zip(*rows, strict=True)) or [()] * len(names)
    columns = [Column(name, "", [Cell(text) for text in texts]) for name, texts in zip(names, cells, strict=True)]
    return Table(f"Paired differences to {comparison.reference}", columns, keys=2)


def definitions_table(comparison: Comparison) -> Table:
    """Returns delta-m of every method in every definition. Positive is better in all of them."""
    rows = [row for row in comparison.rows if row != comparison.base]
    found = {row: all_deltas(comparison, row) for row in rows}
    names = dict.fromkeys(name for results in found.values() for name in results)
    columns = []
    for name in names:
        summaries = [delta_summary(found[row][name]) for row in rows]
        columns.append(
            Column(name, "", [Cell(mean_text(one, len(comparison.seeds), signed=True)) for one in summaries])
        )
    return Table("Δm in %, in all definitions, positive is better", [_methods(rows), *columns])


def delta_summary(result: Result | str) -> Summary | None:
    """Returns delta-m with its interval over seeds. A definition without values by seed has no interval."""
    if isinstance(result, str):
        return None
    values = list(result.by_seed.values())
    return replace(summarise(values), mean=result.value) if values else Summary(result.value, NO_SEEDS)


NO_SEEDS = 10**9  #: for n of a value that is not a mean over seeds, so that no n is shown


def _methods(rows: Sequence[str]) -> Column:
    return Column("method", "", [Cell(row) for row in rows])


def _metric(comparison: Comparison, metric: Metric) -> Column:
    top, near = comparison.best(metric)
    summaries = {row: comparison.summary(row, metric.key) for row in comparison.rows}
    detail = f"{ARROWS[metric.higher]} ({metric.unit})" if metric.unit else ARROWS[metric.higher]
    return _column(comparison, metric.key, detail, summaries, (top, near))


def _overall(comparison: Comparison, intervals: bool = True) -> Iterator[Column]:
    rows = comparison.rows
    results = {row: delta(comparison, row) for row in rows if row != comparison.base}
    higher = comparison.context.delta.get("better", "positive") == "positive"
    by_seed: dict[str, BySeed] = {
        row: dict(result.by_seed)
        for row, result in results.items()
        if isinstance(result, Result) and row in comparison.methods
    }
    best = best_of(by_seed, higher)
    summaries = {row: delta_summary(results[row]) if row in results else None for row in rows}
    yield _column(comparison, "Δm", f"{ARROWS[higher]} (%)", summaries, best, signed=True)
    mean = ranks(comparison).mean
    yield Column("rank", "↓", [Cell(fixed(mean[row], 2) if row in mean else NONE) for row in rows])
    counts = {row: worse(comparison, row) for row in rows if row != comparison.base}
    shares = [f"{count[0]}/{count[1]}" if (count := counts.get(row)) and count[1] else NONE for row in rows]
    yield Column("worse", "tasks", [Cell(share) for share in shares])
    times = {row: scaled(step_time(comparison, row), 1e3) for row in rows}
    yield _column(comparison, "step time", "↓ (ms)", times, interval=intervals)
    memories = {row: peak_memory(comparison, row) for row in rows}
    large = max((one.mean for one in memories.values() if one), default=0) >= 2**30
    memories = {row: scaled(one, 2.0 ** (-30 if large else -20)) for row, one in memories.items()}
    yield _column(comparison, "memory", f"↓ ({'GiB' if large else 'MiB'})", memories, interval=intervals)


def differing(comparison: Comparison) -> list[str]:
    """Returns the `EACH` tasks with the largest range of gains over the methods, the largest first."""
    found = [gains(comparison, row) for row in comparison.rows if row != comparison.base]
    values = {task: [gain[task].mean for gain in found if task in gain] for task in comparison.tasks}
    ranges = {task: max(means) - min(means) for task, means in values.items() if means}
    return sorted(ranges, key=lambda task: -ranges[task])[:EACH]


def _gains(
    comparison: Comparison, intervals: bool, rows: Sequence[str] = (), tasks: Sequence[str] = ()
) -> list[Column]:
    rows, tasks = rows or comparison.rows, tasks or comparison.tasks
    found = {row: gains(comparison, row) if row != comparison.base else {} for row in rows}
    return [
        _column(comparison, task, "↑", {row: found[row].get(task) for row in rows}, signed=True, interval=intervals)
        for task in tasks
    ]


def scaled(summary: Summary | None, factor: float) -> Summary | None:
    """Returns the figures in another unit."""
    if summary is None:
        return None
    low, high = (None if end is None else end * factor for end in (summary.low, summary.high))
    return Summary(summary.mean * factor, summary.n, low, high)


def _column(
    comparison: Comparison,
    name: str,
    detail: str,
    summaries: Mapping[str, Summary | None],
    best: tuple[str | None, set[str]] = (None, set()),
    *,
    signed: bool = False,
    interval: bool = True,
) -> Column:
    cells = []
    best = best if len(comparison.methods) > 1 else (None, set())
    for row, summary in summaries.items():
        mark: Mark = "best" if row == best[0] else "near" if row in best[1] else ""
        cells.append(Cell(mean_text(summary, len(comparison.seeds), signed=signed, interval=interval), mark))
    return Column(name, detail, cells)
