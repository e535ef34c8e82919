"""All keys of a configuration with their types, defaults and meanings: what `mtlkit describe` and `schema` print."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from inspect import Parameter
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mtlkit.balancer import BALANCERS
from mtlkit.config.sections import options
from mtlkit.meanings import meanings
from mtlkit.registry import Registry

NONE = Parameter.empty  #: the default of a key that must be given


@dataclass(frozen=True)
class Key:
    """One key: its annotation, its default (`NONE`: it must be given), and what it means."""

    annotation: Any
    default: Any
    meaning: str


def keys_of(cls: Any) -> dict[str, Key]:
    """Returns the keys of a dataclass of the configuration, by name.

    >>> from mtlkit.config.schema import TrainerConfig
    >>> keys_of(TrainerConfig)["lr"].meaning
    'the learning rate of the decoders'
    """
    hints, texts = get_type_hints(cls, include_extras=True), meanings(cls)
    own = [field for field in fields(cls) if field.name != "options"]
    return {field.name: Key(hints[field.name], _default(field), texts.get(field.name, "")) for field in own}


def option_keys(registry: Registry, name: str) -> dict[str, Key]:
    """Returns the options of a registered class, by name. Raises `LookupError` for an unknown name.

    >>> option_keys(BALANCERS, "cagrad")["space"].annotation
    typing.Literal['features', 'parameters']
    """
    cls = registry.get(name)
    texts, found = meanings(cls), {}
    for option, parameter in options(registry, name).items():
        annotation = parameter.annotation
        if registry is BALANCERS and option == "space":
            annotation = Literal[tuple(cls.spaces)]
        found[option] = Key(annotation, parameter.default, texts.get(option, ""))
    return found


def keys_below(annotation: Any) -> tuple[Any, int]:
    """Returns the dataclass whose keys stand below a value, and how many keys lie between: 1 for names or numbers.

    Returns (None, 0) for a value without keys of its own.

    >>> from mtlkit.config.schema import LoraConfig, SetConfig
    >>> keys_below(LoraConfig | None)[1], keys_below(tuple[SetConfig, ...])[1], keys_below(int)
    (0, 1, (None, 0))
    """
    if is_dataclass(annotation):
        return annotation, 0
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return next((found for arg in args if (found := keys_below(arg))[0]), (None, 0))
    inner = args[0] if origin is tuple else args[1] if origin in (dict, Mapping) else None
    return (inner, 1) if is_dataclass(inner) else (None, 0)


def _default(field: Field) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return NONE if field.default is MISSING else field.default
