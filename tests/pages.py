"""Extracts files, commands and other blocks from the pages of the documentation, for tests."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
#: Every page whose blocks of code must be right.
PAGES = ("README.md", *sorted(page.relative_to(REPOSITORY).as_posix() for page in REPOSITORY.glob("docs/**/*.md")))

FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^>]+?) -->\s*?\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code between fences. `reason` says why tests cannot run it: a comment above the block."""

    language: str
    text: str
    reason: str | None


def page_of(name: str) -> str:
    """Returns the text of a page, by its path in the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks_of(text: str) -> list[Block]:
    """Returns the page's blocks of code."""
    found = FENCE.finditer(text)
    return [Block(block["language"], textwrap.dedent(block["text"]), block["reason"]) for block in found]


def files_of(text: str) -> dict[str, str]:
    """Returns the page's files: blocks of Python or YAML whose first line is a comment with the file's name."""
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL))


def commands_of(text: str) -> list[str]:
    """Returns the lines of the page's console blocks. A backslash at the end joins the next line."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
