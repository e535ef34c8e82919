"""The HTML parts of the report page."""

from collections.abc import Collection, Sequence
from html import escape

MAX_PANELS = 24  #: more plots than this are shown in a box that scrolls


def section(title: str, note: str, body: str) -> str:
    return f"<h2>{title}</h2>{f'<p>{escape(note)}</p>' if note else ''}{body}\n"


def grid(figures: Collection[str]) -> str:
    return f'<div class="grid{" scroll" if len(figures) > MAX_PANELS else ""}">{"".join(figures)}</div>'


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes an HTML table of text. The first column is aligned left, the numbers are aligned right."""
    headings = f"<th>{escape(head[0])}" + "".join(f'<th class="n">{escape(text)}' for text in head[1:])
    lines = (f"<tr><td>{escape(row[0])}" + "".join(f'<td class="n">{escape(text)}' for text in row[1:]) for row in rows)
    return f'<div class="scroll"><table><thead><tr>{headings}<tbody>{"".join(lines)}</table></div>'
