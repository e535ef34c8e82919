"""Named plug-ins: how tasks, balancers, data sets, encoders and decoders are found by name."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from torch import nn

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])

ENTRY_POINTS = "mtlkit.plugins"


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: close matches first, then all that is known.

    >>> suggest("rotgrad", ["rotograd", "uniform"])
    "Did you mean 'rotograd'? Known: rotograd, uniform."
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."


class Registry(Generic[T]):
    """Classes under names, all of one base class.

    The first look-up loads every installed plug-in (the entry points of the group `mtlkit.plugins`, among
    them mtlkit's own balancers and tasks); an import error in one of them is never swallowed.

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

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}

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
        load_plugins()
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
        load_plugins()
        return sorted(self._classes)

    def described(self) -> dict[str, str]:
        """The first line of every class's docstring, by name."""
        return {name: self.describe(name) for name in self.names()}

    def describe(self, name: str) -> str:
        """The first line of the class's docstring."""
        return (inspect.getdoc(self.get(name)) or "").partition("\n")[0]


def check_options(what: str, cls: type, options: Iterable[str]) -> None:
    """Refuses keyword arguments that the constructor of `cls` does not take, with close matches.

    Raises `ValueError`. Keyword arguments of parent constructors count where the constructor has `**kwargs`.
    """
    known = options_of(cls)
    for name in options:
        if name not in known:
            raise ValueError(f"The {what} has no option {name!r}. {suggest(name, known)}")


def options_of(cls: type) -> dict[str, inspect.Parameter]:
    """The named constructor parameters of a class, following `**kwargs` to its parents; the child's come first.

    Keyword arguments under a name with an underscore (`**_kwargs`) are handed on, but they are no options.
    """
    found: dict[str, inspect.Parameter] = {}
    for parent in cls.__mro__:
        if "__init__" not in vars(parent) or parent in (object, nn.Module):
            continue
        parameters = list(inspect.signature(vars(parent)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD and not p.name.startswith("_") for p in parameters):
            break
    return found


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Imports the installed plug-ins (once) and the named modules. Import errors propagate."""
    if not _loaded:
        _loaded.append(ENTRY_POINTS)
        try:
            for point in entry_points(group=ENTRY_POINTS):
                point.load()
        except BaseException:
            _loaded.clear()  # so that the next look-up meets the same error, not an empty registry
            raise
    for module in modules:
        importlib.import_module(module)


_loaded: list[str] = []


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
