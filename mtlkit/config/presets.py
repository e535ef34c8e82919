"""Presets: what a published code base does with each method, from configs/balancer_preset/NAME.yaml.

A preset sets options of the balancer and keys of `trainer`. It never chooses the balancer.
"""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlkit.config.draft import Draft
from mtlkit.config.overrides import WORD
from mtlkit.config.schema import Config
from mtlkit.config.sections import SECTIONS, named
from mtlkit.config.yaml_files import read_mapping
from mtlkit.registry import suggest
from mtlkit.typed import Source, to_dataclass

FOLDER = "balancer_preset"


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the code base does with one method.

    Args:
        source: the files and lines of the code that say it
        balancer: options of the balancer
        trainer: keys of `trainer`, on top of those for all methods
        for_data: balancer and trainer by the name of a data set
        note: what differs all the same
    """

    source: str
    balancer: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    for_data: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A code base, and what it does with each method.

    Args:
        place: the file, for messages.
        code: the repository and its commit, or the paper.
        trainer: keys of `trainer` for all methods.
        methods: by the balancer's name in BALANCERS.
        left_out: methods that the code base has in a form that mtlkit does not offer, and why.
    """

    place: str
    code: str
    trainer: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Method]
    left_out: dict[str, str] = field(default_factory=dict)

    def method(self, name: str) -> Method:
        """Returns what it does with a method. Raises `ValueError` with those that it has."""
        if name in self.methods:
            return self.methods[name]
        reason = f" ({self.left_out[name]})" if name in self.left_out else ""
        raise ValueError(
            f"preset: {self.place} has no method {name!r}{reason}. {suggest(name, self.methods)} preset=null takes "
            f"mtlkit's own defaults."
        )

    def values(self, name: str, data: str | None = None) -> dict[str, dict[str, Any]]:
        """Returns the values for a method, by section, where the data set has that name."""
        method = self.method(name)
        own = method.for_data.get(data or "", {})
        return {
            "balancer": method.balancer | own.get("balancer", {}),
            "trainer": self.trainer | method.trainer | own.get("trainer", {}),
        }


def preset_names() -> list[str]:
    """Returns the names of the presets that come with mtlkit."""
    folder = importlib.resources.files("mtlkit.configs") / FOLDER
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """Reads the preset with that name, or a user's own file.

    Raises `LookupError` for an unknown name, `FileNotFoundError` for a missing file, and `ValueError` for a broken one.

    >>> load_preset("nash_mtl").values("cagrad")["balancer"]["c"]
    0.4
    """
    own = Path(name).suffix in (".yaml", ".yml")
    if not own and name not in (known := preset_names()):
        raise LookupError(f"No preset is called {name!r}. {suggest(name, known)} A file of your own ends in .yaml.")
    place = name if own else f"configs/{FOLDER}/{name}.yaml"
    file = Path(name) if own else Path(str(importlib.resources.files("mtlkit.configs"))) / FOLDER / f"{name}.yaml"
    source = Source(place)
    values = read_mapping(file)
    methods = values.get("methods")
    if isinstance(methods, Mapping):
        values["methods"] = {str(m): _method(given, f"methods.{m}", source) for m, given in methods.items()}
    if "place" in values:  # it is no key of the file
        raise source.unknown("place", "a preset has no option 'place'", ("code", "trainer", "methods", "left_out"))
    return to_dataclass(Preset, values | {"place": place}, "", source, owner="a preset")


def preset_keys(config: Config) -> set[str]:
    """Returns the dotted keys that the configuration's preset has values for."""
    if config.preset is None:
        return set()
    values = load_preset(config.preset.name).values(config.preset.method, config.data.name)
    return {f"{section}.{key}" for section, keys in values.items() for key in keys}


def presets_with(method: str) -> list[str]:
    """Returns the names of mtlkit's presets that have a method."""
    return [name for name in preset_names() if method in load_preset(name).methods]


def put_preset(draft: Draft, experiment: str) -> str | None:
    """Puts the preset's values for the balancer into the draft of an experiment, which may be the user's own file.

    They replace those of mtlkit's files, but not those of words and of the user's own file. If a word names the preset,
    its values replace those of the file, too. A run's config.yaml says with `preset.method` for
    which balancer it has the values already; for another one they are put in anew.

    Raises `ValueError` if the code base does not have the method. If one of mtlkit's own experiments names the preset,
    it is only a default: then it is left out instead, and its name is returned.
    """
    given, balancer = draft.values.get("preset"), named(draft.values.get("balancer"), SECTIONS[("balancer",)])
    if given is None or balancer is None:
        return None
    place = draft.places.get(("preset",), "")
    name, saved = given, isinstance(given, Mapping)
    if isinstance(given, Mapping):
        name = given.get("name")
        if given.get("method") == balancer:
            return None
    if not isinstance(name, str):
        problem = f"expected the name of a preset, the path of a YAML file or null, found {given!r}"
        raise draft.source(experiment).error("preset", problem, suggest("", preset_names()))
    preset = load_preset(name)
    by_word, by_user = place.startswith(WORD), place == experiment
    if balancer not in preset.methods and not (by_word or by_user):
        draft.put(("preset",), None, place)
        return name
    data = named(draft.values.get("data"), SECTIONS[("data",)])

    def stays(known: str) -> bool:
        return known.startswith(WORD) or (not by_word and not saved and known == experiment)

    for section, values in preset.values(balancer, data).items():
        draft.put_default((section,), values, preset.place, stays)
    draft.put(("preset",), {"name": name, "method": balancer}, place)
    return None


def unlike_published(config: Config, left_out: str | None = None) -> str | None:
    """Returns a warning if a published protocol runs without a preset, or without the one that was left out.

    Returns None if there is nothing to say.
    """
    if config.preset is not None or (config.protocol != "published" and left_out is None):
        return None
    method = config.balancer.name
    reason = f"the preset {left_out} does not have {method}" if left_out else "protocol=published, but preset=null"
    known = presets_with(method)
    hint = f"Presets that have it: {', '.join(known)}." if known else "No preset has it."
    return f"{reason}: {method} runs with mtlkit's own defaults, and published rows were not made with them. {hint}"


def _method(values: Any, key: str, source: Source) -> Method:
    method = to_dataclass(Method, values, key, source)
    for data, sections in method.for_data.items():
        for section in sections:
            if section not in ("balancer", "trainer"):
                raise source.unknown(f"{key}.for_data.{data}.{section}", "unknown key", ("balancer", "trainer"))
    return method
