"""Draws lines over an axis, several panels in one SVG file that needs no page around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mtlkit.page import svg
from mtlkit.page.axes import BOTTOM, HEIGHT, LEFT, TOP
from mtlkit.page.look import colour_style, look

GAP, KEY = 24, 20  # between panels, and the height of a line of the key
RIGHT = svg.WIDTH - 12
TITLE = 24

STYLE = f"""
svg {{ --ink: #1d2330; --soft: #59606e; --paper: #fff; --rule: #8884; {colour_style(False)} }}
@media (prefers-color-scheme: dark) {{
  svg {{ --ink: #d8dce6; --soft: #a3a9b8; --paper: #15181e; {colour_style(True)} }}
}}
{" ".join(f".c{place} {{ color: var(--c{place}) }}" for place in range(8))}
.paper {{ fill: var(--paper) }} text {{ font: 11.5px sans-serif; fill: var(--ink) }}
.tick {{ font-size: 10.5px; fill: var(--soft) }} .title {{ font-weight: bold }}
.end {{ text-anchor: end }} .middle {{ text-anchor: middle }}
.guide {{ stroke: var(--rule); stroke-width: .6 }} .axis {{ stroke: var(--soft); stroke-width: .8 }}
.zero {{ stroke: var(--ink); stroke-width: 1.1; opacity: .75 }}
.curve {{ stroke: currentColor; stroke-width: 1.7; fill: none; stroke-linejoin: round }}
.dot {{ fill: currentColor }} .stroke {{ stroke: currentColor; stroke-width: 2.2 }}
"""

Line = Mapping[float, float]  # value on the axis -> height


@dataclass(frozen=True)
class Panel:
    """One panel: lines by name, all on logarithmic axes. `one` marks the height 1."""

    title: str
    across: str
    lines: Mapping[str, Line]
    one: bool = True


def picture(panels: Sequence[Panel], alternative: str, columns: int = 2) -> str:
    """Returns the text of an SVG file. A name has the same colour, dashes and marker in all panels."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    looks = {name: look(name, place) for place, name in enumerate(names)}
    rows = -(-len(panels) // columns)
    width = columns * svg.WIDTH + (columns - 1) * GAP
    body = ""
    for place, panel in enumerate(panels):
        x, y = (place % columns) * (svg.WIDTH + GAP), (place // columns) * (HEIGHT + TITLE + GAP)
        body += f'<g transform="translate({x} {y + TITLE})">{_panel(panel, looks)}</g>'
    top = rows * (HEIGHT + TITLE + GAP)
    for place, one in enumerate(looks.values()):
        x, y = 10 + (place % 3) * width / 3, top + (place // 3) * KEY
        body += one.line([(x, y), (x + 34, y)]) + one.marker(x + 17, y) + svg.text(x + 42, y + 4, one.name)
    height = top + -(-len(names) // 3) * KEY
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(alternative)}"><style>{STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>{body}</svg>\n'
    )


def _panel(panel: Panel, looks: Mapping[str, object]) -> str:
    values = sorted({value for line in panel.lines.values() for value in line})
    heights = [height for line in panel.lines.values() for height in line.values()]
    across = svg.Log(values[0], values[-1] * 1.0001, LEFT, RIGHT - 6)
    up = svg.Log(min(heights) / 1.15, max(heights) * 1.15, BOTTOM, TOP)
    body = svg.text(LEFT, -4, panel.title, "title")
    for value, words in up.ticks():
        body += svg.line(LEFT, up(value), RIGHT, up(value)) + svg.text(LEFT - 6, up(value) + 3.5, words, "tick end")
    if panel.one and up.low < 1 < up.high:
        body += svg.line(LEFT, up(1), RIGHT, up(1), "zero")
    body += svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    for value in values:
        body += svg.line(across(value), BOTTOM, across(value), BOTTOM + 4, "axis")
        body += svg.text(across(value), BOTTOM + 16, f"{value:g}", "tick middle")
    body += svg.text(LEFT, BOTTOM + 29, panel.across, "tick")
    for name, line in panel.lines.items():
        points = [(across(value), up(height)) for value, height in sorted(line.items())]
        body += looks[name].line(points)  # type: ignore[attr-defined]
        body += "".join(looks[name].marker(x, y, 3) for x, y in points)  # type: ignore[attr-defined]
    return body
