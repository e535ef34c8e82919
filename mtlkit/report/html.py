"""The HTML parts of the report page."""

from collections.abc import Sequence
from html import escape

from mtlkit.page.parts import scroll


def table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes an HTML table of text. The first column is aligned left, the numbers are aligned right."""
    headings = f"<th scope=col>{escape(head[0])}" + "".join(f"<th scope=col class=n>{escape(one)}" for one in head[1:])
    lines = (
        f"<tr><th scope=row>{escape(row[0])}" + "".join(f"<td class=n>{escape(text)}" for text in row[1:])
        for row in rows
    )
    return scroll(f"<table><thead><tr>{headings}<tbody>{''.join(lines)}</table>", name)


def facts(values: dict[str, str]) -> str:
    """Makes a list of facts of the values that are known."""
    items = "".join(f"<dt>{escape(key)}<dd>{escape(value)}" for key, value in values.items() if value)
    return f"<dl class=facts>{items}</dl>" if items else ""
