"""The options of a task or a data set: the fields of a dataclass `Options` inside its class."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from mtlkit.typed import OptionError, Source, to_dataclass


@dataclass(frozen=True)
class NoOptions:
    """The options of a class that has none."""


def check_options_class(cls: Any) -> None:
    """Raises `ValueError` if `cls.Options` is not a dataclass: its fields would not be options."""
    if not is_dataclass(vars(cls).get("Options", NoOptions)):
        raise ValueError(f"{cls.__name__}.Options must be a dataclass. Write @dataclass(frozen=True) above it.")


def make_options(cls: Any, given: Mapping[str, Any], key: str, source: Source | None = None) -> Any:
    """Returns an instance of `cls.Options` with the given values, each checked by the annotation of its field.

    `key` is the section of the configuration that sets the options. `source` says where the values came from, for
    messages.
    Raises `ValueError` for an unknown option, a missing one, a value that its field does not allow, and for values that
    do not go together.

    >>> class Fog:
    ...     @dataclass(frozen=True)
    ...     class Options:
    ...         density: float = 0.5
    >>> make_options(Fog, {"density": 1}, "data")
    Fog.Options(density=1.0)
    >>> make_options(Fog, {"density": "thick"}, "data")
    Traceback (most recent call last):
    ValueError: data.density: expected a number, found 'thick'.
    """
    return to_dataclass(cls.Options, given, key, source or Source(""), owner=cls.__name__)


def check_together(cls: Any, options: Mapping[str, Any], key: str, source: Source) -> None:
    """Raises `ValueError` if some of the options cannot be combined. `options` may hold other options of the class."""
    if declared := getattr(cls, "Options", None):
        own = [field.name for field in fields(declared) if field.name in options]
        make_options(cls, {name: options[name] for name in own}, key, source)


def check_owner(options: object, owner: str, value: str, *names: str) -> None:
    """Raises `OptionError` if one of the options `names` is set (not None) and the option `owner` is not `value`.

    The `__post_init__` of a class of options calls it.

    >>> from types import SimpleNamespace
    >>> check_owner(SimpleNamespace(loss="l1", threshold=2.0), "loss", "berhu", "threshold")
    Traceback (most recent call last):
    mtlkit.typed.OptionError: threshold: it belongs to loss: berhu, found loss: l1. Leave it out, or choose loss: berhu.
    """
    found = getattr(options, owner)
    for name in names:
        if found != value and getattr(options, name) is not None:
            wanted = f"{owner}: {value}"
            problem = f"it belongs to {wanted}, found {owner}: {found}"
            raise OptionError(name, problem, f"Leave it out, or choose {wanted}.")
