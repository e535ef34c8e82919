"""The results of a comparison as text: `table.md`, `table.tex`, and what the terminal shows."""

import re
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mtlkit.report.many import EACH, is_many
from mtlkit.study.comparison import Comparison
from mtlkit.study.remarks import remarks
from mtlkit.study.statistics import FEWEST
from mtlkit.study.table_notes import cost_notes, delta_notes, figures_note, notes
from mtlkit.study.table_rows import (
    Cell,
    Column,
    Table,
    definitions_table,
    differences_table,
    gains_table,
    main_table,
    overview_table,
)
from mtlkit.study.verdicts import Verdict, judged

TEST = "TEST DATA"  #: the label of figures of test data
NEAR = "≈"  #: behind a figure that is within noise of the best, where text cannot be underlined
LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}", '"': "''"},
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$", "±": r"$\pm$", "–": "--", "°": r"$^\circ$"},
    **{"²": r"$^2$", "µ": r"$\mu$", "μ": r"$\mu$"},
}
WIDEST = 6  #: columns of numbers in one `tabular`, which fit across a page


def markdown(comparison: Comparison, *, all_definitions: bool = False, verdicts: Sequence[Verdict] = ()) -> str:
    """Returns `table.md`: the tables, then everything that a reader must know with them.

    The best method of a column is bold. One that is within noise of it has a sign, which the text explains.
    `all_definitions` adds delta-m in all definitions side by side.
    """
    tables = [main_table(comparison)]
    if len(comparison.rows) > 1:
        tables += [gains_table(comparison), differences_table(comparison)]
        tables += [definitions_table(comparison)] if all_definitions else []
    lines = [f"# {_md(comparison.context.title)}", ""]
    if comparison.on_test:
        lines += [f"**{TEST}.** {_md(figures_note(comparison))}", ""]
    for table in tables:
        lines += [f"## {_md(table.title)}", "", *_md_rows(table), ""]
        if table is tables[0]:
            lines += [_md(marks(comparison, "bold", f"{NEAR} marks")), ""]
    for heading, sentences in ({"Claims": list(judged(verdicts))} | notes(comparison)).items():
        if sentences:
            lines += [f"## {heading}", "", *(f"- {_md(sentence)}" for sentence in sentences), ""]
    if comparison.context.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", comparison.context.command)), default=0))
        lines += ["The command:", "", fence, comparison.context.command, fence, ""]
    return "\n".join(lines)


def latex(comparison: Comparison) -> str:
    """Returns `table.tex`, a table for a paper. It needs the package booktabs.

    The best method of a column is bold, one that is within noise of it is underlined. A wide table becomes several
    `tabular` in one float. The caption says what is shown. The remarks are comments at the end.
    """
    caption = [f"{comparison.context.title}.", *([f"{TEST}."] if comparison.on_test else []), figures_note(comparison)]
    caption += [marks(comparison, "Bold", "underlined"), *delta_notes(comparison), *cost_notes(comparison)]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table*}", r"  \centering", r"  \small"]
    lines.append(f"  \\caption{{{_tex(' '.join(caption))}}}")
    for place, part in enumerate(main_table(comparison).parts(lambda columns: len(columns) <= WIDEST + 1)):
        lines += [r"  \par\medskip"] if place else []
        lines.append(rf"  \begin{{tabular}}{{l{'r' * (len(part.columns) - 1)}}}")
        lines += [r"    \toprule", f"    {' & '.join(_tex(column.heading) for column in part.columns)} \\\\"]
        lines.append(r"    \midrule")
        lines += [f"    {' & '.join(map(_tex_cell, row))} \\\\" for row in part.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines.append(r"\end{table*}")
    lines += [f"% {' '.join(sentence.split())}" for sentence in remarks(comparison)]
    return "\n".join([*lines, ""])


def terminal(comparison: Comparison, *, verdicts: Sequence[Verdict] = (), width: int = 100) -> RenderableType:
    """Returns a short text for the terminal: one table, what it shows, remarks and verdicts.

    If the metrics do not fit, there is one column per task, the gain in percent (of many tasks: the few on which the
    methods differ most). If these do not fit either, they lose their intervals, and then the table comes in parts. A
    number is never wrapped if the console has this width.
    """

    def fits(columns: Sequence[Column]) -> bool:
        return sum(_width(column) + 2 for column in columns) <= width

    choices: tuple[Callable[[], Table], ...] = (
        lambda: main_table(comparison),
        lambda: overview_table(comparison),
        lambda: overview_table(comparison, intervals=False),
    )
    table = choices[0]()
    for choice in choices[1:]:
        if fits(table.columns):
            break
        table = choice()
    title = Text(comparison.context.title, "bold")
    if comparison.on_test:
        title.append(f"  {TEST}", "bold red")
    shown: list[RenderableType] = [title, *(_rich(part) for part in table.parts(fits))]
    is_main = table.title == "Results"
    lines = [] if is_main else [f"{table.title}, mean over the metrics of a task; positive is better."]
    if not is_main and is_many(comparison.tasks):
        few = f"Shown are the {EACH} of {len(comparison.tasks)} tasks on which the methods differ most"
        lines.append(f"{few}; compare.html and table.md have all of them, and every metric.")
    lines += [figures_note(comparison), marks(comparison, "Bold", f"{NEAR} marks"), *delta_notes(comparison)]
    lines += cost_notes(comparison)
    shown += [Text(line, "dim") for line in lines]
    shown += [Text(f"! {line}", "yellow") for line in remarks(comparison)]
    shown += [Text(line, _style(line)) for line in judged(verdicts)]
    return Group(*shown)


def marks(comparison: Comparison, best: str, near: str) -> str:
    """Says what the marks of a table mean. Single-task training does not take part.

    `best` and `near` are the marks in words, such as "Bold" and "underlined".
    """
    text = f"{best[0].upper()}{best[1:]}: the best mean of the multi-task methods"
    if len(comparison.seeds) < FEWEST:
        return f"{text}; with fewer than {FEWEST} seeds, nothing is known about noise."
    return f"{text}; {near}: within noise of it (the 95 % interval of the paired difference to it contains 0)."


# -- Markdown ---------------------------------------------------------------------------------------------------


def _md(text: str) -> str:
    """Escapes what Markdown and tables of Markdown would take for marks."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&$])", r"\\\1", " ".join(text.split()))


def _md_rows(table: Table) -> Iterator[str]:
    aligned = [":--" if place < table.keys else "--:" for place in range(len(table.columns))]
    rows = [[_md(column.heading) for column in table.columns], aligned]
    rows += [[_md_cell(cell) for cell in row] for row in table.rows]
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _md_cell(cell: Cell) -> str:
    text = _md(cell.text)
    return f"**{text}**" if cell.mark == "best" else f"{text} {NEAR}" if cell.mark == "near" else text


# -- LaTeX ------------------------------------------------------------------------------------------------------


def _tex(text: str) -> str:
    """Escapes the special characters of LaTeX, and writes the signs of this module with its commands."""
    return "".join(LATEX.get(char, char) for char in " ".join(text.split()))


def _tex_cell(cell: Cell) -> str:
    text = re.sub(r"(?<![^\s(])-(?=\d)", "$-$", _tex(cell.text))
    return rf"\textbf{{{text}}}" if cell.mark == "best" else rf"\underline{{{text}}}" if cell.mark == "near" else text


# -- terminal ---------------------------------------------------------------------------------------------------

LONGEST = 32  #: the width of a method's name before it takes a second line


def _width(column: Column) -> int:
    numbers = [cell_len(cell.text) + 2 * (cell.mark == "near") for cell in column.cells]
    longest = max(cell_len(column.name), cell_len(column.detail), *numbers)
    return min(longest, LONGEST) if column.name == "method" else longest


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(table.columns):
        key = place < table.keys
        heading = Text(f"{column.name}\n{column.detail}")
        width = _width(column)
        shown.add_column(heading, justify="left" if key else "right", no_wrap=not key, min_width=width, max_width=width)
    for row in table.rows:
        shown.add_row(*(_rich_cell(cell) for cell in row))
    return shown


def _rich_cell(cell: Cell) -> Text:
    if cell.mark == "near":
        return Text(f"{cell.text} {NEAR}")
    return Text(cell.text, "bold" if cell.mark == "best" else "")


def _style(line: str) -> str:
    for word, style in (("confirmed", "green"), ("refuted", "red"), ("undecided", "yellow")):
        if f": {word}" in line:
            return style
    return ""
