"""The sections of the report page about the task gradients: their conflicts, and what the balancer did with them."""

from html import escape

import numpy as np

from mtlkit.report import curves
from mtlkit.report.explanation import Sheet, conflict_sheet, direction_sheet, percent, share_sheet, signed
from mtlkit.report.gradients import WINDOW, Pair, cosines, directions, moving_deviation, pairs
from mtlkit.report.history import History, Series
from mtlkit.report.html import figure, grid, section, table

MAX_PAIRS = 10  #: up to this many pairs of tasks, each pair gets its own plot
MAX_TASKS = 10  #: the largest number of tasks in the table of conflicts


def conflicts(history: History) -> str:
    """Shows how the task gradients relate to each other. Returns "" if the log has no cosines."""
    known = pairs(history)
    if not known:
        return ""
    negative = sum(pair.mean < 0 for pair in known)
    note = f"Between task gradients; below 0 they conflict. Negative on average: {negative} of {len(known)} pairs."
    tasks = list(dict.fromkeys(task for pair in known for task in (pair.first, pair.second)))
    body = _plots(history, known, tasks)
    if len(tasks) <= MAX_TASKS:
        legend = (
            f"Colour and upper figure: the share of logged steps with a negative cosine. Below: the mean, ± the mean "
            f"standard deviation over {WINDOW} consecutive logged steps (over all steps, if there are fewer)."
        )
        body += f"<p>{legend}</p>{_heat_table(known, tasks)}"
    else:
        sheet = conflict_sheet(known)
        body += f"<p>{escape(' '.join(sheet.notes))}</p>{table(sheet.head, sheet.rows)}"
    if len(known) <= MAX_PAIRS:
        note += " In brackets: the mean."
    return section("Cosines", note, body)


def direction(history: History) -> str:
    """Shows the direction of the combined gradient and the favoured task. Returns "" without data or with one task."""
    found = directions(history)
    if len(found.tasks) < 2:
        return ""
    sheet = direction_sheet(history, found)
    series = found.series(found.alignment)
    if np.isfinite(found.cosine).any():
        series["plain sum"] = found.steps, found.cosine
    page = section(sheet.title, " ".join(sheet.notes), _table_and_plot(sheet, series, "cosine"))
    if found.weighted and len(found.steps):
        sheet = share_sheet(found)
        page += section(sheet.title, " ".join(sheet.notes), _table_and_plot(sheet, found.series(found.shares), "share"))
    return page


def _table_and_plot(sheet: Sheet, series: dict[str, Series], label: str) -> str:
    body = table(sheet.head, sheet.rows) if sheet.rows else ""
    return body + (figure("", curves.lines(series, label, parts=True)) if series else "")


def _plots(history: History, known: list[Pair], tasks: list[str]) -> str:
    series = cosines(history)
    if len(known) > MAX_PAIRS:
        band = figure("", curves.band({" · ".join(pair): values for pair, values in series.items()}))
        means = {(pair.first, pair.second): pair.mean for pair in known}
        return f'{band}<div class="map">{figure("", curves.pair_map(tasks, means))}</div>'
    options = {"color": curves.COLORS[0], "linewidth": 0.9}
    plots = [
        figure(
            f"{p.first} · {p.second} ({p.mean:+.2f})",
            curves.panel([(series[p.first, p.second], options)], {"-": 0.0}, limits=(-1.05, 1.05)),
        )
        for p in known
    ]
    moving = {
        " · ".join(pair): (steps[WINDOW - 1 :], moving_deviation(values))
        for pair, (steps, values) in series.items()
        if len(values) > WINDOW
    }
    caption = f"Standard deviation of the cosine over the last {WINDOW} logged steps"
    return grid(plots) + (figure(caption, curves.lines(moving, "deviation")) if moving else "")


def _heat_table(known: list[Pair], tasks: list[str]) -> str:
    cells = {}
    for pair in known:
        cells[pair.first, pair.second] = cells[pair.second, pair.first] = (
            f'<td class=heat style="background: rgba(196,41,43,{0.7 * pair.conflicts:.2f})">'
            f"{percent(pair.conflicts)}<small>{signed(pair.mean)} ± {pair.deviation:.3f}</small>"
        )
    head = "".join(f"<th class=heat>{escape(task)}" for task in tasks)
    rows = (f"<tr><td>{escape(a)}" + "".join(cells.get((a, b), "<td>") for b in tasks) for a in tasks)
    return f'<div class="scroll"><table><thead><tr><th>{head}<tbody>{"".join(rows)}</table></div>'
