"""Claims of a study, such as "density of rotograd < density of uniform".

A claim is FIGURE of METHOD, then `<` or `>`, then one of

    FIGURE of METHOD                 depth/abs of rotograd < depth/abs of uniform
    NUMBER * FIGURE of METHOD        step_time of gradnorm W < 1.5 * step_time of uniform
    NUMBER                           delta_m of rotograd > 0

FIGURE is a metric ("depth/abs"), a task with exactly one metric ("density"), `gain in TASK` (in percent over
single-task training; positive is better), `delta_m` (in percent, in the definition of the study, which also decides
its sign) or `step_time` (in seconds). Both sides name the same figure. A name of a method may have spaces.

`mtlkit.study.verdicts` says what the runs say about them.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from mtlkit.registry import suggest
from mtlkit.study.outcome import SINGLE

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
        task, is_gain = task_of(claim.figure)
        if (is_gain or claim.figure == "delta_m") and not any(name.startswith(SINGLE) for name in methods):
            raise LookupError(f"The claim {str(claim)!r} needs single-task runs, which the study has not.")
        if claim.figure in WHOLE:
            continue
        if task not in tasks:
            known = [*tasks, *(() if is_gain else WHOLE)]
            raise LookupError(f"The claim {str(claim)!r} is about the task {task!r}. {suggest(task, known)}")
        if metrics and not is_gain:
            key_of(claim, metrics)


def key_of(claim: Claim, metrics: Collection[str]) -> str:
    """Returns the metric that a claim names. Raises `LookupError` if there is none, or more than one."""
    if claim.figure in metrics:
        return claim.figure
    of_task = sorted(key for key in metrics if key.partition("/")[0] == claim.figure)
    if len(of_task) == 1:
        return of_task[0]
    if of_task:
        raise LookupError(f"The claim {str(claim)!r} must name one metric of {claim.figure!r}: {', '.join(of_task)}.")
    raise LookupError(f"The claim {str(claim)!r} is about {claim.figure!r}. {suggest(claim.figure, metrics)}")


def task_of(figure: str) -> tuple[str, bool]:
    """Returns the task of a figure, and whether the figure is the gain in it."""
    gain = re.fullmatch(r"gain in (.+)", figure)
    return (gain[1], True) if gain else (figure.partition("/")[0], False)


def _figure(side: str, claim: str) -> tuple[str, str]:
    figure, of, method = side.partition(" of ")
    if not of or not figure.strip() or not method.strip():
        raise ValueError(f"The claim {claim!r} has {side!r} where FIGURE of METHOD should be; {EXPECTED}.")
    return figure.strip(), method.strip()
