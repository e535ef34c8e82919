"""The table of the metrics of a run: constant prediction, untrained model, trained model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtlkit.plain_text import plain
from mtlkit.report.history import History, Row
from mtlkit.report.many import common_metric, finite, is_many, mean, stand_out, where_the_rest_is

ARROWS = {True: "↑", False: "↓", None: ""}  #: whether higher or lower is better
COLUMNS = ("constant", "untrained", "trained")


def summary(run: Path) -> list[RenderableType]:
    """Returns what the console shows at the end of a run: the table, what a reader must know with it, and the files.

    `results` chooses the figures of the trained model. The last column says how much better the trained model is than
    the best constant prediction. The difference is relative, or absolute if the constant prediction's value is 0.
    Raises `FileNotFoundError` and `ValueError` as `History` does.
    """
    history = History(run)
    groups, rest = {"": history.rows()}, ""
    if is_many(history.tasks):
        groups, rest = remarkable(history), where_the_rest_is(len(history.tasks), run)
    words = [rest, split_text(history), decoders_text(history), *history.notes]
    ends = [("Run", str(run)), ("Ended", ended_text(history)), ("Report", str(run / "report.html"))]
    lines = [Text(f"{name + ':':<8}{plain(text)}", overflow="ignore", no_wrap=True) for name, text in ends if text]
    return [
        metrics_table(groups, headings(history)),
        *(Text(plain(line), "dim") for line in words if line),
        Group(*lines),  # rich would join texts to one text, which is wrapped: a path would come apart
    ]


def metrics_table(groups: Mapping[str, Sequence[Row]], headings: Iterable[str]) -> Table:
    """Returns a table with one row per metric of a task. Only the names are wrapped where it is too wide."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    if len(groups) > 1:
        table.add_column("", no_wrap=True)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    for heading in headings:  # its words below each other
        table.add_column(Text("\n".join(heading.split(" ", 1))), justify="right", no_wrap=True)
    for group, rows in groups.items():
        before = None
        for row in rows:
            if row.task != before and len(groups) == 1:
                table.add_section()
            gain = row.gain or 0
            style = "green" if gain > 0 else "red" if gain < 0 else ""
            numbers = [value_text(value) for value in (row.constant, row.untrained, row.trained)]
            names = [row.task if row.task != before else "", metric_text(row)]
            if len(groups) > 1:
                names.insert(0, group if before is None else "")
            table.add_row(*names, *numbers, Text(gain_text(row), style))
            before = row.task
        table.add_section()
    return table


def remarkable(history: History) -> dict[str, list[Row]]:
    """Returns rows for many tasks, by group: the mean of every metric over the tasks, and the tasks that stand out.

    These are ordered by the first metric that all have. Without such a metric, it is the loss / untrained loss.
    """
    rows = history.rows()
    names = dict.fromkeys(row.metric for row in rows)
    groups = {"mean": [mean_row([row for row in rows if row.metric == name]) for name in names]}
    if found := common_metric(history.tasks, {f"{row.task}/{row.metric}": row.higher for row in rows}):
        of = {row.task: row for row in rows if row.metric == found[0]}
        values, before = ({task: getattr(row, key) for task, row in of.items()} for key in ("trained", "untrained"))
        higher = found[1]
    else:
        of = {row.task: row for row in history.losses()}
        values = {
            task: row.trained / row.untrained if row.trained and row.untrained else None for task, row in of.items()
        }
        before, higher = dict.fromkeys(of, 1.0), False
    standing = stand_out(values, before, higher)
    return groups | {group: [of[task] for task in tasks] for group, tasks in standing.items() if tasks}


def mean_row(rows: list[Row]) -> Row:
    """Returns the means over the tasks that have a value in every column in which any task has one."""
    columns = [column for column in COLUMNS if any(finite(getattr(row, column)) for row in rows)]
    whole = [row for row in rows if all(finite(getattr(row, column)) for column in columns)]
    means: Mapping[str, float | None] = {c: mean(getattr(row, c) for row in whole).value for c in COLUMNS}
    alike = {(row.unit, row.higher) for row in rows}
    unit, higher = alike.pop() if len(alike) == 1 else ("", None)
    return Row(f"{len(whole)} tasks", rows[0].metric, unit, higher, *means.values())


def headings(history: History) -> list[str]:
    """Returns the names of the four columns of numbers."""
    return ["constant", "untrained", history.trained_text, "vs constant"]


def ended_text(history: History) -> str:
    """Returns how the run ended, and why. Returns "" if the log does not say it."""
    status, why = history.info.get("status"), history.info.get("why")
    total = history.info.get("total_steps")
    of = f" of {total}" if total else ""
    return f"{status} at step {history.last_step}{of}" + (f": {why}" if why else "") if status else ""


def split_text(history: History) -> str:
    """Returns a text that says on which data the figures were measured."""
    if history.selects_on_test:
        return "On the test split, which also selected the model or was watched (protocol: published)."
    return "On the validation split."


def decoders_text(history: History) -> str:
    """Returns what the decoders got, which affects every method with weights. Returns "" if the log does not say it."""
    text = history.info.get("decoders", "")
    return f"In training, {text}." if text else ""


def metric_text(row: Row) -> str:
    """Returns the metric's name, direction and unit: "abs ↓ (m)"."""
    unit = f"({row.unit})" if row.unit else ""
    return " ".join(filter(None, (row.metric, ARROWS[row.higher], unit)))


def gain_text(row: Row) -> str:
    if row.gain is None:
        return "–"
    if row.relative_gain is None:
        return f"{row.gain:+.4g}"
    return f"{100 * row.relative_gain:+.0f} %"


def value_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
