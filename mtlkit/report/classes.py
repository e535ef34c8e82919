"""Tables of single classes: their figures, the confusion matrix, and whether predicted probabilities are right."""

from collections.abc import Mapping
from html import escape

import numpy as np

from mtlkit.log import class_tables
from mtlkit.page import svg
from mtlkit.page.axes import BOTTOM, HEIGHT, LEFT, TOP, axes
from mtlkit.page.parts import scroll
from mtlkit.report.details import Confusion, Details, Reliability, details
from mtlkit.report.history import History
from mtlkit.report.plot import RIGHT, panels
from mtlkit.report.table import value_text

OPEN = 15  #: with more classes than this, a table of classes is closed
CELLS = 20  #: with more classes than this, the confusion matrix becomes a list of the most frequent confusions
LISTED = 15  #: the length of that list
DIAGRAMS = 6  #: with more tasks than this, their diagrams are closed


def classes(history: History) -> str:
    """Returns the tables, or "" if there are none."""
    found = details(history.run)
    return _figures(history) + (_confusions(found) + _reliability(found.reliability) if found else "")


def _figures(history: History) -> str:
    boxes = ""
    for task, (metrics, rows) in class_tables(history.trained).items():
        if len(rows) < 2:  # the figures of the task are those of its class
            continue
        head = "".join(f'<th scope=col class="n">{escape(metric)}' for metric in metrics)
        lines = (f"<tr><th scope=row>{escape(name)}" + "".join(map(bar, values)) for name, values in rows.items())
        body = f"<table><thead><tr><th scope=col>class{head}<tbody>{''.join(lines)}</table>"
        boxes += _box(task, len(rows), scroll(body, f"Classes of {task}"), len(rows) <= OPEN)
    note = f"<p>Figures of the trained model, {escape(history.trained_text)}. –: the class does not occur.</p>"
    return f'<h3>Single classes</h3>{note}<div class="boxes">{boxes}</div>' if boxes else ""


def _box(task: str, count: int, body: str, opened: bool) -> str:
    state = " open" if opened else ""
    return f"<details{state}><summary>{escape(task)}<small> ({count} classes)</small></summary>{body}</details>"


def bar(value: float | None) -> str:
    """Returns a cell with a bar, for a figure from 0 to 1."""
    if value is None or not 0 <= value <= 1:
        return f"<td class=n>{value_text(value)}"
    return f'<td class="n bar" style="--part: {100 * value:.0f}%">{value:.3f}'


def _confusions(found: Details) -> str:
    if not found.confusion:
        return ""
    boxes = "".join(
        _box(task, len(one.classes), _matrix(task, one) if len(one.classes) <= CELLS else _list(task, one), True)
        for task, one in found.confusion.items()
    )
    note = (
        f"Of all elements of a class (row), the percentage that the model took for each class (column). On "
        f"{found.samples:,} of {found.split_size:,} samples of the split."
    )
    return f'<h3>What is taken for what</h3><p>{note}</p><div class="boxes">{boxes}</div>'


def _matrix(task: str, one: Confusion) -> str:
    head = "".join(f"<th scope=col>{escape(name)}" for name in one.classes)
    body = ""
    for name, shares, total in _shares(one):
        cells = "".join(_cell(share, name, other) for other, share in zip(one.classes, shares, strict=True))
        body += f"<tr><th scope=row>{escape(name)}<td>{total:,}{cells}"
    table = f'<table class="cells"><thead><tr><td><th scope=col>elements{head}<tbody>{body}</table>'
    return scroll(table, f"Confusion of {task}")


def _cell(share: float, name: str, other: str) -> str:
    css = "right" if name == other else "wrong"
    text = "" if not share else "<1" if share < 0.005 else f"{100 * share:.0f}"
    return f'<td class={css} style="--part: {100 * share:.0f}%">{text.replace("<", "&lt;")}' if share else "<td>"


def _shares(one: Confusion) -> list[tuple[str, list[float], int]]:
    rows = zip(one.classes, one.counts, strict=True)
    return [(name, [count / sum(row) for count in row], sum(row)) for name, row in rows if sum(row)]


def _list(task: str, one: Confusion) -> str:
    wrong = [
        (count, name, other, count / sum(row))
        for name, row in zip(one.classes, one.counts, strict=True)
        for other, count in zip(one.classes, row, strict=True)
        if name != other and count
    ]
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}<td>{escape(other)}<td class=n>{count:,}<td class=n>{100 * share:.0f} %"
        for count, name, other, share in sorted(wrong, reverse=True)[:LISTED]
    )
    head = (
        "<tr><th scope=col>class<th scope=col>taken for<th scope=col class=n>elements<th scope=col class=n>of the class"
    )
    return scroll(f"<table><thead>{head}<tbody>{rows}</table>", f"Most frequent confusions of {task}")


def _reliability(found: Mapping[str, Reliability]) -> str:
    figures = [_diagram(task, one) for task, one in found.items() if any(part.count for part in one.bins)]
    note = (
        "<p>Predictions in ten groups by their probability. On the diagonal, the probability is right: of the "
        "predictions with 70 %, 70 % are true. Below it, the model is too sure. The area of a dot is the share of the "
        "predictions. The calibration error is the mean distance from the diagonal, weighted by these shares.</p>"
    )
    drawn = panels(figures)
    if len(figures) > DIAGRAMS:
        drawn = f"<details class=long><summary>{len(figures)} tasks</summary>{drawn}</details>"
    return f"<h3>Are the probabilities right?</h3>{note}{drawn}" if figures else ""


def calibration_error(one: Reliability) -> float:
    """Returns the expected calibration error: the mean of |observed - predicted|, weighted by the counts."""
    kept = [part for part in one.bins if part.count]
    distances = [part.count * abs((part.observed or 0) - (part.predicted or 0)) for part in kept]
    return sum(distances) / sum(part.count for part in kept)


def _diagram(task: str, one: Reliability) -> str:
    up, across = svg.Scale(0, 1, BOTTOM, TOP), svg.Scale(0, 1, LEFT, RIGHT)
    body = axes(up, across, "observed ↑", label="predicted probability")
    body += svg.line(across(0), up(0), across(1), up(1), "zero")
    total = sum(part.count for part in one.bins)
    kept = [(part.predicted, part.observed, part.count) for part in one.bins if part.count]
    for predicted, observed, count in kept:
        radius = 1.5 + 14 * float(np.sqrt(count / total))
        hint = f"<title>{count:,} predictions, mean {predicted:.3f}, true {observed:.3f}</title>"
        x, y = across(predicted or 0), up(observed or 0)
        body += f'<circle class="bubble c0" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{hint}</circle>'
    words = ", ".join(f"{predicted:.2f} is {observed:.2f}" for predicted, observed, _ in kept)
    drawing = svg.picture(HEIGHT, f"Observed frequency for each predicted probability, {task}: {words}.", body)
    note = f"{one.of}; calibration error {calibration_error(one):.3f}; {total:,} predictions"
    return f"<figure><figcaption>{escape(task)}<small> {escape(note)}</small></figcaption>{drawing}</figure>"
