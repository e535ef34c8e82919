"""Imports the modules that the key `plugins` names."""

import importlib
from collections.abc import Iterable
from typing import Any

from mtlkit.typed import Source


def import_plugins(modules: Any, source: Source) -> None:
    """Imports the modules of the key `plugins`.

    Raises `ValueError` if a module does not exist. Errors that a module itself raises are not changed.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(module, str) for module in modules):
        raise source.error("plugins", f"expected a list of module names, found {modules!r}")
    for module, error in import_found(modules).items():
        raise source.error("plugins", f"there is no module {module!r}: {error}")


def import_found(modules: Iterable[str]) -> dict[str, ModuleNotFoundError]:
    """Imports the modules that exist, and returns why the others do not."""
    absent = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, but a module that it imports is missing
            absent[module] = error
    return absent
