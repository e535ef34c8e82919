"""Writes and shows the results of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from mtlkit.files import write_whole
from mtlkit.study.claims import parse_claim
from mtlkit.study.comparison import Comparison
from mtlkit.study.page import write_page
from mtlkit.study.results_csv import write_results, write_tuning
from mtlkit.study.tables import latex, markdown, terminal
from mtlkit.study.verdicts import Verdict, judge
from mtlkit.terminal import Terminal

FILES = ("results.csv", "table.md", "table.tex", "compare.html")


def write_all(
    comparison: Comparison, folder: Path, claims: Sequence[str] = (), *, all_definitions: bool = False
) -> list[Verdict]:
    """Writes results.csv, table.md, table.tex and compare.html into a folder, and tuning.csv if there were trials.

    Returns the verdicts on the claims. The files are made anew from the runs at every call.
    """
    verdicts = [judge(comparison, parse_claim(claim)) for claim in claims]
    write_results(comparison, folder / "results.csv")
    if comparison.context.trials:
        write_tuning(comparison, folder / "tuning.csv")
    text = markdown(comparison, all_definitions=all_definitions, verdicts=verdicts)
    write_whole(folder / "table.md", text.encode())
    write_whole(folder / "table.tex", latex(comparison).encode())
    write_page(comparison, folder / "compare.html", verdicts)
    return verdicts


def show(comparison: Comparison, folder: Path, verdicts: Sequence[Verdict] = ()) -> None:
    """Prints the table, the verdicts on the claims, and where the results are."""
    console = Terminal()
    console.print(terminal(comparison, verdicts=verdicts, width=console.width))
    console.print(f"Results: {folder}/ {', '.join(FILES)}", highlight=False, soft_wrap=True)
