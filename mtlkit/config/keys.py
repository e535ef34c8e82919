"""The keys that every configuration can have, and which key a user may have meant by a word.

The parser of the command line imports this module, so it does not import torch; `sections.all_keys` has the other keys.
"""

import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mtlkit.config.schema import Config, DataConfig, ModelConfig, SetConfig

#: Common words from other tools, and the keys that mtlkit uses for them.
SYNONYMS = {
    "learning_rate": "lr",
    "backbone": "encoder",
    "dataset": "data.name",
    "loss_weights": "weights",
    "amp": "precision",
    "gradient_accumulation_steps": "accumulation",
}
#: The constructor arguments that mtlkit sets itself, by the variable of the registry. They are not options.
GIVEN = {
    "DATASETS": {"root", "split", "size", "limit"},
    "ENCODERS": {"image_size", "in_channels"},
    "TASKS": {"name", "classes", "decoder"},
    "DECODERS": {"info", "out_channels"},
    "BALANCERS": {"tasks"},
}
CLOSE = 0.65  #: difflib's similarity from which a key is proposed; `epochs` and `max_epochs` have 0.75


def schema_keys() -> list[str]:
    """Returns the dotted keys that every configuration can have, whatever classes it names."""
    return [key for key, _ in _schema_hints(Config, "")]


def text_keys() -> dict[str, Any]:
    """Returns the annotations of the keys that take any text, such as a path. A set of `data.concat` is `*`."""
    places = (("", Config), ("data.", DataConfig), ("data.concat.*.", SetConfig), ("model.", ModelConfig))
    found = {f"{place}{key}": hint for place, cls in places for key, hint in get_type_hints(cls).items()}
    unions = (Union, UnionType)
    return {k: hint for k, hint in found.items() if str in (get_args(hint) if get_origin(hint) in unions else (hint,))}


def words_of_keys() -> dict[str, list[str]]:
    """Returns the words that a key can have as its value, for the keys that take one of a few words.

    >>> words_of_keys()["data.on_error"], words_of_keys()["deterministic"]
    (['raise', 'skip'], ['true', 'false'])
    """
    found = {key: list(_words(hint)) for key, hint in _schema_hints(Config, "")}
    return {key: words for key, words in found.items() if words}


def _words(annotation: Any) -> Iterable[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) in (Union, UnionType):
        for inner in get_args(annotation):
            yield from _words(inner)


def meant(word: str, keys: Iterable[str]) -> list[str]:
    """Returns at most three keys that the word may mean: keys with the same last part, or else a similar one.

    >>> meant("lr", ["trainer.lr", "trainer.encoder_lr", "data.root"]), meant("epochs", ["trainer.max_epochs", "seed"])
    (['trainer.lr'], ['trainer.max_epochs'])
    """
    by_last: dict[str, list[str]] = {}
    for key in keys:
        by_last.setdefault(key.rpartition(".")[2], []).append(key)
    last = word.rpartition(".")[2].replace("-", "_")
    last = SYNONYMS.get(last, last)
    if last in keys:
        return [last]
    close = [last] if last in by_last else difflib.get_close_matches(last, by_last, n=3, cutoff=CLOSE)
    found = [key for name in close for key in by_last[name] if key != word]
    return sorted(found, key=lambda key: not key.startswith("trainer."))[:3]  # stable: otherwise the closest first


def _schema_hints(cls: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    """Yields the dotted keys of a dataclass and of those below it, each with its annotation."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        if field.name != "options":
            yield f"{prefix}{field.name}", hints[field.name]
            if is_dataclass(hints[field.name]):
                yield from _schema_hints(hints[field.name], f"{prefix}{field.name}.")
