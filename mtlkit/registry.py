"""Named plug-ins: how tasks, balancers, data sets, encoders and decoders are found by name.

The command line imports this module for its messages, so it does not import torch.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast, get_type_hints

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])

ENTRY_POINTS = "mtlkit.plugins"


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: close matches first, then all that is known.

    >>> suggest("rotgrad", ["rotograd", "uniform"])
    "Did you mean 'rotograd'? Known: rotograd, uniform."
    """
    known = sorted(known)
    return f"{did_you_mean(name, known)} Known: {', '.join(known) or 'none'}.".lstrip()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The names that are close to a misspelt one, as a question; empty where there are none."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""


class Registry(Generic[T]):
    """Classes under names, all of one base class.

    A look-up first loads the installed plug-ins: the entry points of the group `mtlkit.plugins`. Of mtlkit's own
    packages it loads only the one that `own` names, which registers here: a list of data sets must not wait for
    the networks. It loads everything of other distributions, since a foreign plug-in may register anything.
    Import errors are never swallowed.

    >>> class Animal: ...
    >>> ANIMALS = Registry("animal", Animal)
    >>> @ANIMALS.register("cat")
    ... class Cat(Animal):
    ...     '''Purrs.'''
    >>> type(ANIMALS.build("cat")).__name__, ANIMALS.describe("cat")
    ('Cat', 'Purrs.')
    >>> ANIMALS.build("cta")
    Traceback (most recent call last):
    LookupError: No animal is called 'cta'. Did you mean 'cat'? Known: cat.
    """

    def __init__(self, kind: str, base: type[T], own: str | None = None) -> None:
        self.kind = kind
        self.base = base
        self.own = own  #: the name of mtlkit's own entry point that registers classes here
        self._classes: dict[str, type[T]] = {}
        self._ready = False  # whether the plug-ins are loaded: looking for them reads files of every distribution

    def register(self, name: str) -> Callable[[C], C]:
        """A class decorator that enters the class under `name`.

        Raises `ValueError` when another class has the name and `TypeError` when the class is not of the
        registry's base class. The same class defined again (a notebook cell, `importlib.reload`) replaces itself.
        """

        def decorate(cls: C) -> C:
            entry: Any = cls
            if not (inspect.isclass(cls) and issubclass(cls, self.base)):
                raise TypeError(f"The {self.kind} {name!r} must be a subclass of {self.base.__name__}, got {cls!r}.")
            if not name.isidentifier():
                raise ValueError(f"A {self.kind}'s name must be a Python identifier, got {name!r}.")
            taken = self._classes.get(name)
            if taken is not None and _place(taken) != _place(cls):
                raise ValueError(
                    f"The {self.kind} name {name!r} is taken by {_place(taken)}; {_place(cls)} needs another name."
                )
            self._classes[name] = entry
            return cast(C, cls)

        return decorate

    def get(self, name: str) -> type[T]:
        """The class under `name`; raises `LookupError` with close matches when there is none."""
        self._load()
        if name not in self._classes:
            raise LookupError(f"No {self.kind} is called {name!r}. {suggest(name, self._classes)}")
        return self._classes[name]

    def build(self, name: str, *args: Any, **options: Any) -> T:
        """An instance of the class under `name`; raises `ValueError` naming an option that it does not take."""
        cls = self.get(name)
        check_options(f"{self.kind} {name!r}", cls, options)
        return cls(*args, **options)

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._classes)

    def described(self) -> dict[str, str]:
        """The first line of every class's docstring, by name."""
        return {name: self.describe(name) for name in self.names()}

    def describe(self, name: str) -> str:
        """The first line of the class's docstring."""
        return (inspect.getdoc(self.get(name)) or "").partition("\n")[0]

    def _load(self) -> None:
        if not self._ready:
            load_plugins(self.own)
            self._ready = True


def check_options(what: str, cls: type, options: Iterable[str]) -> None:
    """Refuses keyword arguments that the constructor of `cls` does not take, with close matches.

    Raises `ValueError`. Keyword arguments of parent constructors count where the constructor has `**kwargs`.
    """
    known = options_of(cls)
    for name in options:
        if name not in known:
            raise ValueError(f"The {what} has no option {name!r}. {suggest(name, known)}")


def options_of(cls: type) -> dict[str, inspect.Parameter]:
    """The options of a class, by name: the named parameters of its constructor, and the fields of its `Options`.

    A constructor with `**kwargs` hands them on to the parent's, so that the parent's parameters count as well. The
    child's come first. At the end of this chain, tasks and data sets turn the rest into the dataclass `Options`.
    Keyword arguments under a name with an underscore (`**_kwargs`) are handed on, but they are no options.
    """
    found: dict[str, inspect.Parameter] = {}
    for parent in cls.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = list(inspect.signature(vars(parent)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD and not p.name.startswith("_") for p in parameters):
            return found
    for p in _fields_of(getattr(cls, "Options", None)):
        found.setdefault(p.name, p)
    return found


def _fields_of(options: Any) -> Iterator[inspect.Parameter]:
    """The fields of a dataclass as parameters of a constructor."""
    hints = get_type_hints(options, include_extras=True) if is_dataclass(options) else {}
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    for field in fields(options) if hints else ():
        default = empty if field.default is MISSING else field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        yield inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name])


def load_plugins(own: str | None) -> None:
    """Imports the installed plug-ins, each once: of mtlkit's own the one called `own`, of others all.

    Import errors propagate. A plug-in that failed is imported again at the next look-up, so that the error is met
    again in place of an empty registry.
    """
    for point in entry_points(group=ENTRY_POINTS):
        ours = point.module.partition(".")[0] == "mtlkit"
        if point.value in _loaded or (ours and point.name != own):
            continue
        _loaded.add(point.value)  # before the import, during which a plug-in may look names up
        try:
            point.load()
        except BaseException:
            _loaded.remove(point.value)
            raise


_loaded: set[str] = set()


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
