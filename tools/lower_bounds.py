"""Prints the lowest releases that pyproject.toml admits, as a constraints file for pip.

    python tools/lower_bounds.py > lowest.txt
    python -m pip install -c lowest.txt -e ".[test]"

`make lower-bounds` does this in its own environment and runs the tests there. A bound is wrong if it cannot be
installed or fails a test: raise it. Only the dependencies of mtlkit itself are held low; pip chooses the others.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirements: list[str]) -> list[str]:
    """Returns `name==version` for each `name>=version`.

    Raises `ValueError` for a requirement without a lower bound, because nobody could test it.

    >>> lowest(["numpy>=2,<4", "rich>=13.1"])
    ['numpy==2', 'rich==13.1']
    """
    found = []
    for text in requirements:
        bound = re.match(r"([\w.-]+)>=([\w.]+)(,|$)", text)
        if bound is None:
            raise ValueError(f"pyproject.toml: the dependency {text!r} must begin with NAME>=VERSION.")
        found.append(f"{bound[1]}=={bound[2]}")
    return found


if __name__ == "__main__":
    with PROJECT.open("rb") as file:
        lines = lowest(tomllib.load(file)["project"]["dependencies"])
    sys.stdout.write("".join(f"{line}\n" for line in lines))
