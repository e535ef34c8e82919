"""Cost against gain: step time relative to the reference, and delta-m."""

from collections.abc import Sequence

from mtlkit.page import svg
from mtlkit.page.look import Look
from mtlkit.page.parts import Numbers, panel, paragraph, section
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.words import interval, number, percent
from mtlkit.study.statistics import Summary

TOP, BOTTOM, LEFT, RIGHT = 26, 220, 40, 342
NAME = 18  #: letters of a label
Point = tuple[Look, float, Summary]


def tradeoff(found: Findings) -> str:
    """Returns the section, or a sentence if step times or gains are missing."""
    comparison = found.comparison
    base = found.times.get(comparison.reference)
    points: list[Point] = []
    for row in comparison.rows:
        time, gain = found.times[row], found.delta(row)
        if row == comparison.base_of(row) and gain:
            gain = Summary(0.0, gain.n)
        if base and time and gain:
            points.append((found.looks[row], time.mean / base.mean, gain))
    title = "Cost against gain"
    if not points:
        return section(title, "This takes step times in the logs, and Δm.", "")
    note = f"Step time relative to {comparison.reference}, and Δm in percent over {comparison.base}: means over seeds."
    if (together := comparison.context.at_a_time) and together > 1:
        note += f" {together} runs at a time shared the machine, which affects step times."
    numbers = Numbers("cost", ("method", "relative step time", "delta_m in %", "low", "high"))
    numbers.rows = [[look.name, x, one.mean, one.low, one.high] for look, x, one in points]
    return section(title, "", panel("", _drawing(points)) + paragraph(note) + numbers.details())


def _drawing(points: Sequence[Point]) -> str:
    across = svg.Scale(*svg.padded([1.0, *(x for _, x, _ in points)], 0.12), LEFT, RIGHT)
    means = [0.0, *(one.mean for _, _, one in points)]
    room = (max(means) - min(means)) or 1.0
    edges = [edge for _, _, one in points for edge in (one.low, one.high) if edge is not None]
    near = [min(max(edge, min(means) - room), max(means) + room) for edge in edges]
    up = svg.Scale(*svg.padded([*means, *near], 0.05), BOTTOM, TOP)
    body = _axes(across, up)
    for look, x, one in points:
        if one.low is not None and one.high is not None:
            bar = svg.line(across(x), up.inside(one.low), across(x), up.inside(one.high), "")
            body += f'<g class="bar thin {look.css}">{bar}</g>'
    places = [(across(x), up(one.mean)) for _, x, one in points]
    body += "".join(look.marker(x, y, 5) for (look, _, _), (x, y) in zip(points, places, strict=True))
    names = [look.name for look, _, _ in points]
    return svg.picture(BOTTOM + 36, _alternative(points), body + names_beside(names, places, up(0)))


def _axes(across: svg.Scale, up: svg.Scale) -> str:
    body = ""
    for value, words in up.ticks():
        body += svg.line(LEFT, up(value), RIGHT, up(value)) + svg.text(LEFT - 6, up(value) + 3.5, words, "tick end")
    for value, words in across.ticks(3):
        body += svg.line(across(value), BOTTOM, across(value), BOTTOM + 4, "axis")
        body += svg.text(across(value), BOTTOM + 16, f"{words}×", "tick middle")
    body += svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis") + svg.line(LEFT, up(0), RIGHT, up(0), "zero")
    body += svg.text(0, 12, "Δm in %", "tick") + svg.text(LEFT + 24, 12, "↖ better: gains more, costs less", "tick")
    return body + svg.text(RIGHT, BOTTOM + 30, "step time", "tick end")


def names_beside(names: Sequence[str], places: Sequence[tuple[float, float]], zero: float) -> str:
    """Writes each name beside its point, clear of names, points and the line at 0. Without such a place it is left out.

    The page's key still tells whose marker it is.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places] + [(LEFT, zero, RIGHT, zero)]
    body = ""
    for name, (x, y) in zip(names, places, strict=True):
        short = svg.middle_out(name, NAME)
        width = svg.LETTER * len(short)
        starts = [(x + 9, y + 4), (x - 9 - width, y + 4)]
        starts += [(x + dx, y + dy) for dy in (-9, 17, -22, 30) for dx in (5, -5 - width)]
        for left, base in starts:
            box = (left, base - 10, left + width, base + 3)
            inside = box[0] > LEFT and box[2] < svg.WIDTH and box[1] > TOP - 4 and box[3] < BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                body += svg.text(left, base, short, "halo", name)
                break
    return body


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _alternative(points: Sequence[Point]) -> str:
    parts = (f"{look.name}: {number(x, 2)} times, {percent(y.mean)} {interval(y)}".strip() for look, x, y in points)
    return f"Relative step time and delta-m in percent. {'; '.join(parts)}."
