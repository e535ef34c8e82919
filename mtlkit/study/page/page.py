"""Writes the page of a comparison: one HTML file that needs no other file and no script."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mtlkit.files import write_whole
from mtlkit.page.look import key
from mtlkit.page.style import document
from mtlkit.study.comparison import Comparison
from mtlkit.study.page.curves import learning, training
from mtlkit.study.page.findings import find
from mtlkit.study.page.forest import forest
from mtlkit.study.page.headline import headline
from mtlkit.study.page.origins import origins, tuning
from mtlkit.study.page.parallel import parallel
from mtlkit.study.page.rank_diagram import rank_diagram
from mtlkit.study.page.style import STYLE
from mtlkit.study.page.tables import definitions, differences, results
from mtlkit.study.page.tradeoff import tradeoff
from mtlkit.study.verdicts import Verdict


def write_page(comparison: Comparison, path: Path, verdicts: Sequence[Verdict] = ()) -> None:
    """Writes the page to a file."""
    found = find(comparison)
    sections = (
        headline(found, verdicts),
        results(found),
        differences(found),
        definitions(found),
        key(list(found.looks.values())),
        forest(found),
        learning(found),
        training(found),
        f'<div class="panels pair">{parallel(found)}{tradeoff(found)}{rank_diagram(found)}</div>',
        tuning(comparison),
        origins(comparison),
    )
    page = document(escape(comparison.context.title), STYLE, "".join(sections))
    write_whole(path, page.encode())
