"""Panels of lines over the steps of training, with a band and a label at the end of each line."""

from collections.abc import Mapping, Sequence

import numpy as np

from mtlkit.page import svg
from mtlkit.page.axes import BOTTOM, HEIGHT, LEFT, TOP, axes
from mtlkit.page.look import Look
from mtlkit.page.parts import Cell
from mtlkit.study.page.series import Band

RIGHT = 262  #: the right edge of the plot; the labels stand to its right
MAX_LABELS = 14  #: more lines than this have no labels; the key above the figures names them
NAME = 12  #: letters of a label

Lines = Sequence[tuple[Look, Band]]


def drawing(title: str, lines: Lines, *, better: str = "", zero: str = "", calm: bool = False) -> str:
    """Draws one panel.

    `better` names the better direction on the vertical axis, `zero` the meaning of the line at 0. `calm` chooses the
    limits by the steps after the first third, because figures of untrained models would flatten the rest.
    """
    limits = _limits([band for _, band in lines], calm, zero != "")
    up = svg.Scale(*limits, BOTTOM, TOP)
    across = svg.Scale(*_steps([band for _, band in lines]), LEFT, RIGHT, whole=True)
    body = axes(up, across, better)
    if zero:
        body += svg.line(LEFT, up(0), RIGHT, up(0), "zero") + svg.text(LEFT + 4, BOTTOM - 6, zero, "tick")
    clip = f"clip-path:inset({TOP - 4}px {svg.WIDTH - RIGHT - 2}px {HEIGHT - BOTTOM - 1}px {LEFT}px) view-box"
    body += f'<g style="{clip}">'
    for look, band in lines:
        if band.seeds > 1:
            edge = [(across(x), _near(up, y)) for x, y in zip(band.steps, band.high, strict=True)]
            back = [(across(x), _near(up, y)) for x, y in zip(band.steps, band.low, strict=True)]
            body += svg.polygon([*edge, *reversed(back)], f"band {look.css}")
    for look, band in lines:
        body += look.line([(across(x), _near(up, y)) for x, y in zip(band.steps, band.mean, strict=True)])
    return svg.picture(HEIGHT, _alternative(title, lines), f"{body}</g>{_labels(lines, up, across)}")


def _near(up: svg.Scale, value: float) -> float:
    """Returns the height of a value. Far outside of the panel, where nothing is drawn, heights are kept small."""
    return min(max(up(value), -HEIGHT), 2 * HEIGHT)


def _limits(bands: Sequence[Band], calm: bool, zero: bool) -> tuple[float, float]:
    last = max(float(band.steps[-1]) for band in bands)
    kept = [band.steps >= last / 3 if calm else np.ones(len(band.steps), bool) for band in bands]
    kept = [part if part.any() else ~part for part in kept]
    pairs = list(zip(bands, kept, strict=True))
    values = [float(band.low[part].min()) for band, part in pairs]
    values += [float(band.high[part].max()) for band, part in pairs]
    return svg.padded([*values, 0.0] if zero else values)


def _steps(bands: Sequence[Band]) -> tuple[float, float]:
    return 0.0, max(1.0, *(float(band.steps[-1]) for band in bands))


def _labels(lines: Lines, up: svg.Scale, across: svg.Scale) -> str:
    if len(lines) > MAX_LABELS:
        return ""
    ends = [up.inside(float(band.mean[-1])) for _, band in lines]
    body = ""
    for (look, band), end, place in zip(lines, ends, svg.apart(ends, 13.5, TOP, BOTTOM), strict=True):
        x = across(float(band.steps[-1]))
        body += svg.line(x + 2, end, RIGHT + 9, place, "lead") + look.marker(RIGHT + 12, place, 3)
        body += svg.text(RIGHT + 19, place + 3.5, svg.middle_out(look.name, NAME), "small", look.name)
    return body


def _alternative(title: str, lines: Lines) -> str:
    ends = (f"{look.name} from {band.mean[0]:.3g} to {band.mean[-1]:.3g}" for look, band in lines)
    return f"Lines over the steps of training, {title}: {'; '.join(ends)}."


def rows_of(what: str, lines: Lines) -> list[Sequence[Cell]]:
    """Returns the numbers of a panel: what, method, step, mean, low, high and the number of seeds."""
    return [
        [what, look.name, f"{step:.6g}", *map(float, values), band.seeds]
        for look, band in lines
        for step, *values in zip(band.steps, band.mean, band.low, band.high, strict=True)
    ]


def kept(looks: Mapping[str, Look], bands: Mapping[str, Band | None]) -> Lines:
    """Returns the rows that have a band, with their looks."""
    return [(looks[row], band) for row, band in bands.items() if band]
