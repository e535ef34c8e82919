"""Claims of a study, such as "density of rotograd < density of uniform", and what the runs say about them.

A claim is FIGURE of METHOD, then `<` or `>`, then one of

    FIGURE of METHOD                 depth/abs of rotograd < depth/abs of uniform
    NUMBER * FIGURE of METHOD        step_time of gradnorm W < 1.5 * step_time of uniform
    NUMBER                           delta_m of rotograd > 0

FIGURE is a metric ("depth/abs"), a task with exactly one metric ("density"), `gain in TASK` (in percent over
single-task training; positive is better), `delta_m` (in percent, in the definition of the study, which also decides
its sign) or `step_time` (in seconds). Both sides name the same figure. A name of a method may have spaces.

Each verdict stands alone: its interval holds in 95 % of all cases, and nothing is adjusted for the number of claims.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtlkit.registry import suggest
from mtlkit.study.comparison import BySeed, Comparison
from mtlkit.study.cost import step_times
from mtlkit.study.delta_m import Result
from mtlkit.study.gains import delta, gains_by_seed
from mtlkit.study.numbers import interval_text, mean_text
from mtlkit.study.outcome import SINGLE
from mtlkit.study.statistics import FEWEST, Summary, summarise

WHOLE = ("delta_m", "step_time")  #: figures of a method that belong to no task
EXPECTED = "expected FIGURE of METHOD < [NUMBER *] FIGURE of METHOD, or FIGURE of METHOD > NUMBER"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Claim:
    """A claim: the figure of `method` lies on the side `sign` of `factor` times that of `other`, or of `bound`."""

    text: str
    figure: str
    method: str
    sign: Literal["<", ">"]
    other: str = ""
    factor: float = 1.0
    bound: float = 0.0

    @property
    def methods(self) -> list[str]:
        return [self.method, self.other] if self.other else [self.method]

    def __str__(self) -> str:
        return self.text


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


def parse_claim(text: str) -> Claim:
    """Reads a claim. Raises `ValueError` with what was expected.

    >>> claim = parse_claim("step_time of gradnorm W < 1.5 * step_time of uniform")
    >>> claim.figure, claim.method, claim.sign, claim.factor, claim.other
    ('step_time', 'gradnorm W', '<', 1.5, 'uniform')
    >>> parse_claim("depth/abs of rotograd is small")
    Traceback (most recent call last):
    ValueError: The claim 'depth/abs of rotograd is small' has no < or >; expected FIGURE of METHOD < ...
    """
    words = " ".join(str(text).split())
    if "<=" in words or ">=" in words:
        raise ValueError(f"The claim {words!r} has <= or >=; write < or >. An interval cannot tell them apart.")
    signs: list[Literal["<", ">"]] = [sign for sign in words if sign in "<>"]  # type: ignore[misc]
    if len(signs) != 1:
        raise ValueError(f"The claim {words!r} has {'more than one' if signs else 'no'} < or >; {EXPECTED}.")
    left, right = (side.strip() for side in words.split(signs[0]))
    figure, method = _figure(left, words)
    if re.fullmatch(NUMBER, right):
        return Claim(words, figure, method, signs[0], bound=float(right))
    factor, rest = 1.0, right
    if times := re.fullmatch(rf"({NUMBER}) ?\* ?(.+)", right):
        factor, rest = float(times[1]), times[2]
    same, other = _figure(rest, words)
    if same != figure:
        raise ValueError(f"The claim {words!r} compares {figure!r} with {same!r}; both sides must name one figure.")
    if other == method:
        raise ValueError(f"The claim {words!r} compares {method!r} with itself.")
    return Claim(words, figure, method, signs[0], other, factor)


def check_claims(
    claims: Iterable[Claim], methods: Collection[str], tasks: Collection[str], metrics: Collection[str] = ()
) -> None:
    """Raises `LookupError` if a claim names a method, task or metric that the study has not.

    Call it before any run starts. `methods` are the names of the study, with "single-task" if it has such runs. Without
    `metrics`, which are usually not known then, only the task of a metric is checked.

    >>> check_claims([parse_claim("depth of rotogrd > 0")], ["rotograd", "uniform"], ["depth"])
    Traceback (most recent call last):
    LookupError: The claim 'depth of rotogrd > 0' is about the method 'rotogrd', which the study has not. Did you ...
    """
    for claim in claims:
        for method in claim.methods:
            if method not in methods:
                tail = suggest(method, methods)
                what = f"The claim {str(claim)!r} is about the method {method!r}"
                raise LookupError(f"{what}, which the study has not. {tail}")
        task, is_gain = _task(claim.figure)
        if (is_gain or claim.figure == "delta_m") and not any(name.startswith(SINGLE) for name in methods):
            raise LookupError(f"The claim {str(claim)!r} needs single-task runs, which the study has not.")
        if claim.figure in WHOLE:
            continue
        if task not in tasks:
            known = [*tasks, *(() if is_gain else WHOLE)]
            raise LookupError(f"The claim {str(claim)!r} is about the task {task!r}. {suggest(task, known)}")
        if metrics and not is_gain:
            _key(claim, metrics)


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
    task, is_gain = _task(claim.figure)
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
        return comparison.values(method, _key(claim, {key for one in comparison.outcomes for key in one.metrics}))
    except LookupError as error:
        return str(error)


def _key(claim: Claim, metrics: Collection[str]) -> str:
    """Returns the metric that a claim names. Raises `LookupError` if there is none, or more than one."""
    if claim.figure in metrics:
        return claim.figure
    of_task = sorted(key for key in metrics if key.partition("/")[0] == claim.figure)
    if len(of_task) == 1:
        return of_task[0]
    if of_task:
        raise LookupError(f"The claim {str(claim)!r} must name one metric of {claim.figure!r}: {', '.join(of_task)}.")
    raise LookupError(f"The claim {str(claim)!r} is about {claim.figure!r}. {suggest(claim.figure, metrics)}")


def _task(figure: str) -> tuple[str, bool]:
    """Returns the task of a figure, and whether the figure is the gain in it."""
    gain = re.fullmatch(r"gain in (.+)", figure)
    return (gain[1], True) if gain else (figure.partition("/")[0], False)


def _figure(side: str, claim: str) -> tuple[str, str]:
    figure, of, method = side.partition(" of ")
    if not of or not figure.strip() or not method.strip():
        raise ValueError(f"The claim {claim!r} has {side!r} where FIGURE of METHOD should be; {EXPECTED}.")
    return figure.strip(), method.strip()
