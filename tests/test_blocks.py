"""The blocks of code of README.md and of all pages of docs/.

Python runs, with the blocks of one page in one namespace. A command of mtlkit is parsed, and its configuration is
composed. YAML is composed, or its keys are checked. The comment `<!-- not run: REASON -->` above a block that cannot
run leaves it out: these blocks are the skipped tests.
"""

import dataclasses
import doctest
import importlib
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from pages import FENCE, PAGES, REPOSITORY, Block, blocks_of, page_of

import mtlkit
from mtlkit.cli.compare import OF_STUDY
from mtlkit.cli.main import _parse
from mtlkit.config.composition import compose
from mtlkit.config.schema import Config
from mtlkit.config.sweeps import sweep
from mtlkit.study.definition import Study, read_study, study_of

SHELL = {"cat", "cd", "cp", "git", "less", "ls", "mkdir", "rm", "sbatch", "source", "tensorboard", "unzip"}
KEYS = {"defaults", *(field.name for cls in (Config, Study) for field in dataclasses.fields(cls))}
BLOCKS = {page: blocks_of(page_of(page)) for page in PAGES}
NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")  #: the first line of a block that is a file


def name_of(block: Block) -> str | None:
    found = NAME.match(block.text)
    return found[1] if found and block.language in ("python", "yaml") else None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, from which the page's modules are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for path in tmp_path.iterdir():  # pages have modules of the same name, also packages, which have no file
        sys.modules.pop(path.stem, None)


def write_files(page: str) -> None:
    for block in BLOCKS[page]:
        if name := name_of(block):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(block.text, encoding="utf-8")


def having(*languages: str) -> list[str]:
    return [page for page in PAGES if any(b.language in languages and not b.reason for b in BLOCKS[page])]


# ---- Python


@pytest.mark.parametrize("page", having("python", "pycon"))
def test_python_runs(page: str, folder: Path) -> None:
    write_files(page)
    namespace = {"__name__": "page"}
    for block in BLOCKS[page]:
        if block.language not in ("python", "pycon") or block.reason:
            continue
        name = name_of(block)
        if block.language == "pycon":
            test = doctest.DocTestParser().get_doctest(block.text, namespace, page, None, None)
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
        elif name is None:
            exec(compile(block.text, page, "exec"), namespace)
        elif "__main__" in block.text:
            runpy.run_path(name, run_name="__main__")
        else:
            importlib.import_module(name.removesuffix(".py").replace("/", "."))


def test_the_balancer_of_the_readme(folder: Path) -> None:
    write_files("README.md")
    importlib.import_module("my_lab.inverse_norm")
    weights = mtlkit.BALANCERS.build("inverse_norm", tasks=("a", "b")).weights
    gram = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert weights(gram).tolist() == [0.75, 1.5]


# ---- commands


def commands(page: str) -> list[tuple[str, bool]]:
    """Returns the lines of a page's blocks of commands, and whether any program may stand in them (scripts)."""
    found = []
    for block in BLOCKS[page]:
        if block.language in ("console", "bash") and not block.reason:
            found += [(line, block.language == "bash") for line in joined(block.text)]
    indented = re.findall(r"^    (?:\S.*)$", FENCE.sub("", page_of(page)).replace("\\\n", " "), re.MULTILINE)
    return found + [(line.strip(), True) for line in indented]


def joined(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def check(line: str, script: bool) -> None:
    """Checks one line: its program, and the words that mtlkit gets."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)
    if not words:
        return
    program, rest = words[0], words[1:]
    if program == "mtlkit":
        check_words(rest)
    elif program in ("torchrun", "accelerate", "srun") and "-m" in rest:
        after = rest[rest.index("-m") + 1 :]
        assert after[0] == "mtlkit", line
        check_words(after[1:])
    elif program == "make":
        targets = [word for word in rest if "=" not in word]
        known = re.findall(r"^([\w-]+):", page_of("Makefile"), re.MULTILINE)
        assert set(targets) <= set(known), f"{line}: the Makefile has no such target"
    elif program == "pip":
        project = tomllib.loads(page_of("pyproject.toml"))["project"]
        for extra in re.findall(r"(?:mtlkit|\.)\[([\w,]+)\]", line):
            assert set(extra.split(",")) <= project["optional-dependencies"].keys(), line
    elif program == "python":
        check_python(rest)
    else:
        assert script or program in SHELL, f"{line}: tests do not know this program"


def check_python(words: list[str]) -> None:
    if words[0] == "-c":
        compile(words[1], "-c", "exec")
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words
    else:
        assert Path(words[0]).exists() or (REPOSITORY / words[0]).exists(), words


def check_words(words: list[str]) -> None:
    """Parses the words of a command of mtlkit. Composes its configurations or its study, except that of a run."""
    arguments = _parse(words)
    if getattr(arguments, "experiment", "").startswith(("runs/", "studies/")):
        return
    if words[0] == "compare":
        what = Path(arguments.experiment)
        if what.suffix in (".yaml", ".yml") and yaml.safe_load(what.read_text()).keys() & OF_STUDY:
            read_study(what, arguments.overrides)
        elif (REPOSITORY / "configs/study" / f"{what}.yaml").exists():
            read_study(REPOSITORY / "configs/study" / f"{what}.yaml", arguments.overrides)
        elif all("=" in word for word in arguments.overrides):
            study_of(arguments.experiment, arguments.overrides)
    elif hasattr(arguments, "overrides") and hasattr(arguments, "experiment"):
        many = getattr(arguments, "multirun", False)
        for job in sweep(arguments.experiment, arguments.overrides) if many else [arguments.overrides]:
            compose(arguments.experiment, job)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # compose warns of published protocols without a preset
def test_commands_are_right(page: str, folder: Path) -> None:
    write_files(page)
    for line, script in commands(page):
        if not script or re.match(r"(mtlkit|torchrun|accelerate|srun|make|pip|python)\b", line):
            try:
                check(line, script)
            except SystemExit as error:
                raise AssertionError(f"{page}: mtlkit does not understand `{line}`") from error


@pytest.mark.parametrize("page", having("bash"))
def test_scripts_are_bash(page: str) -> None:
    for block in BLOCKS[page]:
        if block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


# ---- other languages


@pytest.mark.parametrize("page", having("yaml", "json", "toml"))
@pytest.mark.filterwarnings("ignore::UserWarning")  # as above
def test_files_are_right(page: str, folder: Path) -> None:
    write_files(page)
    for block in BLOCKS[page]:
        if block.reason:
            continue
        if block.language == "yaml":
            check_yaml(name_of(block), yaml.safe_load(block.text))
        elif block.language in ("json", "toml"):
            {"json": json, "toml": tomllib}[block.language].loads(block.text)


def check_yaml(name: str | None, values: dict) -> None:
    assert values.keys() <= KEYS, f"{values.keys() - KEYS} are no keys of a configuration or of a study"
    if name and values.keys() & OF_STUDY:
        read_study(Path(name))
    elif name:
        compose(name)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_checked(page: str) -> None:
    """A block has a language that a test knows, or is text or a quotation, or says why it does not run."""
    known = {"bash", "console", "json", "pycon", "python", "text", "toml", "yaml"}
    for block in BLOCKS[page]:
        quoted = block.language == "py" and (found := NAME.match(block.text)) and (REPOSITORY / found[1]).exists()
        assert block.reason or quoted or block.language in known, (
            f"{page}: no test checks this block. Use one of {sorted(known)}, or write <!-- not run: REASON --> above.\n"
            + block.text
        )


LEFT_OUT = [pytest.param(b.reason, id=f"{page}-{n}") for page in PAGES for n, b in enumerate(BLOCKS[page]) if b.reason]


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_blocks_that_do_not_run(reason: str) -> None:
    pytest.skip(reason)
