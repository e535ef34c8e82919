"""How a method looks: the same colour, marker and dashes in every figure."""

from mtlkit.page.look import Look, look
from mtlkit.study.comparison import Comparison


def looks(comparison: Comparison) -> dict[str, Look]:
    """Returns the look of every row. Single-task training has the colour of the text."""
    found = {row: Look(row, "single", "1 3", "circle") for row in comparison.singles}
    return found | {name: look(name, place) for place, name in enumerate(comparison.methods)}
