"""All keys that a configuration can have, and the keys that a user may have meant by a wrong word."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from mtlkit.config.schema import Config
from mtlkit.config.sections import SECTIONS, Section, named, options

#: Common words from other tools, and the keys that mtlkit uses for them.
SYNONYMS = {
    "learning_rate": "lr",
    "backbone": "encoder",
    "dataset": "data.name",
    "loss_weights": "weights",
    "amp": "precision",
    "gradient_accumulation_steps": "accumulation",
}
CLOSE = 0.65  #: difflib's similarity from which a key is proposed; `epochs` and `max_epochs` have 0.75


def all_keys(values: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the dotted keys that a configuration can have: the common keys, and the options of the named classes."""
    found = list(_schema(Config, ""))
    values = values or {}
    sections = {"data": values.get("data"), "model": values.get("model"), "balancer": values.get("balancer")}
    for key, section_values in sections.items():
        found += (f"{key}.{option}" for option in _options(SECTIONS[(key,)], section_values))
    tasks = values.get("task")
    for name, task in tasks.items() if isinstance(tasks, Mapping) else ():
        own = ("type", "decoder", *_options(SECTIONS[("task", "*")], task))
        found += (f"task.{name}.{option}" for option in own)
    return list(dict.fromkeys(found))


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


def _schema(cls: Any, prefix: str) -> Iterable[str]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        if field.name != "options":
            yield f"{prefix}{field.name}"
            if is_dataclass(hints[field.name]):
                yield from _schema(hints[field.name], f"{prefix}{field.name}.")


def _options(section: Section, values: Any) -> Iterable[str]:
    """Returns the options of the class that a section names, if there is such a class."""
    name = named(values, section)
    if name is None or section.class_of(name) not in section.registry.names():
        return ()
    return options(section.registry, section.class_of(name))
