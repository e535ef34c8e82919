"""The figures of all runs as tidy tables for pandas, R or a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from mtlkit.files import write_whole
from mtlkit.study.comparison import Comparison
from mtlkit.study.outcome import Outcome

RESULTS = (
    *("method", "settings", "seed", "task", "metric", "split", "value", "unit", "higher_is_better"),
    *("kind", "step", "protocol", "decoders", "single_task", "run"),
)
TUNING = ("method", "task", "words", "seeds", "score", "chosen")


def write_results(comparison: Comparison, path: Path) -> None:
    """Writes `results.csv`: one row per run, task and metric, and for each run its step time and peak memory.

    The file is UTF-8 with a header, commas and decimal points. Values have all their digits; a figure that had no value
    is empty. `kind` says what a value is, `step` is the step of the model. All
    metrics with a direction are there, also those that the study does not count. The two rows of cost have no task;
    each single-task run has its own. `true` and `false` are words.

    A run that failed has no row: a row without a value would look like a method that was measured. `table.md` names
    the failed runs.
    """
    _write(path, RESULTS, (row for outcome in comparison.outcomes for row in _rows(outcome)))


def write_tuning(comparison: Comparison, path: Path) -> None:
    """Writes `tuning.csv`: one row per setting that tuning tried. Without tuning, it has only the header.

    `seeds` are separated by spaces. `score` decides, and lower is better; it is empty if no run ended well. `task` is
    that of a single-task run. `chosen` marks the setting that the runs of the results use.
    """
    rows = (
        (one.method, one.task, one.words, " ".join(map(str, one.seeds)), _value(one.score), _word(one.chosen))
        for one in comparison.context.trials
    )
    _write(path, TUNING, rows)


def _rows(outcome: Outcome) -> Iterator[tuple[object, ...]]:
    entry, info = outcome.entry, outcome.history.info
    last = (outcome.step, info.get("protocol", ""), outcome.decoders, _word(bool(entry.task)), entry.run)
    split = outcome.kind.partition(" ")[0]
    for key, metric in outcome.metrics.items():
        value, higher = _value(outcome.figures.get(key)), _word(metric.higher)
        place = (entry.method, entry.settings, entry.seed, metric.task, metric.name)
        yield (*place, split, value, metric.unit, higher, outcome.kind, *last)
    for name, cost, unit, kind in (
        ("step_time", outcome.step_time, "s", "median of the training steps, with the loading of data"),
        ("peak_memory", outcome.peak_memory, "bytes", f"peak {outcome.memory_of}".strip()),
    ):
        place = (entry.method, entry.settings, entry.seed, "", name)
        yield (*place, "train", _value(cost), unit, _word(False), kind, *last)


def _value(value: float | None) -> str:
    return "" if value is None else repr(value)


def _word(value: bool) -> str:
    return str(value).lower()


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
