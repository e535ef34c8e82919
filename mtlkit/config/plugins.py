"""The modules that the key `plugins` names."""

import importlib
from typing import Any

from mtlkit.typed import Source


def import_plugins(modules: Any, source: Source) -> None:
    """Imports the modules of the key `plugins`.

    Raises `ValueError` where there is no such module; what a module raises itself is left as it is.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(module, str) for module in modules):
        raise source.error("plugins", f"expected a list of module names, found {modules!r}")
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there and misses another one
            raise source.error("plugins", f"there is no module {module!r}: {error}") from None
