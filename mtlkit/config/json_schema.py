"""The JSON schema of experiments and presets, for editors: the same keys, types and meanings as `mtlkit describe`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mtlkit.config.presets import Method, Preset
from mtlkit.config.reference import NONE, Key, keys_below, keys_of, option_keys
from mtlkit.config.schema import Config, TrainerConfig
from mtlkit.config.sections import SECTIONS
from mtlkit.network import ENCODERS
from mtlkit.registry import Registry
from mtlkit.typed import Bound

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Schema = {"type": "string", "pattern": r"\$\{"}  #: ${data.size}, instead of any value
TEXT: Schema = {"type": "string"}
PLAIN: dict[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    str: TEXT,
    Path: TEXT,
}


def experiment_schema() -> Schema:
    """Returns the schema of an experiment's file. It knows the classes that are registered now.

    No key is required, because an experiment can build on others by its `defaults`.
    """
    keys, sections = keys_of(Config), _Sections()
    properties = _properties(keys)
    for name in ("data", "model", "balancer"):
        properties[name] = _described(sections.section((name,)), keys[name])
    tasks = {"type": "object", "additionalProperties": sections.section(("task", "*"))}
    properties["task"] = _described({"anyOf": [TEXT, {"type": "array", "items": TEXT}, tasks]}, keys["task"])
    properties["preset"]["anyOf"].append(TEXT)  # its name; the mapping is the form in a run's config.yaml
    properties["defaults"] = {
        "description": "the files that this one builds on, such as [nyuv2], or [/data: scenes, _self_]",
        "type": "array",
    }
    return {
        "$schema": DIALECT,
        "title": "An experiment of mtlkit",
        **_object(properties),
        "$defs": sections.definitions,
    }


def preset_schema() -> Schema:
    """Returns the schema of a preset's file."""
    keys, method_keys, sections = keys_of(Preset), keys_of(Method), _Sections()
    del keys["place"]  # mtlkit sets it
    balancers = SECTIONS[("balancer",)].registry
    trainer = sections.define("trainer", _object(_properties(keys_of(TrainerConfig))))
    methods = {}
    for name in balancers.names():
        both = {"balancer": _object(sections.options(balancers, name)), "trainer": trainer}
        by_data = {"type": "object", "additionalProperties": _object(both)}
        own = {key: _described(part, method_keys[key]) for key, part in {**both, "for_data": by_data}.items()}
        methods[name] = _object(_properties(method_keys) | own) | {"required": _needed(method_keys)}
    properties = _properties(keys) | {
        "trainer": _described(trainer, keys["trainer"]),
        "methods": _described(_object(methods), keys["methods"]),
    }
    whole = _object(properties) | {"required": _needed(keys), "$defs": sections.definitions}
    return {"$schema": DIALECT, "title": "A preset of mtlkit", **whole}


class _Sections:
    """Makes the schemas of the sections that name a class. `definitions` has the parts that several places use."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}

    def define(self, name: str, schema: Schema) -> Schema:
        """Puts a schema into the definitions and returns the reference to it."""
        self.definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def options(self, registry: Registry, name: str) -> dict[str, Schema]:
        """Returns references to the schemas of the options of a class."""
        kind = registry.kind.replace(" ", "-")
        found = _properties(option_keys(registry, name))
        return {option: self.define(f"{kind}.{name}.{option}", schema) for option, schema in found.items()}

    def section(self, path: tuple[str, ...]) -> Schema:
        """Returns the schema of a section.

        All options of all classes are properties, so that an editor proposes them. If the section names its class, only
        the options of that class are allowed.
        """
        section = SECTIONS[path]
        registry, naming, keys = section.registry, section.naming, keys_of(section.schema)
        common = _properties(keys)
        if path == ("data",):
            sets = {"type": "array", "items": self.section(("data", "concat", "*"))}
            common["concat"] = _described(sets, keys["concat"])
        if path == ("task", "*"):
            common["decoder"] = _described(self.section((*path, "decoder")), keys["decoder"])
        options = {name: self.options(registry, name) for name in registry.names()}
        rules = [_rule(naming, {"const": name}, common, own) for name, own in options.items()]
        if registry is ENCODERS:  # a name that is not registered is a timm model
            rules.append(_rule(naming, {"not": {"enum": registry.names()}}, common, options["timm"]))
        else:
            common[naming] = _described({"anyOf": [{"enum": registry.names()}, REFERENCE]}, keys[naming])
        names = dict.fromkeys(name for own in options.values() for name in own)
        every = {name: self._any_of([own[name] for own in options.values() if name in own]) for name in names}
        return {**_object(every | common), "type": ["object", "string"], "allOf": rules}

    def _any_of(self, references: Sequence[Schema]) -> Schema:
        """Returns the schema that allows what one of the references does, without those that say the same twice."""
        found: list[Schema] = []
        for reference in references:
            schema = self.definitions[reference["$ref"].rpartition("/")[2]]
            if schema not in [self.definitions[other["$ref"].rpartition("/")[2]] for other in found]:
                found.append(reference)
        return found[0] if len(found) == 1 else {"anyOf": found}


def _rule(naming: str, name: Schema, common: Iterable[str], own: Mapping[str, Schema]) -> Schema:
    here = {"type": "object", "properties": {naming: name}, "required": [naming]}
    return {"if": here, "then": {"properties": dict(own), "propertyNames": {"enum": [*common, *own]}}}


def _needed(keys: Mapping[str, Key]) -> list[str]:
    return [name for name, key in keys.items() if key.default is NONE]


def _properties(keys: Mapping[str, Key]) -> dict[str, Schema]:
    return {name: _described(_value(key.annotation), key) for name, key in keys.items()}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _described(schema: Schema, key: Key) -> Schema:
    found = {**schema, "description": key.meaning}
    if isinstance(key.default, bool | int | float | str):
        found["default"] = key.default
    return found


def _value(annotation: Any) -> Schema:
    """Returns the schema of a value. A reference to another key, such as ${data.size}, is allowed everywhere."""
    schema = _exactly(annotation)
    if schema == {} or schema.get("type") == "string":
        return schema
    parts = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    return {"anyOf": [*parts, REFERENCE]} if TEXT not in parts else {"anyOf": parts}


def _exactly(annotation: Any) -> Schema:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _exactly(args[0]) | (_bounds(args[1]) if isinstance(args[1], Bound) else {})
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, UnionType):
        parts = [_exactly(arg) for arg in args]
        return {"anyOf": [part for i, part in enumerate(parts) if part not in parts[:i]]}
    below, between = keys_below(annotation)
    if below and not between:
        return _object(_properties(keys_of(below)))
    return _container(origin or annotation, args) or PLAIN.get(annotation, {})


def _container(origin: Any, args: tuple[Any, ...]) -> Schema:
    if origin in (dict, Mapping):
        return {"type": "object", **({"additionalProperties": _value(args[1])} if args else {})}
    if origin is tuple and args and args[-1] is not Ellipsis:
        items = [_value(arg) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (list, tuple, Sequence, Iterable):
        return {"type": "array", **({"items": _value(args[0])} if args else {})}
    return {}


def _bounds(bound: Bound) -> Schema:
    low = {"exclusiveMinimum" if bound.open else "minimum": bound.low}
    high = {"exclusiveMaximum" if bound.open_high else "maximum": bound.high} if bound.high != float("inf") else {}
    return low | high
