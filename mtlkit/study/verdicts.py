"""What the runs of a study say about its claims.

Each verdict stands alone: its interval holds in 95 % of all cases, and nothing is adjusted for the number of claims.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtlkit.study.claims import Claim, key_of, task_of
from mtlkit.study.comparison import BySeed, Comparison
from mtlkit.study.cost import step_times
from mtlkit.study.delta_m import Result
from mtlkit.study.gains import delta, gains_by_seed
from mtlkit.study.numbers import interval_text, mean_text
from mtlkit.study.statistics import FEWEST, Summary, summarise


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a claim.

    Attributes:
        difference: left minus right side over the common seeds, with its 95 % interval. None: there is no such seed.
        grounds: the numbers and the reason, in words.
        sentence: the claim, the verdict and its grounds.
    """

    claim: Claim
    verdict: Literal["confirmed", "refuted", "undecided"]
    difference: Summary | None
    grounds: str

    @property
    def sentence(self) -> str:
        return f"{self.claim}: {self.verdict}. {self.grounds}"

    @property
    def n(self) -> int:
        """The number of seeds that the difference is a mean over."""
        return self.difference.n if self.difference else 0

    def __str__(self) -> str:
        return self.sentence


def judge(comparison: Comparison, claim: Claim) -> Verdict:
    """Returns what the runs say about a claim.

    The difference of the two sides is paired by seed. The claim is confirmed if the whole 95 % interval of the mean
    difference lies on the claimed side of 0, refuted if it lies on the other side, and otherwise undecided. It is
    always undecided with fewer than three seeds, and if a figure of any seed is missing: the runs that remain may be
    the ones that went well.
    """
    found = []
    for method in claim.methods:
        values = _values(comparison, claim, method)
        if isinstance(values, str):
            return Verdict(claim, "undecided", None, values)
        found.append(values)
    left, right = found[0], found[1] if claim.other else dict.fromkeys(found[0], claim.bound)
    seeds = [seed for seed in left if seed in right]
    if not seeds:
        return Verdict(claim, "undecided", None, _missing(comparison, claim, found))
    difference = summarise([left[seed] - claim.factor * right[seed] for seed in seeds])
    reason = _missing(comparison, claim, found)
    if not reason and difference.n < FEWEST:
        reason = f"It takes at least {FEWEST} seeds."
    verdict = "undecided" if reason else _side(difference, claim.sign)
    interval = "" if difference.low is None else f", 95 % interval {interval_text(difference)}"
    number = mean_text(difference, signed=True, interval=False)
    numbers = f"Left minus right: {number}{interval}, {difference.n} {'seed' if difference.n == 1 else 'seeds'}"
    test = _conditions(comparison, claim)
    return Verdict(claim, verdict, difference, f"{numbers}{test}.{reason and ' '}{reason}")


def judged(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yields the sentences of verdicts, after one that counts them and says that nothing is adjusted."""
    if not verdicts:
        return
    counts = ", ".join(
        f"{sum(one.verdict == kind for one in verdicts)} {kind}" for kind in ("confirmed", "refuted", "undecided")
    )
    k = f"{len(verdicts)} {'claim' if len(verdicts) == 1 else 'claims'}"
    alone = " Each verdict stands alone at 95 %; nothing is adjusted for their number." if len(verdicts) > 1 else ""
    yield f"{k}: {counts}.{alone}"
    yield from (one.sentence for one in verdicts)


def _conditions(comparison: Comparison, claim: Claim) -> str:
    """Says what limits a verdict, whatever its numbers are."""
    if claim.figure != "step_time":
        return ", TEST DATA" if comparison.on_test else ""
    shared = comparison.context.at_a_time or 1
    return f", {shared} runs shared the machine" if shared > 1 else ""


def _side(difference: Summary, sign: str) -> Literal["confirmed", "refuted", "undecided"]:
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "undecided"
    return "confirmed" if (difference.mean < 0) == (sign == "<") else "refuted"


def _missing(comparison: Comparison, claim: Claim, found: Sequence[BySeed]) -> str:
    """Says which figures are missing; empty if none is."""
    parts = []
    for method, values in zip(claim.methods, found, strict=True):
        if lacking := [str(seed) for seed in comparison.seeds if seed not in values]:
            parts.append(f"{method} has no such figure of seed {', '.join(lacking)}.")
    return " ".join(parts)


def _values(comparison: Comparison, claim: Claim, method: str) -> BySeed | str:
    """Returns the figures of one side by seed, or why there is none."""
    if method not in comparison.rows:
        return f"{method} has no finished run."
    if claim.figure == "step_time":
        return step_times(comparison, method)
    task, is_gain = task_of(claim.figure)
    if (is_gain or claim.figure == "delta_m") and not comparison.singles:
        return "There are no single-task runs."
    if claim.figure == "delta_m":
        result = delta(comparison, method)
        if isinstance(result, Result):
            return dict(result.by_seed) or "This definition of delta-m has no value by seed; use seeds: ratios."
        return result
    if is_gain:
        return gains_by_seed(comparison, method).get(task, f"There is no gain in {task} of {method}.")
    try:
        return comparison.values(method, key_of(claim, [metric.key for metric in comparison.metrics]))
    except LookupError as error:
        return str(error)
