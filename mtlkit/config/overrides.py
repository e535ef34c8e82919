"""The command-line words that override a configuration, in Hydra's grammar."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from mtlkit.config.draft import GROUPS, Draft
from mtlkit.config.keys import meant, text_keys
from mtlkit.config.sections import all_keys, section_at
from mtlkit.typed import MisfitError, convert

WORD = "the override "  #: how the places of words begin


def parse_words(words: Iterable[str], loader: ConfigLoader | None = None) -> list[Override]:
    """Returns the parsed words. A path is taken as it was typed, also where Hydra would need quotes.

    Raises Hydra's `OverrideParseException`.

    >>> [word.value() for word in parse_words(["output_dir=runs/lr=0.1", "data.root=~/My Data (1)", "seed=1"])]
    ['runs/lr=0.1', '~/My Data (1)', 1]
    """
    parser, annotations = OverridesParser.create(loader), text_keys()

    def readable(word: str) -> str:
        key, _, value = word.partition("=")
        annotation = annotations.get(re.sub(r"\.\d+\.", ".*.", key.lstrip("+")))
        if annotation is None:
            return word
        try:
            (parsed,) = parser.parse_overrides([word])
            if not parsed.is_sweep_override() and parsed.value() is not None:
                convert(parsed.value(), annotation)  # 2024 is a number for Hydra, but may be the name of a folder
        except (OverrideParseException, MisfitError):
            return f"{key}={QuotedString(value, Quote.single).with_quotes()}"
        return word

    return parser.parse_overrides([readable(word) for word in words])


def put_word(draft: Draft, word: Override) -> None:
    """Applies one word of the command line to the draft. `key=`, `+key=` and `++key=` mean the same."""
    key, text = word.key_or_group, word.input_line or ""
    if key.startswith(("hydra.", "hydra/")):
        raise ValueError(f"{text}: mtlkit composes by Hydra but runs without it; {key} would have no effect.")
    if key == "experiment":
        raise ValueError(f"{text}: the experiment is the word before the overrides.")
    if word.package is not None or "/" in key:
        raise ValueError(f"{text}: a choice is written GROUP=NAME, with a group of {', '.join(GROUPS)}.")
    if word.is_sweep_override():
        keys = all_keys(draft.values)
        others = [] if key in keys else meant(key, keys)
        hint = f" Did you mean {' or '.join(map(repr, others))}?" if others else ""
        raise ValueError(f"{text}: several values make a sweep with one run per value. Start it with --multirun.{hint}")
    if word.is_delete():
        draft.remove(_path(word), text)
    else:
        draft.put(_path(word), word.value(), place_of(word), add=word.is_add() and not word.is_force_add())


def keys_of(words: Sequence[str]) -> set[str]:
    """Returns the dotted keys that the overrides name, including keys inside mappings."""
    found: set[str] = set()
    for word in parse_words(words):
        found |= set(_keys_in(word.key_or_group, None if word.is_sweep_override() else word.value()))
    return found


def _keys_in(key: str, value: Any) -> Iterator[str]:
    yield key
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _keys_in(f"{key}.{name}", item)


def _path(word: Override) -> tuple[str, ...]:
    return tuple(word.key_or_group.split("."))


def place_of(word: Override) -> str:
    """Returns the name that messages use for the place of a word's value."""
    return f"{WORD}{word.input_line!r}"


def names_a_class(word: Override) -> bool:
    """Returns whether a word names a class or chooses a file. Such words come first; others set the class's options."""
    path = _path(word)
    around = section_at(path[:-1])
    named = around is not None and path[-1] == around.naming
    return named or section_at(path) is not None or (len(path) == 1 and path[0] in GROUPS)
