"""A resolved configuration as YAML, with the source of every value beside it."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from mtlkit.config.composition import Composed
from mtlkit.config.overrides import WORD

WIDEST = 60  #: the column of the comments, at most; a longer line is followed by its comment
DEFAULT = "default"


def shown(composed: Composed) -> list[str]:
    """Returns the lines of a YAML file that makes the same run. A comment at the end of a line names its source."""
    rows = list(_rows(composed.config.to_dict(), (), composed))
    column = max(len(text) for text, source in rows if source and len(text) <= WIDEST)
    return [f"{text:<{column}}  # {source}" if source else text for text, source in rows]


def yaml_text(value: Any) -> str:
    """Returns a value on one line, so that reading it as a part of a YAML file gives the same value and type.

    >>> yaml_text([1, 1e-05, "1e-5", "a b", None, {"x": True}])
    '[1, 1.0e-05, "1e-5", a b, null, {x: true}]'
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{yaml_text(key)}: {yaml_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    text = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]
    # The parsers of PyYAML and OmegaConf differ: only one of them takes 1e-5 for a number.
    if isinstance(value, str) and OmegaConf.create(f"- {text}")[0] != value:
        return json.dumps(value)
    return text


def _rows(values: Mapping[str, Any], path: tuple[str, ...], composed: Composed) -> Iterator[tuple[str, str]]:
    """Yields the lines of a mapping, each with its source. The line above a mapping has none."""
    margin = "  " * len(path)
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, Mapping) and value:
            yield f"{margin}{yaml_text(key)}:", ""
            yield from _rows(value, here, composed)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{margin}{yaml_text(key)}:", ""
            for number, item in enumerate(value):
                lines = _rows(item, (*here, str(number)), composed)
                for line, (text, source) in enumerate(lines):
                    mark = "- " if line == 0 else "  "
                    yield f"{margin}{mark}{text.removeprefix(f'{margin}    ')}", source
        else:
            yield f"{margin}{yaml_text(key)}: {yaml_text(value)}", _source(here, composed)


def _source(path: Sequence[str], composed: Composed) -> str:
    """Returns where a value came from, in words."""
    value: Any = composed.given
    for key in path:
        if isinstance(value, list):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, Mapping):
            return DEFAULT
        else:  # the file has the short form, such as `decoder: conv`
            break
    place = composed.source.of(".".join(path))
    if place.startswith(WORD):
        place = f"command line: {place[len(WORD) + 1 : -1]}"
    return " ".join(place.split())
