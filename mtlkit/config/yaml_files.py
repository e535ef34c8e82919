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
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {type(values).__name__}.")
    return cast(dict[str, Any], values)
