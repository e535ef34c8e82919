"""The forest plot: the gain of every method in delta-m and in every task, with its interval."""

from collections.abc import Mapping, Sequence

from mtlkit.page import svg
from mtlkit.page.look import Look
from mtlkit.page.parts import Numbers, panel, panels, section
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.words import interval, percent
from mtlkit.study.statistics import Summary

ROW, TOP, FOOT = 27, 6, 34  # heights: of a row, above the rows, and of the axis below them
NAMES, LEFT, RIGHT = 88, 104, 258  # where the names end, and where the plot begins and ends


def forest(found: Findings) -> str:
    """Returns the section, or a sentence if no method has a gain."""
    comparison, rows = found.comparison, found.gaining
    title = "Improvement per task"
    deltas = {row: one for row in rows if (one := found.delta(row))}
    by_task = {task: {row: found.gains[row][task] for row in rows if task in found.gains[row]} for task in found.tasks}
    groups = {"Δm, over all tasks": deltas, **by_task}
    known = [one for group in groups.values() for one in group.values()]
    if not known:
        return section(title, f"No method has figures to compare with those of {comparison.base}.", "")
    limits = _limits(known)
    figures = [
        panel(name, drawing(name, group, [found.looks[row] for row in rows], limits)) for name, group in groups.items()
    ]
    return section(title, _note(found, known), panels(figures) + _numbers(found, deltas).details())


def _note(found: Findings, known: Sequence[Summary]) -> str:
    words = [
        f"Gain in percent over {found.comparison.base} of the same seed: the mean over the metrics of the task, then "
        "over seeds. Right of 0 is better."
    ]
    if any(one.low is not None for one in known):
        words.append("Bars: 95 % t interval; an arrow says that it goes on. A hollow marker: the interval holds 0.")
    else:
        words.append("There are no intervals: they take three seeds.")
    if found.sign < 0:
        words.append("Here positive is better for Δm, too, unlike in the table.")
    if not found.all_shown:
        words.append(
            f"Drawn are the {len(found.tasks)} of {len(found.comparison.tasks)} tasks that change most; the numbers "
            "below hold all."
        )
    return " ".join(words)


def _limits(known: Sequence[Summary]) -> tuple[float, float]:
    """Returns the limits of the shared axis. Intervals that are far wider than the means spread do not decide them."""
    means = [0.0, *(one.mean for one in known)]
    low, high = min(means), max(means)
    room = (high - low) or 1.0
    lows = [one.low for one in known if one.low is not None]
    highs = [one.high for one in known if one.high is not None]
    return svg.padded([max(min([low, *lows]), low - room), min(max([high, *highs]), high + room)], 0.04)


def drawing(title: str, group: Mapping[str, Summary], rows: Sequence[Look], limits: tuple[float, float]) -> str:
    """Draws one panel: a row per method with its name, marker, interval and figures."""
    scale = svg.Scale(*limits, LEFT, RIGHT)
    bottom = TOP + ROW * len(rows)
    body = ""
    for place in range(0, len(rows), 2):
        body += f'<rect class="stripe" x="0" y="{TOP + ROW * place}" width="{svg.WIDTH}" height="{ROW}"/>'
    for value, words in scale.ticks():
        body += svg.line(scale(value), TOP, scale(value), bottom)
        body += svg.text(scale(value), bottom + 14, words, "tick middle")
    body += svg.line(scale(0), TOP, scale(0), bottom, "zero")
    body += svg.text(RIGHT, bottom + 28, "better →", "tick end")
    body += svg.text(LEFT, bottom + 28, "gain in %", "tick")
    for place, look in enumerate(rows):
        y = TOP + ROW * (place + 0.5)
        body += svg.label(4, y, look.name, NAMES)
        one = group.get(look.name)
        body += _row(look, one, y, scale) if one else svg.text(svg.WIDTH - 4, y + 4, "no figure", "tick end")
    return svg.picture(bottom + FOOT, _alternative(title, group), body)


def _row(look: Look, one: Summary, y: float, scale: svg.Scale) -> str:
    figures = " ".join(filter(None, (percent(one.mean), interval(one))))
    body = svg.text(svg.WIDTH - 4, y + 4, figures, "figures end")
    if one.low is None or one.high is None:
        return body + look.marker(scale(one.mean), y, 4.5)
    left, right = scale.inside(one.low), scale.inside(one.high)
    ends = _end(left, y, one.low < scale.low, -1) + _end(right, y, one.high > scale.high, 1)
    body += f'<g class="bar {look.css}">{svg.line(left, y, right, y, "")}{ends}</g>'
    hollow = one.low <= 0 <= one.high
    return body + look.marker(scale(one.mean), y, 4.5).replace('"dot ', '"hollow ' if hollow else '"dot ')


def _end(x: float, y: float, goes_on: bool, direction: int) -> str:
    if not goes_on:
        return svg.line(x, y - 3.5, x, y + 3.5, "")
    back = x - 5 * direction
    return svg.polyline([(back, y - 4), (x, y), (back, y + 4)], "")


def _alternative(title: str, group: Mapping[str, Summary]) -> str:
    parts = (f"{row} {percent(one.mean)} {interval(one)}".strip() for row, one in group.items())
    return f"Forest plot of the gain in percent, {title}: {'; '.join(parts)}."


def _numbers(found: Findings, deltas: Mapping[str, Summary]) -> Numbers:
    numbers = Numbers("gains", ("task", "method", "gain in %", "low", "high", "seeds"))
    numbers.rows = [["delta_m", row, one.mean, one.low, one.high, one.n] for row, one in deltas.items()]
    for task in found.comparison.tasks:
        for row in found.gaining:
            if one := found.gains[row].get(task):
                numbers.rows.append([task, row, one.mean, one.low, one.high, one.n])
    return numbers
