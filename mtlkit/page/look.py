"""How a line of a figure looks: a colour, a marker and dashes, and the key that names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mtlkit.page import svg

#: For light and dark pages. Each has a contrast of at least 3 to its page, and people who see colours differently can
#: tell them apart by lightness, marker and dashes.
COLOURS = (
    ("#0068b5", "#5cb0f2"),
    ("#c84a00", "#f79646"),
    ("#00806a", "#3ccfae"),
    ("#9b3fa0", "#e39be6"),
    ("#7d6200", "#e2c541"),
    ("#c2185b", "#ff86ae"),
    ("#3a3f9e", "#a3a8ff"),
    ("#5d6b78", "#b4bfca"),
)
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2")
MARKERS = ("circle", "square", "up", "diamond", "down", "plus", "cross")


@dataclass(frozen=True)
class Look:
    """The look of a row: `css` names its colour, and dashes and marker tell it from others of that colour."""

    name: str
    css: str
    dashes: str
    shape: str

    def marker(self, x: float, y: float, size: float = 4) -> str:
        """Draws the marker of the row."""
        if self.shape == "circle":
            return f'<circle class="dot {self.css}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
        if self.shape in ("plus", "cross"):
            ends = ((1, 0), (0, 1)) if self.shape == "plus" else ((0.8, 0.8), (0.8, -0.8))
            strokes = (svg.line(x - size * a, y - size * b, x + size * a, y + size * b, "") for a, b in ends)
            return f'<g class="stroke {self.css}">{"".join(strokes)}</g>'
        corners = _CORNERS[self.shape]
        return svg.polygon([(x + size * a, y + size * b) for a, b in corners], f"dot {self.css}")

    def line(self, points: Sequence[tuple[float, float]], css: str = "curve") -> str:
        """Draws a line in the row's colour and dashes."""
        return svg.polyline(points, f"{css} {self.css}", f' stroke-dasharray="{self.dashes}"' if self.dashes else "")


_CORNERS = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "up": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "diamond": ((0, -1.3), (1.1, 0), (0, 1.3), (-1.1, 0)),
}


def look(name: str, place: int) -> Look:
    """Returns the look of the line at a place: colours, dashes and markers repeat with different lengths."""
    dashes, marker = (options[place % len(options)] for options in (DASHES, MARKERS))
    return Look(name, f"c{place % len(COLOURS)}", dashes, marker)


def key(rows: Sequence[Look]) -> str:
    """Returns the list of the rows with their line and marker and their full names."""
    items = (
        f'<li><svg viewBox="0 0 34 12" aria-hidden="true">{look.line([(0, 6), (34, 6)])}{look.marker(17, 6)}</svg>'
        f"{escape(look.name)}"
        for look in rows
    )
    return f'<ul class="key">{"".join(items)}</ul>'


def colour_style(dark: bool) -> str:
    """Returns the CSS variables of the colours."""
    return "; ".join(f"--c{place}: {pair[dark]}" for place, pair in enumerate(COLOURS))
