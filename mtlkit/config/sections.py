"""The sections of a configuration that name a class of a registry and hold its options."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter
from typing import Any

from mtlkit.balancer import BALANCERS
from mtlkit.config.keys import schema_keys
from mtlkit.config.schema import BalancerConfig, DataConfig, DecoderConfig, ModelConfig, SetConfig, TaskConfig
from mtlkit.data.dataset import DATASETS
from mtlkit.network import DECODERS, ENCODERS
from mtlkit.registry import Registry, options_of, suggest
from mtlkit.task import TASKS

#: The constructor arguments that mtlkit gives itself, so that they are no options; by registry.
GIVEN = {
    DATASETS: {"root", "split", "size", "limit"},
    ENCODERS: {"image_size"},
    TASKS: {"name", "classes", "decoder"},
    DECODERS: {"info", "out_channels"},
    BALANCERS: {"tasks"},
}


@dataclass(frozen=True)
class Section:
    """A kind of section: its key `naming` names a class of `registry`; `schema` has the keys that any class allows."""

    registry: Registry
    naming: str
    schema: type[Any]

    @property
    def kept(self) -> set[str]:
        """The keys that stay when another class is named. All others, and a data set's files, go with the class."""
        return {field.name for field in fields(self.schema)} - {"options", "root"}

    def class_of(self, name: str) -> str:
        """The registered name of the class: one class makes all of timm's models."""
        return "timm" if self.registry is ENCODERS and name not in ENCODERS.names() else name

    def knows(self, name: str) -> bool:
        """Whether the name is registered, or that of one of timm's models."""
        if name in self.registry.names() or self.registry is not ENCODERS:
            return name in self.registry.names()
        import timm  # slow, and most configurations do without

        return bool(timm.is_model(name))

    def suggest(self, name: str, further: Iterable[str] = ()) -> str:
        """The tail of an error about an unknown name; `further` ones are known, too."""
        known = {*self.registry.names(), *further}
        if self.registry is not ENCODERS:
            return suggest(name, known)
        import timm

        close = difflib.get_close_matches(name, [*known, *timm.list_models()])
        hint = f"Close: {', '.join(close)}. " if close else ""
        return f"{hint}Encoders: {', '.join(sorted(known))}, and all that timm.list_models() names."


#: By the path of their keys; `*` is the name of a task, or the number of a data set among several.
SECTIONS: dict[tuple[str, ...], Section] = {
    ("data",): Section(DATASETS, "name", DataConfig),
    ("data", "concat", "*"): Section(DATASETS, "name", SetConfig),
    ("model",): Section(ENCODERS, "encoder", ModelConfig),
    ("task", "*"): Section(TASKS, "type", TaskConfig),
    ("task", "*", "decoder"): Section(DECODERS, "name", DecoderConfig),
    ("balancer",): Section(BALANCERS, "name", BalancerConfig),
}


def section_at(path: Sequence[Any]) -> Section | None:
    """The kind of section at a path of keys, if it is one."""
    for pattern, section in SECTIONS.items():
        if len(pattern) == len(path) and all(p in ("*", key) for p, key in zip(pattern, path, strict=True)):
            return section
    return None


def options(registry: Registry, name: str) -> dict[str, Parameter]:
    """The options of a registered class: its constructor's parameters without those that mtlkit gives."""
    return {key: p for key, p in options_of(registry.get(name)).items() if key not in GIVEN[registry]}


def defaults(registry: Registry, name: str) -> dict[str, Any]:
    """The defaults of a class's options, as far as YAML can express them."""
    plain = (type(None), bool, int, float, str, list, tuple, dict)
    values = {key: parameter.default for key, parameter in options(registry, name).items()}
    return {key: value for key, value in values.items() if isinstance(value, plain)}


def named(values: Any, section: Section) -> str | None:
    """The name of the class that a section's values name, if they do."""
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
