"""docs/reference/balancers.md is current, and every balancer's docstring has the paragraphs that it needs."""

import doctest
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from mtlkit import BALANCERS, EncoderInfo
from mtlkit.balancer import Balancer, GramBalancer
from mtlkit.cli.catalog import (
    TASKS,
    cost,
    markdown,
    memory,
    needs_in_words,
    paper,
    paragraph,
    row,
    spaces_in_words,
    state,
)
from mtlkit.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "balancers.md"
OURS = [name for name in BALANCERS.names() if BALANCERS.get(name).__module__.startswith("mtlkit.")]
NO_PAPER = {"uniform", "fixed"}  # methods without a paper
PACKAGES = {"torchjd": "torchjd"}  # balancers that need another package
A_FEW = 16  #: a state of at most so many numbers per task needs no paragraph on memory


@pytest.fixture(params=OURS)
def name(request) -> str:
    package = PACKAGES.get(request.param)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return request.param


def page_rows(page: str) -> dict[str, str]:
    return {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)` \|.*$", page, re.MULTILINE)}


def test_the_page_has_the_balancers_that_there_are():
    page, made = PAGE.read_text(), markdown(OURS)
    assert page_rows(page).keys() == set(OURS), "run `make docs`"
    assert page.partition("| `")[0] == made.partition("| `")[0], "run `make docs`"


def test_the_page_is_current(name):
    assert page_rows(PAGE.read_text())[name] == f"| {' | '.join(row(name))} |", "run `make docs`"


def test_the_docstring_tells_what_the_page_needs(name):
    cls = BALANCERS.get(name)
    text = inspect.getdoc(cls) or ""
    missing = []
    summary, _, rest = text.partition("\n")
    if not summary.endswith(".") or (rest and not rest.startswith("\n")):
        missing.append("a first line of one sentence, with an empty line below")
    if name not in NO_PAPER and not re.search(r"arXiv \d{4}\.\d{4,5}\b|\b(19|20)\d\d\b", paragraph(cls, "Source")):
        missing.append("`Source: Authors, Title, VENUE YEAR, arXiv NNNN.NNNNN.`")
    if not any(test.examples for test in doctest.DocTestFinder(recurse=False).find(cls)):
        missing.append("a doctest")
    if numbers_a_task(cls) > A_FEW and not paragraph(cls, "Memory"):
        missing.append("`Memory: ...` for its state")
    assert not missing, f"the docstring of {name} lacks {'; '.join(missing)}"


def numbers_a_task(cls: type[Balancer]) -> float:
    """Returns the size of the state per task, for wide features and many parameters."""
    balancer = cls(TASKS)
    balancer.setup({}, EncoderInfo(channels=(64,), strides=(8,), parameters=1000))
    return sum(value.numel() for value in balancer.state_dict().values()) / len(TASKS)


def test_no_cell_is_empty_and_no_table_is_torn(name):
    cells = row(name)
    assert all(cells)
    assert not any("\n" in cell or "not known" in cell for cell in cells)


def test_the_command_writes_the_page(capsys):
    assert main(["list", "balancers", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown(BALANCERS.names())


def test_other_kinds_have_no_page(capsys):
    assert main(["list", "tasks", "--markdown"]) == 2
    assert "--markdown works only for balancers and presets, not for tasks" in capsys.readouterr().err


class Plain(Balancer):
    """Has nothing."""


class Given(GramBalancer):
    """Uses the gradients, and an option without a default.

    Source: A and B, On Things
    (and more on them), VENUE 2020, which is not arXiv.

    Memory: K
    numbers.
    """

    def __init__(self, tasks, *, option: float) -> None:
        super().__init__(tasks)

    def weights(self, gram):
        return gram.new_ones(len(gram))


class Second(Given):
    """Uses a second batch.

    Source: A (an arXiv paper, arXiv 2001.12345) and arXiv 2002.12345.
    """

    needs = frozenset({"second_batch", "second_forward"})
    spaces = ("parameters",)


def test_cells_follow_from_the_class():
    assert [cell(Plain) for cell in (needs_in_words, spaces_in_words, cost, state, memory, paper)] == [
        *("losses", "–", "none", "none", "none", "–")
    ]
    assert needs_in_words(Given) == "`gram`"
    assert spaces_in_words(Given) == "`features`, `parameters`"
    assert cost(Given) == "`features`: inner products of the gradients; `parameters`: K encoder backward passes"
    assert state(Given).startswith("not known here: ")
    assert "option" in state(Given)
    assert memory(Given) == "K numbers"
    assert paper(Given) == "A and B, On Things (and more on them), VENUE 2020"
    assert needs_in_words(Second) == "`second_batch`, `second_forward`"
    assert cost(Second) == "2 K encoder backward passes; one more forward pass"
    assert paper(Second).endswith("[arXiv 2001.12345](https://arxiv.org/abs/2001.12345)")


def test_the_state_is_told_by_role():
    assert state(BALANCERS.get("gradnorm")) == "learned: `weight`; kept: `initial_loss`"
    assert state(BALANCERS.get("rotograd")) == "kept: `initial_norm`, `settled`, `rotation`, `remainder`"


def test_the_default_space_is_first():
    assert spaces_in_words(BALANCERS.get("cosreg")) == "`last_layer`, `features`"


def test_a_missing_package_is_no_error(monkeypatch):
    """The balancer `torchjd` fails like this if TorchJD is not installed."""

    def refuse(self, tasks):
        raise ValueError("it needs a package")

    monkeypatch.setattr(BALANCERS.get("uniform"), "__init__", refuse)
    assert "not known here: it needs a package" in row("uniform")
