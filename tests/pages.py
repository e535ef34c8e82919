"""Extracts files and commands from the pages of the documentation, for tests."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def page_of(name: str) -> str:
    """Returns the text of a page, by its path in the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def files_of(text: str) -> dict[str, str]:
    """Returns the page's files: blocks of Python or YAML whose first line is a comment with the file's name."""
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL))


def commands_of(text: str) -> list[str]:
    """Returns the lines of the page's console blocks. A backslash at the end joins the next line."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
