"""The figures over time: learning curves, the conflict between task gradients, and task weights."""

from collections.abc import Sequence

from mtlkit.page.parts import Numbers, panel, panels, section
from mtlkit.report.table import ARROWS
from mtlkit.study.outcome import Metric
from mtlkit.study.page import series
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.lines import drawing, kept, rows_of

HEAD = ("method", "step", "mean", "lowest", "highest", "seeds")
BAND = "Lines: mean over seeds. Bands: from the lowest to the highest seed."


def learning(found: Findings) -> str:
    """Returns the learning curves on validation data, one panel per metric."""
    comparison = found.comparison
    figures, numbers = [], Numbers("learning_curves", ("metric", *HEAD))
    points = series.points(len(found.shown_metrics) * len(comparison.rows))
    for metric in found.shown_metrics:
        bands = {row: series.validation(comparison.of(row), metric.key, points) for row in comparison.rows}
        if lines := kept(found.looks, bands):
            better = "↑ better" if metric.higher else "↓ better"
            figures.append(panel(_caption(metric), drawing(_caption(metric), lines, better=better, calm=True)))
            numbers.rows += rows_of(metric.key, lines)
    if not figures:
        return section("Learning curves", "The logs hold no evaluations of these metrics.", "")
    where = "test" if "test" in comparison.outcomes[0].history.info.get("validation", "val") else "validation"
    note = f"On {where} data. {_band(found, points)} Values of the first third of training may lie outside."
    return section("Learning curves", note + _rest(found, len(figures)), _body(figures, numbers))


def training(found: Findings) -> str:
    """Returns the conflict between task gradients and the task weights over time."""
    return _conflict(found) + _weights(found)


def _conflict(found: Findings) -> str:
    comparison = found.comparison
    lines = kept(found.looks, {row: series.cosine(comparison.of(row)) for row in comparison.methods})
    if not lines:
        return section("Conflict", "The logs hold no cosines between task gradients.", "")
    title = "Mean cosine over all pairs of tasks"
    numbers = Numbers("conflict", ("figure", *HEAD), rows_of("mean cosine", lines))
    figure = panel(title, drawing(title, lines, zero="below: conflict"))
    return section("Conflict", f"Between the gradients of the tasks. {_band(found)}", _body([figure], numbers))


def _weights(found: Findings) -> str:
    comparison = found.comparison
    figures, numbers = [], Numbers("weights", ("task", *HEAD))
    points = series.points(len(found.tasks) * len(comparison.methods))
    for task in found.tasks:
        bands = {row: series.weight(comparison.of(row), task, points) for row in comparison.methods}
        if lines := kept(found.looks, bands):
            figures.append(panel(task, drawing(f"weight of {task}", lines)))
            numbers.rows += rows_of(task, lines)
    if not figures:
        return section("Task weights", "The logs hold no task weights.", "")
    note = f"The factor by which the method multiplies the gradient or loss of each task. {_band(found, points)}"
    return section("Task weights", note + _rest(found, len(figures)), _body(figures, numbers))


def _band(found: Findings, points: int = series.POINTS) -> str:
    band = BAND if len(found.comparison.seeds) > 1 else "One seed, so there is no band."
    return f"{band} With more than {points} logged steps, a point is the mean of a part of them."


def _rest(found: Findings, count: int) -> str:
    return "" if found.all_shown else f" Drawn are {count} of the tasks that change most."


def _caption(metric: Metric) -> str:
    unit = f" in {metric.unit}" if metric.unit else ""
    return f"{metric.task}: {metric.name}{unit} {ARROWS[metric.higher]}"


def _body(figures: Sequence[str], numbers: Numbers) -> str:
    return panels(figures) + numbers.details(printed=False)
