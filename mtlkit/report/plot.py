"""Panels of lines over the steps of a run.

A panel has its values in the page: the script (`page.js`) shows them under the pointer or the arrow keys,
and smooths lines on request. Without the script, the panel is complete.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from mtlkit.page import svg
from mtlkit.page.axes import BOTTOM, HEIGHT, LEFT, TOP, axes
from mtlkit.page.look import COLOURS, DASHES
from mtlkit.report.history import Series

RIGHT, RIGHT_OF_LABELS = 342, 268  #: the right edge of the plot, without and with labels at the ends of the lines
POINTS = 160  #: a longer series is divided into this many equal parts, and the plot shows their means
LOG_RANGE = 20  #: if positive values span more than this factor, the axis is logarithmic
NAME = 11  #: letters of a label


@dataclass(frozen=True)
class Line:
    """A line of a panel: its name, its values, its colour `c0` to `c7`. `noisy` lines are thin and can be smoothed.

    `label` is a shorter name for the end of the line.
    """

    name: str
    series: Series
    css: str = "c0"
    noisy: bool = False
    dashes: str = ""
    label: str = ""


Drawn = Sequence[tuple[Line, np.ndarray, np.ndarray]]  #: lines with their steps and values, after `thin`


def coloured(series: Mapping[str, Series], noisy: bool = True) -> list[Line]:
    """Returns the lines of several tasks, each in its own colour."""
    return [
        Line(name, values, f"c{place % len(COLOURS)}", noisy, DASHES[place // len(COLOURS) % len(DASHES)])
        for place, (name, values) in enumerate(series.items())
    ]


def panel(
    caption: str,
    lines: Sequence[Line],
    *,
    level: tuple[str, float | None] = ("", None),
    mark: int | None = None,
    better: str = "",
    zero: str = "",
    labels: bool = False,
    note: str = "",
) -> str:
    """Draws a panel, or returns "" if no line has a finite value.

    `level` is a named horizontal line, `mark` a step at which the last line gets a ring, `better` the better direction,
    and `zero` the meaning of the line at 0. The untrained model, at step 0, may lie outside of the plot: it would
    flatten the rest.
    """
    drawn = [(line, *thin(*line.series)) for line in lines]
    drawn = [(line, steps, values) for line, steps, values in drawn if np.isfinite(values).any()]
    if not drawn:
        return ""
    up = _vertical(drawn, [level[1]] if level[1] is not None else [], zero)
    last = max(float(steps[-1]) for _, steps, _ in drawn)
    across = svg.Scale(0.0, max(1.0, last), LEFT, RIGHT_OF_LABELS if labels else RIGHT, whole=True)
    body = axes(up, across, better)
    if zero:
        body += svg.line(LEFT, up(0), across.end, up(0), "zero") + svg.text(LEFT + 4, BOTTOM - 6, zero, "tick")
    if level[1] is not None:
        height = up(level[1])
        body += f'<line class="level" x1="{LEFT}" x2="{across.end}" y1="{height:.1f}" y2="{height:.1f}"/>'
        body += svg.text(across.end, height - 4 if height > TOP + 14 else height + 12, level[0], "tick end halo")
    clip = f"clip-path:inset({TOP - 4}px {svg.WIDTH - across.end - 3}px {HEIGHT - BOTTOM - 1}px {LEFT}px) view-box"
    body += f'<g style="{clip}">{"".join(_path(line, steps, values, up, across) for line, steps, values in drawn)}'
    if mark is not None:
        line, steps, values = drawn[-1]
        for step, value in zip(steps[steps == mark], values[steps == mark], strict=True):
            body += f'<circle class="ring {line.css}" cx="{across(step):.1f}" cy="{up(value):.1f}" r="5"/>'
    body += "</g>" + (_labels(drawn, up, across) if labels else "")
    drawing = svg.picture(HEIGHT, _alternative(caption, drawn), body).replace("<svg ", "<svg data-plot tabindex=0 ", 1)
    more = f"<small> {escape(note)}</small>" if note else ""
    return f"<figure><figcaption>{escape(caption)}{more}</figcaption>{drawing}<output></output></figure>"


def _vertical(drawn: Drawn, levels: list[float], zero: str) -> svg.Axis:
    kept = []
    for _, steps, values in drawn:
        later = (steps > 0) & np.isfinite(values)
        kept.append(values[later] if later.any() else values[np.isfinite(values)])
    values = np.concatenate(kept)
    if not levels and not zero and values.min() > 0 and values.max() > LOG_RANGE * values.min():
        return svg.Log(float(values.min()) / 1.1, float(values.max()) * 1.1, BOTTOM, TOP)
    return svg.Scale(
        *svg.padded([float(values.min()), float(values.max()), *levels, *([0.0] if zero else [])]), BOTTOM, TOP
    )


def _path(line: Line, steps: np.ndarray, values: np.ndarray, up: svg.Axis, across: svg.Scale) -> str:
    """Draws a line. Where a value is missing, it has a gap."""
    finite = np.isfinite(values)
    starts = finite & ~np.concatenate([[False], finite[:-1]])
    points = [
        (f"{'M' if start else 'L'}{across(step):.1f},{min(max(up(value), -HEIGHT), 2 * HEIGHT):.1f}", step, value)
        for step, value, start, there in zip(steps, values, starts, finite, strict=True)
        if there
    ]
    style = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    path = (
        f'<path class="curve {line.css}{" noisy" if line.noisy else ""}"{style} d="{"".join(p for p, _, _ in points)}" '
        f'data-n="{escape(line.name)}" data-x="{" ".join(f"{x:.0f}" for _, x, _ in points)}" '
        f'data-v="{" ".join(f"{v:.4g}" for _, _, v in points)}"/>'
    )
    if line.noisy and len(points) > 1:
        return path
    dots = (point[1:].split(",") for point, _, _ in points)
    return path + "".join(f'<circle class="dot {line.css}" cx="{x}" cy="{y}" r="2.2"/>' for x, y in dots)


def _labels(drawn: Drawn, up: svg.Axis, across: svg.Scale) -> str:
    ends = [min(max(up(float(values[np.isfinite(values)][-1])), TOP), BOTTOM) for _, _, values in drawn]
    body = ""
    for (line, _, _), end, place in zip(drawn, ends, svg.apart(ends, 13.5, TOP, BOTTOM), strict=True):
        body += svg.line(across.end + 2, end, across.end + 9, place, "lead")
        body += f'<circle class="dot {line.css}" cx="{across.end + 12}" cy="{place:.1f}" r="3"/>'
        body += svg.text(
            across.end + 18, place + 3.5, svg.middle_out(line.label or line.name, NAME), "small", line.name
        )
    return body


def _alternative(title: str, drawn: Drawn) -> str:
    parts = []
    for line, steps, values in drawn:
        finite = values[np.isfinite(values)]
        parts.append(f"{line.name} from {finite[0]:.3g} to {finite[-1]:.3g} at step {steps[-1]:.0f}")
    return f"Lines over the steps of training, {title}: {'; '.join(parts)}."


def thin(steps: np.ndarray, values: np.ndarray) -> Series:
    """Reduces a series to at most `POINTS` points: the means of equal parts, without values that are not finite."""
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), POINTS)
    return np.array([np.round(steps[part].mean()) for part in parts]), np.array([_mean(values[part]) for part in parts])


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def panels(figures: Iterable[str]) -> str:
    """Returns the panels that were drawn, beside each other, or "" if there are none."""
    drawn = "".join(figures)
    return f'<div class="panels">{drawn}</div>' if drawn else ""
