"""The parts of the page: sections, panels, and tables of numbers that can be downloaded."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

Cell = str | float | int | None


@dataclass
class Numbers:
    """The numbers behind a figure: shown as a table, and downloaded as CSV under `name`."""

    name: str
    head: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)

    def csv(self) -> str:
        """Returns the table as CSV. A number that is not there is an empty cell."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows([_plain(cell, 6) for cell in row] for row in self.rows)
        return buffer.getvalue()

    def link(self) -> str:
        """Returns the link that downloads the CSV. It holds the data itself and needs no script."""
        data = quote(self.csv(), safe=",;:/()+=*!$'@?")
        return (
            f'<a class="csv" download="{self.name}.csv" href="data:text/csv;charset=utf-8,{escape(data)}">'
            f"{self.name}.csv</a>"
        )

    def details(self, *, printed: bool = True) -> str:
        """Returns the closed table with the link. `printed` says whether paper shows the table."""
        return (
            f'<div class="numbers"><details{"" if printed else " class=long"}><summary>Numbers'
            f"<small> ({len(self.rows)} rows)</small></summary>{scroll(self._table(), self.name)}</details>"
            f"{self.link()}</div>"
        )

    def _table(self) -> str:
        texts = [not row or isinstance(row, str) for row in (self.rows[0] if self.rows else self.head)]
        head = "".join(
            f"<th{' class=t' if is_text else ''} scope=col>{escape(name)}"
            for name, is_text in zip(self.head, texts, strict=True)
        )
        rows = ("".join(_cell(cell) for cell in row) for row in self.rows)
        return f'<table data-name="{self.name}"><thead><tr>{head}<tbody>{"".join(f"<tr>{row}" for row in rows)}</table>'


def _cell(cell: Cell) -> str:
    return f"<td class=t>{escape(cell)}" if isinstance(cell, str) else f"<td>{_plain(cell, 4) or '–'}"


def _plain(cell: Cell, digits: int) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or not math.isfinite(cell):
        return ""
    return str(cell) if isinstance(cell, int) else f"{cell:.{digits}g}"


def scroll(body: str, name: str) -> str:
    """Returns a box that scrolls and that the keyboard can reach."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{body}</div>'


def section(title: str, note: str, body: str) -> str:
    """Returns a section that links can name. `note` is text."""
    name = "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalpha() or letter == "-")
    return f'<section id="{name}"><h2>{escape(title)}</h2>{paragraph(note)}{body}</section>\n'


def paragraph(note: str) -> str:
    """Returns a paragraph of text, in which code stands between backticks, or "" for no text."""
    parts = escape(note).split("`")
    text = "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
    return f"<p>{text}</p>" if note else ""


def panel(title: str, drawing: str) -> str:
    caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    return f"<figure>{caption}{drawing}</figure>"


def panels(figures: Iterable[str]) -> str:
    return f'<div class="panels">{"".join(figures)}</div>'
