"""The table of the metrics of a run: constant prediction, untrained model, trained model."""

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from mtlkit.report.history import History, Row

ARROWS = {True: "↑", False: "↓", None: ""}  #: whether higher or lower is better


def summary_table(run: Path) -> Table:
    """Returns a table for the console, with one row per metric of a task.

    `results` chooses the figures of the trained model. The last column says how much better the trained model is than
    the best constant prediction. The difference is relative, or absolute if the constant prediction's value is 0.
    Raises `FileNotFoundError` and `ValueError` as `History` does.
    """
    history = History(run)
    words = [split_text(history), decoders_text(history), *history.notes]
    table = Table(box=box.SIMPLE, caption="\n".join(filter(None, words)))
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for heading in headings(history):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))  # do not break words
    task = None
    for row in history.rows():
        if task not in (None, row.task):
            table.add_section()
        gain = row.gain or 0
        style = "green" if gain > 0 else "red" if gain < 0 else ""
        numbers = [value_text(value) for value in (row.constant, row.untrained, row.trained)]
        table.add_row(row.task if row.task != task else "", metric_text(row), *numbers, Text(gain_text(row), style))
        task = row.task
    return table


def headings(history: History) -> list[str]:
    """Returns the names of the four columns of numbers."""
    return ["constant", "untrained", history.trained_text, "vs constant"]


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
