"""What the options of a class mean: the section `Args:` of docstrings, where people read it and so does code.

The command line imports this module, so it does not import torch.
"""

import inspect
import re
from typing import Any

ENTRY = re.compile(r" {4}(\w+(?:, \w+)*): *(.*)")  #: one entry of the section: a name or several, and the first words


def meanings(cls: Any) -> dict[str, str]:
    """Returns what each option of a class means, from its docstring and from those of its parents and of `Options`.

    What a child says replaces what its parents say.

    >>> class Fog:
    ...     '''A cloud.
    ...
    ...     Args:
    ...         density: how much light it takes,
    ...             as a share.
    ...     '''
    >>> meanings(Fog)
    {'density': 'how much light it takes, as a share'}
    """
    classes = [parent for one in (cls, getattr(cls, "Options", object)) for parent in one.__mro__]
    found: dict[str, str] = {}
    for one in reversed(classes):
        found |= arguments(vars(one).get("__doc__") or "")
    return found


def arguments(text: str) -> dict[str, str]:
    """Returns the entries of the section `Args:` of a docstring."""
    _, title, section = inspect.cleandoc(text).partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines() if title else ():
        if line.strip() and not line.startswith("    "):
            break
        if entry := ENTRY.fullmatch(line):
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return {name: meaning.rstrip(".") for name, meaning in found.items()}
