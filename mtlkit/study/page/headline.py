"""The top of the page: which method is best, whether that is more than noise, and what a reader must know."""

from collections.abc import Sequence
from html import escape

from mtlkit.study.numbers import counted
from mtlkit.study.outcome import SINGLE
from mtlkit.study.page.findings import Findings
from mtlkit.study.page.words import joined, number, percent
from mtlkit.study.remarks import remarks
from mtlkit.study.statistics import FEWEST, LEVEL, difference, holm
from mtlkit.study.verdicts import Verdict


def headline(found: Findings, verdicts: Sequence[Verdict]) -> str:
    """Returns the title, the answer, the kind of the figures, the remarks and the verdicts."""
    comparison = found.comparison
    kind = comparison.kind.replace("val figures", "Validation figures").replace("test figures", "Test figures")
    label = '<strong class="test">Test data</strong> ' if "test" in comparison.kind else ""
    seeds = f"{counted(len(comparison.seeds), 'seed')}: {', '.join(map(str, comparison.seeds))}"
    items = "".join(f"<li>{escape(text)}" for text in remarks(comparison))
    return (
        f"<header><h1>{escape(comparison.context.title)}</h1>"
        f'<p class="answer">{escape(answer(found))}</p>'
        f'<p class="kind">{label}{escape(kind)} · {counted(len(comparison.methods), "method")} · '
        f"{counted(len(comparison.tasks), 'task')} · {escape(seeds)}</p>"
        f"{_verdicts(verdicts)}{f'<ul class=remarks>{items}</ul>' if items else ''}</header>\n"
    )


def answer(found: Findings) -> str:
    """Says which method is best on average, by how much, and from which others it can be told apart."""
    means = {row: one.mean for row in found.gaining if (one := found.delta(row))}
    if not means:
        return _by_rank(found)
    best = max(means, key=means.__getitem__)
    one = found.delta(best)
    base = found.comparison.base
    over = "single-task training" if base == SINGLE else base
    brackets = f" (95 % interval {percent(one.low)} to {percent(one.high)})" if one and one.low is not None else ""
    least = len(means) > 1 and means[best] < 0
    verb = "loses least" if least else "is best"
    head = f"{best} {verb} on average: Δm {percent(means[best])} %{brackets} over {over}"
    others = [row for row in means if row != best]
    return f"{head}. {_noise(found, best, others)}" if others else f"{head}."


def _noise(found: Findings, best: str, others: list[str]) -> str:
    """Says from which others the best method can be told apart, by paired t tests after Holm's adjustment."""
    own = found.delta_by_seed(best)
    pairs = {row: difference(own, found.delta_by_seed(row)) for row in others}
    p = {row: one.p for row, one in pairs.items() if one and one.p is not None}
    if len(p) < len(others):
        return f"Whether that is more than noise is unknown: it takes {FEWEST} common seeds of each method."
    adjusted = dict(zip(p, holm([value for value in p.values() if value is not None]), strict=True))
    clear = [row for row in others if adjusted[row] < 1 - LEVEL]
    unclear = [row for row in others if row not in clear]
    if not unclear:
        return f"That is more than noise against {'all others' if len(clear) > 1 else clear[0]}."
    if not clear:
        return f"That is not more than noise: it cannot be told apart from {joined(unclear)}."
    return f"That is more than noise against {joined(clear)}, but it cannot be told apart from {joined(unclear)}."


def _by_rank(found: Findings) -> str:
    """Says which method has the best mean rank, for comparisons without delta-m."""
    mean, critical = found.ranks.mean, found.ranks.critical
    if len(mean) < 2:
        return "There is neither delta-m nor a mean rank, so no method can be called best."
    best, *others = sorted(mean, key=mean.__getitem__)
    head = f"{best} has the best mean rank, {number(mean[best], 2)} of {len(mean)}."
    if critical is None:
        return f"{head} Whether that is more than noise is unknown."
    unclear = [row for row in others if mean[row] - mean[best] < critical]
    if unclear:
        return f"{head} That is not more than noise: it cannot be told apart from {joined(unclear)}."
    return f"{head} That is more than noise against all others."


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(one.claim))}<td><strong class={_STYLES.get(one.verdict, 'soft')}>{one.verdict}</strong>"
        f"<td>{escape(one.grounds)}"
        for one in verdicts
    )
    head = "<tr><th scope=col>Claim<th scope=col>Verdict<th scope=col>Grounds"
    return f'<table class="verdicts"><thead>{head}<tbody>{rows}</table>' if rows else ""


_STYLES = {"confirmed": "good", "refuted": "bad"}
