"""Reads YAML files, with errors that name the file."""

from io import StringIO
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlkit.plain_text import short
from mtlkit.registry import suggest

MOST = 10_000  #: the largest number of values in a file, where each alias counts as all that it stands for


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping. Raises `FileNotFoundError`, or `ValueError` for a broken file."""
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.y*ml"))
        hint = suggest(path.name, beside) if beside else "mtlkit list experiments names those that need no file."
        raise FileNotFoundError(f"There is no file {path}. {hint}")
    try:
        text = path.read_text(encoding="utf-8")
        if "&" in text:
            _check_aliases(path, text)
        values = OmegaConf.to_container(OmegaConf.load(StringIO(text)))
    except RecursionError:
        raise ValueError(f"{path} is not valid YAML for mtlkit: its values are nested too deeply.") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {short(str(error))}") from None
    except OSError as error:
        if error.errno is not None:  # of the file. OmegaConf raises one without a number for a lone value, such as 3
            raise
        values = None
    found = "a single value" if values is None else type(values).__name__
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {found}.")
    return cast(dict[str, Any], values)


def _check_aliases(path: Path, text: str) -> None:
    """Raises `ValueError` if a few lines stand for more values than any configuration has, or for a loop."""
    sizes: dict[yaml.Node, int] = {}

    def size(node: yaml.Node) -> int:
        if node not in sizes:
            sizes[node] = MOST  # for whoever meets it again below itself
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            below = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
            sizes[node] = 1 + sum(map(size, below))
        return sizes[node]

    if (root := yaml.compose(text, yaml.SafeLoader)) is not None and size(root) >= MOST:
        raise ValueError(f"{path}: its aliases (*name) stand for {MOST} values or more, or for themselves.")
