"""What the colours of a task's pictures mean: classes, or a scale. Tasks say it, and report pages show it."""

from dataclasses import dataclass, field

Colour = tuple[int, int, int]
STOPS = 33  #: the number of colours by which a scale is stored


@dataclass(frozen=True)
class Classes:
    """Each class with its colour, `#rrggbb`, in the order of the task's `classes`."""

    colours: list[tuple[str, str]]


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


def hexed(colour: Colour) -> str:
    """Returns a colour as pages write it.

    >>> hexed((255, 0, 16))
    '#ff0010'
    """
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"
