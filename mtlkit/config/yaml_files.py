"""Reads YAML files, with errors that name the file."""

from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlkit.registry import suggest


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping. Raises `FileNotFoundError`, or `ValueError` for a broken file."""
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.y*ml"))
        hint = suggest(path.name, beside) if beside else "mtlkit list experiments names those that need no file."
        raise FileNotFoundError(f"There is no file {path}. {hint}")
    try:
        with path.open(encoding="utf-8") as file:
            loaded = OmegaConf.load(file)
        values = OmegaConf.to_container(loaded)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    except OSError as error:
        if error.errno is not None:  # of the file. OmegaConf raises one without a number for a lone value, such as 3
            raise
        values = None
    found = "a single value" if values is None else type(values).__name__
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {found}.")
    return cast(dict[str, Any], values)
