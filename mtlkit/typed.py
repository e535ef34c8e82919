"""Values from YAML and the command line, checked against type annotations."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mtlkit.plain_text import short
from mtlkit.registry import suggest
from mtlkit.typed_words import NAMES, annotation_in_words, hint_for

T = TypeVar("T")
LARGEST = sys.float_info.max  #: an integer beyond it has no float, and NaN is not even comparable with it


@dataclass(frozen=True)
class Bound:
    """The range of a number, for `Annotated`: from `low` to `high`. Numbers that are not finite are in no range.

    With `open`, `low` itself is not allowed. With `open_high`, `high` itself is not allowed.
    """

    low: float
    high: float = math.inf
    open: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return _finite(value) and above and below

    def __str__(self) -> str:
        low = f"{'>' if self.open else '>='} {self.low:g}"
        return low + (f" and {'<' if self.open_high else '<='} {self.high:.10g}" if self.high < math.inf else "")


Count = Annotated[int, Bound(1)]
Natural = Annotated[int, Bound(0)]
Seed = Annotated[int, Bound(0, 2**32 - 1)]  # what NumPy's generators take
Positive = Annotated[float, Bound(0, open=True)]
NonNegative = Annotated[float, Bound(0)]
Share = Annotated[float, Bound(0, 1)]
ShareBelowOne = Annotated[float, Bound(0, 1, open_high=True)]


@dataclass(frozen=True)
class Source:
    """Where values came from, so that an error can say it: `keys` by dotted key, `default` for all others.

    An empty place is left out of the message.
    `meant` gives the dotted keys elsewhere that an unknown one may stand for.
    """

    default: str
    keys: Mapping[str, str] = field(default_factory=dict)
    meant: Callable[[str], Sequence[str]] = lambda key: ()

    def of(self, key: str) -> str:
        """The source of a dotted key, or of the nearest section around it."""
        while key and key not in self.keys:
            key = key.rpartition(".")[0]
        return self.keys.get(key, self.default)

    def error(self, key: str, problem: str, hint: str = "") -> ValueError:
        """A `ValueError` with the key, what is wrong with it, where it came from and a hint."""
        place = f" (in {self.of(key)})" if self.of(key) else ""
        return ValueError(f"{short(key)}: {short(problem)}{short(place)}. {hint}".rstrip())

    def unknown(self, key: str, problem: str, known: Iterable[str]) -> ValueError:
        """The error for an unknown key where only those `known` may stand: with close ones, there or elsewhere."""
        elsewhere = self.meant(key)
        last = key.rpartition(".")[2]
        exact = [other for other in elsewhere if other.rpartition(".")[2] == last]
        hint = suggest(last, known)
        if exact or (elsewhere and not hint.startswith("Did you mean")):
            words = " or ".join(map(repr, exact or elsewhere))
            hint = f"Did you mean {words}? {hint[hint.index('Known: ') :]}"
        return self.error(key, problem, hint)


class OptionError(ValueError):
    """The value of one option does not go with the others. The `__post_init__` of a class of options raises it.

    `problem` says what is wrong, and `hint` what to do. `to_dataclass` adds the key and the source of the option.
    """

    def __init__(self, option: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{option}: {problem}. {hint}".rstrip())
        self.option, self.problem, self.hint = option, problem, hint


class MisfitError(Exception):
    """A value is not what its annotation says."""


def convert(value: Any, annotation: Any) -> Any:
    """The value as its annotation has it: an integer where a float is due becomes one, a list becomes a tuple.

    Numbers must be finite, also where the annotation says nothing of numbers: no setting has a use for infinity or NaN.
    Annotations beyond numbers, text, `None`, `Literal`, unions and containers are left to the constructor.
    Raises `MisfitError`.

    >>> convert([64, 48], tuple[int, int]), convert(1, float | None)
    ((64, 48), 1.0)
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        value = convert(value, args[0])
        return _require(value in args[1], value)
    if origin in (Union, UnionType):
        return _first_fit(value, args)
    if origin is Literal:
        return _require(any(value == a and type(value) is type(a) for a in args), value)
    kind = origin or annotation
    if kind in (list, tuple, Sequence, Iterable):
        return _fit_items(value, kind, args)
    if kind in (dict, Mapping):
        items = dict(_require(isinstance(value, Mapping), value))
        of_keys, of_items = args or (Any, Any)
        return {convert(key, of_keys): convert(item, of_items) for key, item in items.items()}
    if kind is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool) and _finite(value), value)
        return float(value)
    if kind in NAMES:
        return _require(type(value) is (str if kind is Path else kind), value)
    return _require(_finite(value), value)


def _finite(value: Any) -> bool:
    """Returns whether a number is finite and no integer too large for a float, or all numbers in a container are so."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, int | float) or -LARGEST <= value <= LARGEST


def _require(condition: bool, value: T) -> T:
    if not condition:
        raise MisfitError
    return value


def _first_fit(value: Any, annotations: Iterable[Any]) -> Any:
    for annotation in annotations:
        try:
            return convert(value, annotation)
        except MisfitError:
            continue
    raise MisfitError


def _fit_items(value: Any, kind: Any, args: tuple[Any, ...]) -> Any:
    _require(isinstance(value, list | tuple), value)
    if kind is not tuple or not args or args[-1] is Ellipsis:
        args = (args[0] if args else Any,) * len(value)
    _require(len(args) == len(value), value)
    items = [convert(item, annotation) for item, annotation in zip(value, args, strict=True)]
    return tuple(items) if kind is tuple else items


def to_dataclass(
    cls: Callable[..., T],
    values: Any,
    key: str,
    source: Source,
    options: Mapping[str, Parameter] | None = None,
    owner: str = "",
    tasks: Sequence[str] = (),
) -> T:
    """The dataclass `cls` of a mapping; `options` are the further keys that `owner` takes, kept in `cls.options`.

    Where there are `tasks`, mappings among the options are by their names, which messages then say.
    Raises `ValueError` for an unknown key, a missing one, a value of the wrong type, and for values that the dataclass
    refuses in its `__post_init__`: the key and the source of an `OptionError` are those of its option.
    """
    if not isinstance(values, Mapping):
        names = [f.name for f in fields(cast(Any, cls)) if f.name != "options"]
        some = f" of keys, such as {' and '.join(names[:2])}" if names else ""
        raise source.error(key, f"expected a mapping{some}, found {values!r}")
    hints = get_type_hints(cls, include_extras=True)
    required = {f.name for f in fields(cast(Any, cls)) if f.default is MISSING and f.default_factory is MISSING}
    known = {f.name: hints[f.name] for f in fields(cast(Any, cls)) if f.name != "options"}
    options = {name: p for name, p in (options or {}).items() if name not in known}
    required |= {name for name, p in options.items() if p.default is Parameter.empty}
    annotations = known | {name: p.annotation for name, p in options.items()}
    path = f"{key}.".lstrip(".")
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in annotations:
            problem = f"{owner} has no option {name!r}" if owner else "unknown key"
            raise source.unknown(f"{path}{name}", problem, annotations)
        result[name] = _value(value, annotations[name], f"{path}{name}", source, tasks)
    for name in sorted(required - set(result) - {"options"}):
        raise source.error(f"{path}{name}", f"missing; {owner or key or 'a run'} needs it")
    taken = {name: result.pop(name) for name in options if name in result}
    if "options" in hints:
        result["options"] = taken
    try:
        return cls(**result)
    except OptionError as error:
        raise source.error(f"{path}{error.option}", error.problem, error.hint) from None
    except ValueError as error:
        raise source.error(key, str(error).rstrip(".")) from None


def _holds_dataclasses(annotation: Any) -> bool:
    """Returns whether it is a mapping of names to dataclasses, such as `Mapping[str, Label]`."""
    return get_origin(annotation) in (dict, Mapping) and is_dataclass(get_args(annotation)[1])


def _value(value: Any, annotation: Any, key: str, source: Source, tasks: Sequence[str]) -> Any:
    if is_dataclass(annotation):
        return (
            value
            if isinstance(value, cast(type, annotation))
            else to_dataclass(cast(Any, annotation), value, key, source)
        )
    if _holds_dataclasses(annotation) and isinstance(value, Mapping):
        inner = get_args(annotation)[1]
        for name in value:
            if not isinstance(name, str):  # YAML reads 1, yes and null as a number, a switch and nothing
                raise source.error(f"{key}.{name}", f"a name must be text, found {name!r}", f'Write it as "{name}".')
        return {name: _value(item, inner, f"{key}.{name}", source, tasks) for name, item in value.items()}
    try:
        return convert(value, annotation)
    except MisfitError:
        words = annotation_in_words(annotation, tasks)
        hint = hint_for(value, annotation) if _finite(value) else "All numbers must be finite."
        raise source.error(key, f"expected {words}, found {value!r}", hint) from None
