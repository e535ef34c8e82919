"""What the colours of a task's pictures mean: classes, or a scale. Tasks say it, and report pages show it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

STOPS = 33  #: the number of colours by which a scale is stored


@dataclass(frozen=True)
class Classes:
    """Each class with its colour, `#rrggbb`, in the order of the task's `classes`.

    `note` says in a sentence what else the colours mean, such as what is black.
    """

    colours: list[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """The colours of numbers from `low` to `high`, evenly spread. Numbers beyond have the first or the last colour.

    `note` says in a sentence what else the colours mean, such as what is black.
    """

    low: float
    high: float
    colours: list[str] = field(default_factory=list)
    unit: str = ""
    note: str = ""


#: A text says what the colours mean where they are neither classes nor a scale.
Legend = Classes | Scale | str


def hexed(colour: Iterable[int]) -> str:
    """Returns a colour, red, green and blue from 0 to 255, as pages write it. Further numbers do not count.

    >>> hexed((255, 0, 16))
    '#ff0010'
    """
    red, green, blue, *_ = colour
    return f"#{red:02x}{green:02x}{blue:02x}"


def stops(colours: Callable[[float], Iterable[int]]) -> list[str]:
    """Returns the colours of a scale: those that a function has for the numbers from 0 to 1.

    >>> stops(lambda share: [round(255 * share)] * 3)[::16]
    ['#000000', '#808080', '#ffffff']
    """
    return [hexed(colours(i / (STOPS - 1))) for i in range(STOPS)]
