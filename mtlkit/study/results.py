"""Writes and shows the results of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from mtlkit.study.comparison import Comparison


def write_all(
    comparison: Comparison, folder: Path, claims: Sequence[str] = (), *, all_definitions: bool = False
) -> None:
    """Writes results.csv, table.md, table.tex and compare.html into a folder, and tuning.csv if there were trials."""


def show(comparison: Comparison, folder: Path, claims: Sequence[str] = ()) -> None:
    """Prints the table, the verdicts on the claims, and where the results are."""
