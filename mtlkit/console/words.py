"""Numbers, times and names as the terminal shows them."""

from typing import Any

from mtlkit.plain_text import plain


def number(value: Any) -> str:
    """Formats a number with four significant digits. `-` means that it is missing.

    >>> [number(value) for value in (0.123456, 1234567, 1e-7, None, float("nan"))]
    ['0.1235', '1.235e+06', '1e-07', '-', 'nan']
    """
    return "-" if value is None else f"{value:.4g}"


def clock(seconds: float) -> str:
    """
    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def size(count: int) -> str:
    """
    >>> size(700 * 2**20), size(3 * 2**30)
    ('700 MiB', '3.00 GiB')
    """
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def clip(name: str, most: int = 32) -> str:
    """Returns a name as a terminal may show it, or its begin and its end where it is longer than `most`.

    >>> clip("Mouth_Slightly_Open", 12), clip("Bald", 12)
    ('Mouth_…_Open', 'Bald')
    """
    name = plain(name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - 1) // 2 :]}"
