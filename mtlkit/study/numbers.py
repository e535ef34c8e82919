"""Numbers as text: the interval decides how many digits of a mean are shown."""

from mtlkit.study.statistics import Summary

NONE = "–"  #: stands for a figure that is not there


def mean_text(summary: Summary | None, seeds: int = 0, *, signed: bool = False, interval: bool = True) -> str:
    """Returns mean ± half the width of the 95 % interval, and n if it is below the number of seeds.

    Two significant digits of the half-width decide the decimals of the mean. Without an interval, the mean has four
    significant digits. Numbers below 1e-4 or from 1e6 have a power of ten. `interval=False` shows the mean alone.

    >>> mean_text(Summary(0.38214, 3, 0.378, 0.38634))
    '0.3821 ± 0.0042'
    >>> mean_text(Summary(0.5, 2), seeds=3), mean_text(Summary(1234.5678, 3, 1110.0, 1359.0))
    ('0.5000 (n=2)', '1230 ± 120')
    >>> mean_text(Summary(1.2345e-6, 3, 1.0345e-6, 1.4345e-6)), mean_text(None)
    ('(1.23 ± 0.20)e-6', '–')
    """
    if summary is None:
        return NONE
    half = summary.half
    if half is not None and half < 1e-9 * abs(summary.mean):
        half = 0.0  # only rounding errors differ
    power = _power(max(abs(summary.mean), half or 0.0))
    mean, half = summary.mean / 10.0**power, None if half is None else half / 10.0**power
    decimals = _decimals(half, 2) if half else _decimals(mean, 4)
    text = fixed(mean, decimals, signed)
    if half is not None and interval:
        text += f" ± {fixed(half, decimals) if half else 0}"
        text = f"({text})" if power else text
    text += f"e{power}" if power else ""
    return f"{text} (n={summary.n})" if summary.n < seeds else text


def interval_text(summary: Summary) -> str:
    """Returns the ends of the interval, with the digits that its mean has.

    >>> interval_text(Summary(-0.06, 3, -0.1021, -0.0179))
    '-0.102 to -0.018'
    """
    if summary.low is None or summary.high is None or summary.half is None:
        return NONE
    power = _power(max(abs(summary.low), abs(summary.high)))
    tail, scale = (f"e{power}" if power else ""), 10.0**power
    wide = summary.half > 1e-9 * abs(summary.mean)
    decimals = _decimals(summary.half / scale, 2) if wide else _decimals(summary.mean / scale, 4)
    return " to ".join(f"{fixed(end / scale, decimals)}{tail}" for end in (summary.low, summary.high))


def fixed(value: float, decimals: int, signed: bool = False) -> str:
    """Returns a number with this many decimals. Below 0, digits in front of the point become 0. There is no -0.

    >>> fixed(1234.5, -1), fixed(-0.001, 2), fixed(0.5, 2, signed=True)
    ('1230', '0.00', '+0.50')
    """
    text = f"{round(value, decimals):{'+' if signed else ''}.{max(decimals, 0)}f}"
    return text if float(text) else text.lstrip("+-")


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def p_text(p: float | None) -> str:
    """Returns a p value with two significant digits. It is never written as 0.

    >>> p_text(0.04321), p_text(0.0), p_text(None)
    ('0.043', '<1e-6', '–')
    """
    return NONE if p is None else "<1e-6" if p < 1e-6 else f"{p:.2g}"


def _decimals(value: float, digits: int) -> int:
    """Returns the number of decimals with which a value has this many significant digits. 0 has none."""
    return digits - 1 - int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0


def _power(largest: float) -> int:
    """Returns the power of ten that is written out: 0 for usual sizes."""
    return 0 if largest == 0 or 1e-4 <= largest < 1e6 else int(f"{largest:.3e}".split("e")[1])
