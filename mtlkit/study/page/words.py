"""Puts figures into words for the page. A minus is the sign U+2212, which is as wide as the plus."""

import math
from collections.abc import Iterable

from mtlkit.study.numbers import NONE
from mtlkit.study.statistics import Summary


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """Returns a number with these decimals. A value that rounds to 0 has no sign.

    >>> number(-0.126, 2), number(0.5, 1, sign=True), number(-0.001, 2, sign=True), number(None, 1)
    ('−0.13', '+0.5', '0.00', '–')
    """
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{abs(value):.{decimals}f}"
    if not float(text):
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def decimals_of(values: Iterable[float | None]) -> int:
    """Returns how many decimals give the largest value four significant digits.

    >>> decimals_of([0.47, 0.09]), decimals_of([25.01]), decimals_of([])
    (4, 2, 3)
    """
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return min(9, max(0, 3 - math.floor(math.log10(largest)))) if largest else 3


def percent(value: float | None) -> str:
    """Returns a gain in percent with its sign: one decimal, or none from 100 on."""
    return number(value, 0 if value is not None and abs(value) >= 100 else 1, sign=True)


def interval(one: Summary) -> str:
    """Returns the 95 % interval of a gain in percent, or "" if there is none."""
    if one.low is None or one.high is None:
        return ""
    return f"[{percent(one.low).removeprefix('+')}, {percent(one.high).removeprefix('+')}]"


def p_text(p: float | None) -> str:
    """Returns "p = 0.031", or "p < 0.001".

    >>> p_text(0.0312), p_text(0.0), p_text(1.0), p_text(None)
    ('p = 0.031', 'p < 0.001', 'p = 1', '')
    """
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def joined(names: Iterable[str]) -> str:
    """Joins names as a sentence does.

    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    *first, last = list(names)
    return f"{', '.join(first)} and {last}" if first else last
