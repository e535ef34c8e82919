"""Mean ranks with the critical difference: which methods cannot be told apart."""

from mtlkit.page import svg
from mtlkit.page.parts import Numbers, panel, paragraph, section
from mtlkit.study.numbers import counted
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.words import joined, number, p_text
from mtlkit.study.ranking import unranked
from mtlkit.study.statistics import Ranks

ROW, TOP, NAMES, LEFT, RIGHT = 25, 44, 96, 112, 270


def rank_diagram(found: Findings) -> str:
    """Returns the section, or a sentence if there is nothing to rank."""
    ranks = found.ranks
    out = unranked(found.comparison)
    left_out = f" Without {joined(out)}: figures are missing." if out else ""
    if len(ranks.mean) < 2:
        return section("Mean ranks", f"Ranks take two methods with all figures.{left_out}", "")
    order = sorted(ranks.mean, key=ranks.mean.__getitem__)
    numbers = Numbers("ranks", ("method", "mean rank"), [[row, ranks.mean[row]] for row in order])
    note = paragraph(_note(found) + left_out)
    return section("Mean ranks", "", panel("", _drawing(found, order)) + note + numbers.details())


def _note(found: Findings) -> str:
    comparison, ranks = found.comparison, found.ranks
    tasks, seeds = counted(len(comparison.tasks), "task"), counted(len(comparison.seeds), "seed")
    words = [
        f"1 is best. Each of the {ranks.blocks} blocks is one task with one seed ({tasks}, {seeds}); blocks of a task "
        "share its data, so the ranks speak of these tasks only. Tasks of one run are not quite independent, as the "
        "test assumes."
    ]
    if ranks.critical is not None:
        words.append(
            f"Methods that differ by less than the critical difference, {ranks.critical:.2f}, cannot be told apart "
            "(Nemenyi, 5 %): a bar at the right joins them."
        )
    if ranks.p is not None:
        words.append(f"Friedman's test of any difference: {p_text(ranks.p)}.")
    return " ".join(words)


def groups(ranks: Ranks, order: list[str]) -> list[tuple[int, int]]:
    """Returns the largest runs of neighbours in the order that cannot be told apart, as first and last place."""
    found: list[tuple[int, int]] = []
    means, critical = [ranks.mean[row] for row in order], ranks.critical or 0.0
    for first in range(len(order)):
        near = [place for place in range(first, len(order)) if means[place] - means[first] < critical]
        if len(near) > 1 and not (found and found[-1][1] >= near[-1]):
            found.append((first, near[-1]))
    return found


def _drawing(found: Findings, order: list[str]) -> str:
    ranks = found.ranks
    scale = svg.Scale(1, len(order), LEFT, RIGHT)
    bottom = TOP + ROW * len(order)
    body = ""
    for rank in range(1, len(order) + 1):
        body += svg.line(scale(rank), TOP, scale(rank), bottom)
        if len(order) <= 8 or rank % 2:
            body += svg.text(scale(rank), TOP - 6, str(rank), "tick middle")
    body += svg.line(LEFT, TOP, RIGHT, TOP, "axis") + svg.text(NAMES, TOP - 6, "← better", "tick end")
    for place, row in enumerate(order):
        y, x = TOP + ROW * (place + 0.5), scale(ranks.mean[row])
        body += svg.label(0, y, row, NAMES) + svg.line(LEFT, y, x, y, "lead") + found.looks[row].marker(x, y, 4.5)
        body += svg.text(RIGHT + 36, y + 4, number(ranks.mean[row], 2), "figures end")
    if ranks.critical is not None:
        body += _critical(ranks, order, scale)
    return svg.picture(bottom + 6, _alternative(found, order), body)


def _critical(ranks: Ranks, order: list[str], scale: svg.Scale) -> str:
    """Draws the length of the critical difference above the axis, and bars that join what cannot be told apart."""
    end = scale.inside(1 + (ranks.critical or 0))
    body = svg.line(LEFT, 18, end, 18, "same") + svg.text(LEFT, 11, f"critical difference {ranks.critical:.2f}", "tick")
    body += svg.line(LEFT, 14, LEFT, 22, "zero") + svg.line(end, 14, end, 22, "zero")
    for place, (first, last) in enumerate(groups(ranks, order)):
        x = RIGHT + 48 + 8 * place
        body += svg.line(x, TOP + ROW * first + 4, x, TOP + ROW * (last + 1) - 4, "same")
    return body


def _alternative(found: Findings, order: list[str]) -> str:
    ranks = found.ranks
    text = "Mean ranks: " + "; ".join(f"{row} {ranks.mean[row]:.2f}" for row in order) + "."
    if ranks.critical is None:
        return text
    together = "; ".join(joined(order[first : last + 1]) for first, last in groups(ranks, order)) or "none"
    return f"{text} Critical difference {ranks.critical:.2f}. Cannot be told apart: {together}."
