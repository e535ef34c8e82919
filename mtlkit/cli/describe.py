"""The text of `mtlkit describe`: what a key, a section or a name means."""

import textwrap
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, get_origin

from mtlkit.config.keys import meant
from mtlkit.config.reference import NONE, Key, keys_below, keys_of, option_keys
from mtlkit.config.schema import Config
from mtlkit.config.sections import SECTIONS, Section, all_keys
from mtlkit.config.shown import yaml_text
from mtlkit.network import DECODERS
from mtlkit.plain_text import short
from mtlkit.registry import suggest
from mtlkit.typed_words import annotation_in_words

WIDTH = 100
#: The sections that name a class, by the words that people write for them: the pattern of `SECTIONS`, and the key
#: below which the options stand. NAME is the name of a task.
PLACES = {
    "balancer": (("balancer",), "balancer"),
    "data": (("data",), "data"),
    "model": (("model",), "model"),
    "encoder": (("model",), "model"),
    "task": (("task", "*"), "task.NAME"),
    "decoder": (("task", "*", "decoder"), "task.NAME.decoder"),
}
LISTS = {"balancer": "balancers", "data": "datasets", "model": "encoders", "task": "tasks", "decoder": "decoders"}
#: The folders of configs/ with a file per name, by the words that choose one.
FILES = {"data": "data", "model": "model", "task": "task", "preset": "balancer_preset", "experiment": "experiment"}


def describe(what: str) -> list[str]:
    """Returns the lines about `balancer=NAME`, a section such as `trainer`, or a key such as `trainer.lr`.

    Raises `LookupError` with close matches if there is no such thing.

    >>> describe("trainer.lr")[0]
    'trainer.lr: the learning rate of the decoders'
    """
    word, _, name = what.partition("=")
    place = _place(word)
    task, _, type_name = word.partition(".")
    if task == "task" and type_name and "." not in type_name:
        place = "task"
        name = type_name if type_name in _names("task") else ""  # a task often has the name of its type
    if name and (place or word in FILES):
        return _describe_name(place or word, name)
    if place:
        return _describe_section(place)
    return _describe_key(word)


def _place(word: str) -> str | None:
    """Returns the section that a word stands for: `encoder`, `model.encoder` and `task.depth.decoder`, for instance."""
    parts = word.split(".")
    if parts[0] == "task" and len(parts) > 2:
        parts = parts[2:]
        return {"type": "task", "decoder": "decoder", "decoder.name": "decoder"}.get(".".join(parts))
    for place, (pattern, _) in PLACES.items():
        if word == place or parts == [*pattern, SECTIONS[pattern].naming]:
            return "model" if place == "encoder" else place
    return None


def _describe_name(place: str, name: str) -> list[str]:
    """Returns the lines about a class, about a file of a group, or about both."""
    file = _file(place, name)
    lines = [f"{place}={name}", f"  configs/{FILES[place]}/{name}.yaml:"] if file else []
    lines += [f"    {line}".rstrip() for line in file.splitlines()]
    if place not in PLACES:
        if not file:
            raise LookupError(f"No {place} is called {short(name)!r}. {suggest(name, _files(place))}")
        return lines
    pattern, prefix = PLACES[place]
    section = SECTIONS[pattern]
    if not file and not section.knows(name):
        raise LookupError(
            f"No {section.registry.kind} is called {short(name)!r}. {section.suggest(name, _names(place))}"
        )
    if section.knows(name):
        registered = section.class_of(name)
        lines += [""] if file else []
        lines += _wrapped(f"{place}={name}: {section.registry.describe(registered)}", "", "  ")
        keys = option_keys(section.registry, registered)
        if registered != name:  # a timm model, whose name is the architecture
            keys.pop("architecture", None)
        lines += ["", *_table(keys, prefix)] if keys else ["  It has no options."]
        cls = section.registry.get(registered)
        lines += ["", f"python -m pydoc {cls.__module__}.{cls.__qualname__} prints all about it."]
    if _common(section):
        lines += ["", f"mtlkit describe {place} prints the keys that every {section.registry.kind} has."]
    return lines


def _describe_section(place: str) -> list[str]:
    """Returns the lines about a section that names a class."""
    pattern, prefix = PLACES[place]
    section = SECTIONS[pattern]
    word = {"decoder": "task.NAME.decoder", "task": "task.NAME.type"}.get(place, place)
    lines = _wrapped(f"{place}: {_first_sentence(section.schema)}", "", "  ")
    lines += _wrapped(f"Choose by {word}=NAME: {', '.join(_names(place))}.", "", "  ")
    if place == "model":
        lines += ["  Every model of timm is an encoder, too: timm.list_models() lists them."]
    lines += [f"mtlkit list {LISTS[place]} has a line on each, and mtlkit describe {place}=NAME the options of one."]
    return [*lines, "", *_table(keys_of(section.schema), prefix)]


def _describe_key(word: str) -> list[str]:
    """Returns the lines about a key, or about a section without a class."""
    parts = word.split(".")
    owners = _find(parts)
    if not owners:
        known = sorted({*all_keys(), *PLACES, *(f"{PLACES[place][1]}.{key}" for place, key in _options())})
        others = meant(word, known)
        hint = f"Did you mean {' or '.join(others)}?" if others else suggest(word, sorted(keys_of(Config)))
        raise LookupError(f"There is no key {short(word)!r}. {hint}")
    lines: list[str] = []
    for owner, key in owners:
        lines += _wrapped(f"{word}{f' of {owner}' if owner else ''}: {key.meaning}", "", "  ")
        below, between = keys_below(key.annotation)
        if below:
            lines += ["", *_table(keys_of(below), f"{word}.{_between(key.annotation)}" if between else word)]
        else:
            lines += _wrapped(f"type: {annotation_in_words(key.annotation)}", "  ", "    ")
            lines += [f"  default: {_default(key)}"]
    return lines


def _find(parts: list[str]) -> list[tuple[str, Key]]:
    """Returns the keys at a path, each with the class that it is an option of; text without a class for all others."""
    keys: dict[str, Key] = keys_of(Config)
    found = [("", keys[parts[0]])] if parts[0] in keys else []
    rest = parts[1:]
    if parts[0] == "task" and rest:
        rest = rest[1:]
        if not rest:
            return found
        section = SECTIONS[("task", "*")]
        if rest[0] == "decoder" and len(rest) > 1:
            section, rest = SECTIONS[("task", "*", "decoder")], rest[1:]
        found = _in_section(section, rest[0])
        rest = rest[1:]
    elif rest and (tuple(parts[:1]) in SECTIONS):
        found = _in_section(SECTIONS[(parts[0],)], rest[0])
        rest = rest[1:]
    while rest and found:
        found, rest = _below(found, rest)
    return found


def _below(found: list[tuple[str, Key]], rest: list[str]) -> tuple[list[tuple[str, Key]], list[str]]:
    """Goes one key down, and past a name or a number where one lies between."""
    inner: list[tuple[str, Key]] = []
    used = 0
    for owner, key in found:
        below, between = keys_below(key.annotation)
        used = max(used, 1 + between)
        if below and len(rest) > between and rest[between] in keys_of(below):
            inner.append((owner, keys_of(below)[rest[between]]))
    return inner, rest[used:]


def _in_section(section: Section, key: str) -> list[tuple[str, Key]]:
    common = keys_of(section.schema)
    if key in common:
        return [("", common[key])]
    registry = section.registry
    found = {name: option_keys(registry, name).get(key) for name in registry.names()}
    return [(f"the {registry.kind} {name}", option) for name, option in found.items() if option]


def _options() -> Iterator[tuple[str, str]]:
    for place in LISTS:
        registry = SECTIONS[PLACES[place][0]].registry
        yield from ((place, key) for name in registry.names() for key in option_keys(registry, name))


def _common(section: Section) -> bool:
    return section.registry is not DECODERS and len(keys_of(section.schema)) > 1


def _table(keys: Mapping[str, Key], prefix: str) -> list[str]:
    """Returns two or more lines per key: its type and default, and below its meaning."""
    lines: list[str] = []
    for name, key in keys.items():
        below, between = keys_below(key.annotation)
        facts = annotation_in_words(key.annotation)
        if below:
            facts = f"keys below {prefix}.{name}{f'.{_between(key.annotation)}' if between else ''}"
        default = "" if below else f"; {_default_in_words(key)}"
        lines += _wrapped(f"{prefix}.{name}: {facts}{default}", "  ", "      ")
        lines += _wrapped(key.meaning, "      ", "      ")
    return lines


def _between(annotation: Any) -> str:
    """Returns what stands between a key and the keys below it: the number of an item, or a name."""
    return "N" if get_origin(annotation) is tuple else "NAME"


def _default_in_words(key: Key) -> str:
    return "must be given" if key.default is NONE else f"default {_default(key)}"


def _default(key: Key) -> str:
    if key.default is NONE:
        return "none: it must be given"
    return yaml_text(key.default) if _plain(key.default) else "that of the class"


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_plain, value.values()))
    return all(map(_plain, value)) if isinstance(value, list | tuple) else isinstance(value, str | int | float | None)


def _names(place: str) -> list[str]:
    names = SECTIONS[PLACES[place][0]].registry.names()
    return sorted({*names, *_files(place)}) if place != "task" else names


def _files(place: str) -> list[str]:
    folder = files("mtlkit.configs") / FILES.get(place, "")
    found = folder.iterdir() if place in FILES else ()
    return [file.name.removesuffix(".yaml") for file in found if file.name.endswith(".yaml")]


def _file(place: str, name: str) -> str:
    """Returns the text of configs/GROUP/NAME.yaml without Hydra's header; empty if there is no such file."""
    if name not in _files(place):
        return ""
    text = (files("mtlkit.configs") / FILES[place] / f"{name}.yaml").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("# @package"))


def _first_sentence(cls: Any) -> str:
    return f"{(cls.__doc__ or '').split('. ')[0].rstrip('.')}."


def _wrapped(text: str, first: str, further: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
