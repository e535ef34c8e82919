"""The third question of the page, "Did the tasks help or hurt each other?": conflicts, and what the balancer did."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import numpy as np

from mtlkit.page import svg
from mtlkit.page.parts import paragraph, section
from mtlkit.report.colours import colours, matrix, rows
from mtlkit.report.explanation import Sheet, direction_sheet, percent, sentence, share_sheet, signed
from mtlkit.report.gradients import BLOCKS, Directions, Pair, cosines, directions, mean, pairs
from mtlkit.report.history import History
from mtlkit.report.html import table
from mtlkit.report.plot import Line, coloured, panel, panels

FEW = 8  #: up to so many tasks have lines of their own; more have rows of colours
LISTED = 15  #: the largest number of pairs with an interval of their own


def helped(history: History) -> str:
    """Returns the section."""
    known, found = pairs(history), directions(history)
    if len(history.tasks) < 2:
        return section("Did the tasks help or hurt each other?", "One task was trained alone: nothing to balance.", "")
    parts = _conflicts(history, known) + _balancer(history, found) + _state(history)
    note = "" if parts else "The log holds nothing about the gradients of the tasks."
    return section("Did the tasks help or hurt each other?", note, parts)


def _conflicts(history: History, known: Sequence[Pair]) -> str:
    if not known:
        return ""
    note = (
        "The cosine between the gradients of two tasks. Above 0, a step for one task also helps the other; below 0, it "
        f"hurts it. Dot and line: the mean over the logged steps and its 95 % interval, from the means of {BLOCKS} "
        "parts of the run. The number at the right: the share of steps below 0."
    )
    ordered = sorted(known, key=lambda pair: pair.mean)
    if len(known) <= LISTED:
        figures = [_forest("Mean cosine of each pair", ordered)]
    else:
        note += f" Listed are the {LISTED} of {len(known)} pairs with the largest means on both sides of 0."
        half = LISTED // 2
        figures = [
            _forest("Mean cosine, the extreme pairs", [*ordered[:half], *ordered[len(ordered) - LISTED + half :]])
        ]
        figures.append(_map(known))
    figures.append(_over_time(history, known))
    return f"<h3>Conflict between the tasks</h3>{paragraph(sentence(known))}{paragraph(note)}{panels(figures)}"


def _forest(caption: str, known: Sequence[Pair]) -> str:
    ends = [value for pair in known for value in (pair.mean, *(pair.interval or ()))]
    left, right, top = 148, 312, 8
    long = max(len(pair.first) + len(pair.second) for pair in known) > 18
    row = 26 if long else 20
    bottom = top + row * len(known)
    across = svg.Scale(*svg.padded([*ends, 0.0]), left, right)
    body = "".join(
        svg.line(across(value), top, across(value), bottom) + svg.text(across(value), bottom + 14, words, "tick middle")
        for value, words in across.ticks(3)
    )
    body += svg.line(across(0), top, across(0), bottom, "zero")
    for place, pair in enumerate(known):
        y = top + row * place + row / 2
        css = _side(pair)
        if long:
            body += svg.text(0, y - 2.5, svg.middle_out(pair.first, 24), "small", pair.first)
            body += svg.text(0, y + 9, svg.middle_out(pair.second, 24), "small", pair.second)
        else:
            body += svg.text(0, y + 4, f"{pair.first} · {pair.second}")
        if pair.interval:
            body += svg.line(across(pair.interval[0]), y, across(pair.interval[1]), y, f"bar {css}")
        body += f'<circle class="dot {css}" cx="{across(pair.mean):.1f}" cy="{y}" r="3.6"/>'
        body += svg.text(svg.WIDTH, y + 4, percent(pair.conflicts), "figures end")
    words = "; ".join(f"{pair.first} and {pair.second} {_interval(pair)}" for pair in known)
    drawing = svg.picture(bottom + 20, f"{caption}: {words}.", body)
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def _interval(pair: Pair) -> str:
    if not pair.interval:
        return signed(pair.mean)
    low, high = pair.interval
    return f"{signed(pair.mean)}, interval {signed(low)} to {signed(high)}"


def _side(pair: Pair) -> str:
    if pair.interval and pair.interval[1] < 0:
        return "bad"
    return "good" if pair.interval and pair.interval[0] > 0 else "soft"


def _map(known: Sequence[Pair]) -> str:
    """Draws the mean cosine of every pair as a square of colours. Its scale ends at the largest mean."""
    tasks = list(dict.fromkeys(task for pair in known for task in (pair.first, pair.second)))
    values = np.full((len(tasks), len(tasks)), np.nan)
    for pair in known:
        i, j = tasks.index(pair.first), tasks.index(pair.second)
        values[i, j] = values[j, i] = pair.mean
    most = float(np.nanmax(np.abs(values))) or 1.0
    left, row = 8 + 5.2 * min(18, max(map(len, tasks))), max(9.5, 200 / len(tasks))
    width, height = min(svg.WIDTH - left - 4, row * len(tasks)), row * len(tasks)
    body = colours((values / most + 1) / 2, left, 4, width, height, "RdBu")
    for place, task in enumerate(tasks):
        body += svg.text(left - 5, 4 + row * (place + 0.5) + 3, svg.middle_out(task, 18), "tiny end", task)
    words = f"red −{most:.2g}, white 0, blue +{most:.2g}; columns in the order of the rows"
    drawing = svg.picture(height + 8, f"Mean cosine of every pair of {len(tasks)} tasks: {words}.", body)
    return f"<figure><figcaption>Mean cosine of all pairs<small> {words}</small></figcaption>{drawing}</figure>"


def _over_time(history: History, known: Sequence[Pair]) -> str:
    series = {" · ".join(pair): values for pair, values in cosines(history).items()}
    if len(series) <= FEW:
        lines = [replace(line, label=_short(line.name)) for line in coloured(series)]
        return panel("Cosine over the run", lines, zero="below: conflict", labels=True)
    steps, values = matrix(series)
    quantiles = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    names = {"lowest 10 %": "c1", "median": "c0", "highest 10 %": "c2"}
    lines = [Line(name, (steps, row), css, True) for (name, css), row in zip(names.items(), quantiles, strict=True)]
    note = f"{len(known)} pairs"
    return panel("Cosine over the run", lines, zero="below: conflict", labels=True, note=note)


def _short(pair: str) -> str:
    return "·".join(name if len(name) < 6 else f"{name[:4]}." for name in pair.split(" · "))


def _balancer(history: History, found: Directions) -> str:
    if len(found.tasks) < 2 or not len(found.steps):
        return ""
    sheet = direction_sheet(history, found)
    alignment = found.series(found.alignment)
    figures = [_of_tasks("Cosine of the step with each task", alignment, zero="below: against it")]
    if np.isfinite(found.cosine).any():
        line = Line("with the plain sum", (found.steps, found.cosine), "c0", True)
        figures.append(panel("Cosine of the step with the plain sum", [line]))
    body = paragraph(_turned(found)) + _sheet(sheet)
    if found.weighted:
        body += _sheet(share_sheet(found))
        figures.append(_of_tasks("Share of each task in the step", found.series(found.shares)))
    return f"<h3>What the balancer did</h3>{body}{panels(figures)}"


def _sheet(sheet: Sheet) -> str:
    """Shows a table with its notes. That of many tasks is closed: the figures show the same."""
    body = paragraph(" ".join(sheet.notes)) + table(sheet.title, sheet.head, sheet.rows)
    if len(sheet.rows) <= FEW + 1:
        return body
    return f"<details><summary>{escape(sheet.title)}<small> ({len(sheet.rows)} rows)</small></summary>{body}</details>"


def _turned(found: Directions) -> str:
    """Says by how much the step differs from that of plain summing."""
    cosine = mean(found.cosine)
    if cosine is None:
        return ""
    words = f"On average, the step points {np.degrees(np.arccos(np.clip(cosine, -1, 1))):.0f}° away from the plain sum"
    against = {
        task: float((column[np.isfinite(column)] < 0).mean())
        for task, column in zip(found.tasks, found.alignment.T, strict=True)
        if np.isfinite(column).any()
    }
    most = max(against, key=against.__getitem__, default="")
    often = f", most often against {most} ({percent(against[most])} of the steps)" if most and against[most] else ""
    return f"{words}{often or ', and never against a task'}."


def _of_tasks(caption: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]], zero: str = "") -> str:
    if not series:
        return ""
    if len(series) > FEW:
        return rows(caption, series)
    return panel(caption, coloured(series), zero=zero, labels=True)


def _state(history: History) -> str:
    """Shows the weights, the lengths of the gradients, and the balancer's own figures."""
    figures = []
    for prefix, caption in (("weight", "Weight of each task"), ("grad_norm", "Length of each task's gradient")):
        series = {key.split("/", 1)[1]: one for key, one in history.series("train", history.keys(prefix)).items()}
        figures.append(_of_tasks(caption, series))
    own: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for key, values in history.series("train", history.keys("balancer")).items():
        _, name, *rest = key.split("/")
        own.setdefault(name, {})["/".join(rest) or name] = values
    figures += [_of_tasks(name.replace("_", " "), series) for name, series in own.items()]
    drawn = panels(figures)
    note = "Weight: the factor by which the balancer multiplies each task's gradient or loss. Length: before balancing."
    return f"<h3>The state of the balancer</h3>{paragraph(note)}{drawn}" if drawn else ""
