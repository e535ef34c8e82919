"""The parts of a drawing: SVG text whose colours, fonts and widths of lines come from the page's style.

A drawing is `WIDTH` units wide, about the pixels of a small screen, so that its text has there the size of other text.
Wider pages show several drawings beside each other and do not stretch one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

WIDTH = 360
LETTER = 6.4  #: the width of a letter of a label, on average
SMALL = 5.8  #: the same for small text


class Axis(Protocol):
    """What `axes` needs of a scale."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    def __call__(self, value: float) -> float: ...
    def ticks(self, count: int = 4) -> list[tuple[float, str]]: ...


@dataclass(frozen=True)
class Scale:
    """Turns values from `low` to `high` into places from `start` to `end`. `whole`: the values are whole numbers."""

    low: float
    high: float
    start: float
    end: float
    whole: bool = False

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def inside(self, value: float) -> float:
        """Returns the place of a value, or that of the nearest end of the scale."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Returns round values, about `count`, with their texts.

        >>> Scale(-0.04, 0.11, 0, 1).ticks()
        [(0.0, '0'), (0.05, '0.05'), (0.1, '0.10')]
        >>> Scale(0, 3, 0, 1, whole=True).ticks(8)
        [(0.0, '0'), (1.0, '1'), (2.0, '2'), (3.0, '3')]
        """
        step = _round_step((self.high - self.low) / count)
        step = max(step, 1.0) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(i * step, _tick(i * step, step)) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Log:
    """The same for positive values on a logarithmic axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if value <= 0:
            return self.start
        return Scale(math.log(self.low), math.log(self.high), self.start, self.end)(math.log(value))

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Returns powers of ten, or if they are few, 1, 2 and 5 times these.

        >>> [text for _, text in Log(0.01, 2, 0, 1).ticks()]
        ['0.01', '0.1', '1']
        >>> [text for _, text in Log(0.3, 7, 0, 1).ticks()]
        ['0.5', '1', '2', '5']
        """
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = max(1, round(len(decades) / (count + 1)))
        tens = [10.0**power for power in decades if power % every == 0]
        values = [value for value in tens if self.low <= value <= self.high]
        if len(values) < 3:
            values = [f * 10.0**p for p in decades for f in (1, 2, 5) if self.low <= f * 10.0**p <= self.high]
        return [(value, f"{value:.3g}") for value in values]


def _tick(value: float, step: float) -> str:
    if not value:
        return "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))  # against rounding: log10(0.001) may be -3.0000001
    long = decimals > 4 or abs(value) >= 1e6
    return (f"{value:.3g}" if long else f"{value:.{decimals}f}").replace("-", "−")


def _round_step(step: float) -> float:
    """Returns the nearest of 1, 2, 5 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / step)))


def padded(values: Sequence[float], part: float = 0.08) -> tuple[float, float]:
    """Returns the limits of values with some room at both ends."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    flat = high - low <= 1e-4 * size  # the rest are rounding errors, which should not fill the panel
    room = (part * size or 1.0) if flat else part * (high - low)
    return low - room, high + room


def picture(height: float, alternative: str, body: str) -> str:
    """Returns the SVG element. `alternative` says in words what it shows."""
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(alternative)}">{body}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, css: str = "guide") -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, css: str = "", full: str = "") -> str:
    """Writes words on a line. `css` may say `end` or `middle` for the place of x. `full` is shown under the pointer."""
    hint = f"<title>{escape(full)}</title>" if full and full != words else ""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(words)}{hint}</text>'


def label(x: float, y: float, name: str, width: float, css: str = "") -> str:
    """Writes a name around the height y, in two lines if it is too long for one. The pointer shows the full name."""
    letters = int(width / LETTER)
    if len(name) <= letters:
        return text(x, y + 4, name, css)
    letters = int(width / SMALL)
    short = middle_out(name, 2 * letters)
    return text(x, y - 2.5, short[:letters], f"{css} small", name) + text(x, y + 9, short[letters:], f"{css} small")


def middle_out(name: str, letters: int) -> str:
    """Shortens a name in the middle, because names of one method with several options differ at the end.

    >>> middle_out("rotograd, scale_only=true", 13)
    'rotogr…y=true'
    """
    if len(name) <= letters:
        return name
    half = (letters - 1) // 2
    return f"{name[: letters - 1 - half]}…{name[-half:]}"


def polyline(points: Sequence[tuple[float, float]], css: str, more: str = "") -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{css}" points="{joined}"{more}/>'


def polygon(points: Sequence[tuple[float, float]], css: str, more: str = "") -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon class="{css}" points="{joined}"{more}/>'


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves places until neighbours are `gap` apart, if possible between low and high. Their order stays.

    >>> apart([1, 2, 9], 4, 0, 20)
    [0.0, 4.0, 9.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    blocks: list[list[float]] = []  # centre and number of labels that touch
    for index in order:
        blocks.append([min(max(places[index], low), high), 1])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (a, n), (b, m) = blocks[-2:]
            half = gap * (n + m - 1) / 2
            blocks[-2:] = [[min(max((a * n + b * m) / (n + m), low + half), high - half), n + m]]
    moved = [centre + gap * (i - (n - 1) / 2) for centre, n in blocks for i in range(int(n))]
    found = [0.0] * len(places)
    for index, place in zip(order, moved, strict=True):
        found[index] = place
    return found
