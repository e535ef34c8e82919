"""The console on which mtlkit shows tables and progress: rich's, for texts that may come from files."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mtlkit.plain_text import plain


class Terminal(Console):
    """A console whose texts are shown as they are: without markup such as [red], emoji codes and control characters.

    >>> Terminal(width=40).print("[red]a:smile:[/] \\x1b[2J")
    [red]a:smile:[/] \\x1b[2J
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Any:
        return super().render_str(plain(text), **options)  # here too, so that columns get the right width

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)
