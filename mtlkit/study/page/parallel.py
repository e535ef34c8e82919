"""The parallel plot of tasks: one axis per task, one line per method."""

from mtlkit.page import svg
from mtlkit.page.parts import Numbers, panel, paragraph, section
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.words import percent

TOP, NAMES, LEFT, RIGHT = 10, 82, 94, 348


def parallel(found: Findings) -> str:
    """Returns the section. The axes lie below each other, so that long names and many tasks have room."""
    tasks = [task for task in found.tasks if any(task in found.gains[row] for row in found.gaining)]
    if len(tasks) < 2:
        return section("Trade-off between tasks", "This takes gains in two or more tasks.", "")
    numbers = Numbers("parallel", ("method", *tasks))
    for row in found.gaining:
        gains = found.gains[row]
        numbers.rows.append([row, *(gains[task].mean if task in gains else None for task in tasks)])
    note = (
        f"Gain in percent over {found.comparison.base}, one axis per task, one line per method. Lines that cross: what "
        "one task wins, another loses."
    )
    return section(
        "Trade-off between tasks",
        "",
        panel("", _drawing(found, tasks)) + paragraph(note) + numbers.details(printed=False),
    )


def _drawing(found: Findings, tasks: list[str]) -> str:
    step = 44
    means = [0.0, *(one.mean for row in found.gaining for one in found.gains[row].values())]
    scale = svg.Scale(*svg.padded(means), LEFT, RIGHT)
    heights = {task: TOP + 8 + step * place for place, task in enumerate(tasks)}
    bottom = TOP + 16 + step * (len(tasks) - 1)
    body = ""
    for value, words in scale.ticks():
        body += svg.line(scale(value), TOP, scale(value), bottom)
        body += svg.text(scale(value), bottom + 14, words, "tick middle")
    for task, y in heights.items():
        body += svg.line(LEFT, y, RIGHT, y) + svg.label(0, y, task, NAMES)
    body += svg.line(scale(0), TOP, scale(0), bottom, "zero")
    body += svg.text(RIGHT, bottom + 28, "better →", "tick end") + svg.text(LEFT, bottom + 28, "gain in %", "tick")
    for row in found.gaining:
        points = [(scale(one.mean), heights[task]) for task, one in found.gains[row].items() if task in heights]
        look = found.looks[row]
        body += look.line(points) + "".join(look.marker(x, y) for x, y in points)
    return svg.picture(bottom + 34, _alternative(found), body)


def _alternative(found: Findings) -> str:
    parts = (
        f"{row}: {', '.join(f'{task} {percent(one.mean)}' for task, one in found.gains[row].items())}"
        for row in found.gaining
    )
    return f"Parallel plot of the gain in percent per task. {'; '.join(parts)}."
