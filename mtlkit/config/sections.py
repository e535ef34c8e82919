"""The sections of a configuration that name a registered class and hold its options."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter
from typing import Any

from mtlkit.balancer import BALANCERS
from mtlkit.config.keys import GIVEN as GIVEN_BY_NAME
from mtlkit.config.keys import schema_keys
from mtlkit.config.schema import BalancerConfig, DataConfig, DecoderConfig, ModelConfig, SetConfig, TaskConfig
from mtlkit.data.dataset import DATASETS
from mtlkit.network import DECODERS, ENCODERS
from mtlkit.registry import Registry, options_of, suggest
from mtlkit.task import TASKS

#: The constructor arguments that mtlkit sets itself, by registry. They are not options.
_REGISTRIES: dict[str, Registry] = {
    "DATASETS": DATASETS,
    "ENCODERS": ENCODERS,
    "TASKS": TASKS,
    "DECODERS": DECODERS,
    "BALANCERS": BALANCERS,
}
GIVEN = {registry: GIVEN_BY_NAME[name] for name, registry in _REGISTRIES.items()}


@dataclass(frozen=True)
class Section:
    """A kind of section. Its key `naming` names a class of `registry`; `schema` has the keys common to all classes."""

    registry: Registry
    naming: str
    schema: type[Any]

    @property
    def kept(self) -> set[str]:
        """The keys that stay when the section names another class. Other keys and a data set's `root` are dropped."""
        return {field.name for field in fields(self.schema)} - {"options", "root"}

    def class_of(self, name: str) -> str:
        """Returns the registered name of the class. One class makes all timm models."""
        return "timm" if self.registry is ENCODERS and name not in ENCODERS.names() else name

    def knows(self, name: str) -> bool:
        """Returns whether the name is a registered class or a timm model."""
        if name in self.registry.names() or self.registry is not ENCODERS:
            return name in self.registry.names()
        import timm  # slow to import, and most configurations do not need it

        return bool(timm.is_model(name))

    def suggest(self, name: str, further: Iterable[str] = ()) -> str:
        """Returns the end of the error message for an unknown name. The names in `further` are known, too."""
        known = {*self.registry.names(), *further}
        if self.registry is not ENCODERS:
            return suggest(name, known)
        import timm

        close = difflib.get_close_matches(name, [*known, *timm.list_models()])
        hint = f"Close: {', '.join(close)}. " if close else ""
        return f"{hint}Encoders: {', '.join(sorted(known))}, and all that timm.list_models() names."


#: Sections by the path of their keys. `*` is the name of a task, or the number of a data set among several.
SECTIONS: dict[tuple[str, ...], Section] = {
    ("data",): Section(DATASETS, "name", DataConfig),
    ("data", "concat", "*"): Section(DATASETS, "name", SetConfig),
    ("model",): Section(ENCODERS, "encoder", ModelConfig),
    ("task", "*"): Section(TASKS, "type", TaskConfig),
    ("task", "*", "decoder"): Section(DECODERS, "name", DecoderConfig),
    ("balancer",): Section(BALANCERS, "name", BalancerConfig),
}


def section_at(path: Sequence[Any]) -> Section | None:
    """Returns the kind of section at a path of keys, or None."""
    for pattern, section in SECTIONS.items():
        if len(pattern) == len(path) and all(p in ("*", key) for p, key in zip(pattern, path, strict=True)):
            return section
    return None


def options(registry: Registry, name: str) -> dict[str, Parameter]:
    """Returns the options of a registered class: the parameters of its constructor that mtlkit does not set itself."""
    return {key: p for key, p in options_of(registry.get(name)).items() if key not in GIVEN[registry]}


def defaults(registry: Registry, name: str) -> dict[str, Any]:
    """Returns the default values of a class's options, as far as YAML can express them."""
    plain = (type(None), bool, int, float, str, list, tuple, dict)
    values = {key: parameter.default for key, parameter in options(registry, name).items()}
    return {key: value for key, value in values.items() if isinstance(value, plain)}


def named(values: Any, section: Section) -> str | None:
    """Returns the class name in the values of a section, or None if there is none."""
    name = values.get(section.naming) if isinstance(values, Mapping) else values
    return name if isinstance(name, str) else None


def all_keys(values: Mapping[str, Any] | None = None) -> list[str]:
    """The dotted keys that a configuration can have: those of all, and the options of the classes that it names."""
    found = schema_keys()
    values = values or {}
    sections = {"data": values.get("data"), "model": values.get("model"), "balancer": values.get("balancer")}
    for key, section_values in sections.items():
        found += (f"{key}.{option}" for option in _options(SECTIONS[(key,)], section_values))
    tasks = values.get("task")
    for name, task in tasks.items() if isinstance(tasks, Mapping) else ():
        own = ("type", "decoder", *_options(SECTIONS[("task", "*")], task))
        found += (f"task.{name}.{option}" for option in own)
    return list(dict.fromkeys(found))


def _options(section: Section, values: Any) -> Iterable[str]:
    """The options of the class that a section names, if there is such a class."""
    name = named(values, section)
    if name is None or section.class_of(name) not in section.registry.names():
        return ()
    return options(section.registry, section.class_of(name))
