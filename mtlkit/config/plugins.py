"""Imports the modules that the key `plugins` names: code, which therefore somebody must have chosen.

What the user says himself is imported as it is. What a run's own file says may come from anyone: such a module is
imported only if an installed package provides it. SECURITY.md has the whole rule.
"""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mtlkit.config.yaml_files import read_mapping
from mtlkit.registry import ENTRY_POINTS
from mtlkit.run_folder import CONFIG
from mtlkit.typed import Source

TRUST = "--trust-plugins imports it (in Python: trust_plugins=True, or import it yourself before)"


def import_plugins(modules: Any, source: Source) -> None:
    """Imports modules that the user has named: in a word, in an experiment's file or in Python.

    Python looks for them in the current folder, too, so that the plug-ins of a lab need no installation. Raises
    `ValueError` if a module does not exist. Errors that a module itself raises are not changed.
    """
    for module, error in import_found(checked(modules, source)).items():
        raise source.error("plugins", f"there is no module {module!r}: {error}")


def import_installed(modules: Any, source: Source) -> None:
    """Imports modules that the own file of a run or a study has named.

    Raises `ValueError` for a module that is neither imported already nor provided by an installed package.
    """
    names = checked(modules, source)
    for module in names:
        if module in sys.modules or installed(module):
            continue
        what = "which no installed package provides" if exists(module) else "and there is no such module"
        problem = f"this file names the module {module!r}, {what}"
        raise source.error("plugins", problem, f"Such a file may come from anyone. If you trust that code, {TRUST}.")
    import_plugins(names, source)


def import_trusted(run: Path) -> None:
    """Imports the modules that a run's config.yaml names, because the user trusts them. They need not exist.

    `run` is a run's folder or that file. Nothing happens if there is no such file.
    """
    path = run if run.is_file() else run / CONFIG
    if path.is_file():
        import_found(checked(read_mapping(path).get("plugins"), Source(str(path))))


def checked(modules: Any, source: Source) -> list[str]:
    """Returns the value of the key `plugins` if it is a list of names of modules. Raises `ValueError` otherwise."""
    found = [] if modules is None else modules
    if not isinstance(found, list | tuple) or not all(isinstance(module, str) for module in found):
        raise source.error("plugins", f"expected a list of module names, found {modules!r}")
    for module in found:
        if not all(part.isidentifier() for part in module.split(".")):
            raise source.error("plugins", f"expected names of modules, such as my_lab.balancers, found {module!r}")
    return list(found)


def import_found(modules: Iterable[str]) -> dict[str, ModuleNotFoundError]:
    """Imports the modules that exist, and returns why the others do not."""
    absent = {}
    for module in modules:
        top = module.partition(".")[0]
        # Only now: before somebody names a module that is only there, nothing of the current folder can be imported.
        if top not in sys.modules and importlib.util.find_spec(top) is None and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, but a module that it imports is missing
            absent[module] = error
    return absent


def installed(module: str) -> bool:
    """Returns whether Python would take a module from an installed package. It imports nothing.

    >>> installed("yaml"), installed("this")  # the latter belongs to Python itself, where no plug-in is
    (True, False)
    """
    packages = list(_packages())
    points = (point for package in packages for point in package.entry_points if point.group == ENTRY_POINTS)
    if any(f"{module}.".startswith(f"{point.module}.") for point in points):
        return True
    places: list[str] | None = None
    for name in _prefixes(module):
        try:
            spec = importlib.util.find_spec(name) if places is None else PathFinder.find_spec(name, places)
        except ValueError:  # somebody made this module by hand
            return False
        if spec is None:
            return False
        if spec.origin is not None and spec.has_location:  # what is below a package with a file is that package's own
            file = Path(spec.origin).resolve()
            return any(_provides(package, name, file) for package in packages)
        # A folder without __init__.py may be a part of several packages, and there may be one of that name here.
        places = list(spec.submodule_search_locations or ())
    return False


def _packages() -> Iterator[Distribution]:
    """Yields the installed packages. What the current folder says about itself is no installation."""
    here = Path.cwd()
    return (found for found in distributions() if Path(str(found.locate_file(""))).resolve() != here)


def _provides(package: Distribution, name: str, file: Path) -> bool:
    """Returns whether an installed package provides the module `name` by that file."""
    base = Path(str(package.locate_file(""))).resolve()
    record = (package.read_text("RECORD") or "").splitlines()
    if file.is_relative_to(base):
        return any(line.startswith(f"{file.relative_to(base).as_posix()},") for line in record)
    # `pip install -e` lists no module: their names are in top_level.txt, or their folders in a file .pth.
    about = json.loads(package.read_text("direct_url.json") or "{}")
    if not about.get("dir_info", {}).get("editable"):
        return False
    if not file.is_relative_to(Path(unquote(urlsplit(about["url"]).path)).resolve()):
        return False
    if name.partition(".")[0] in (package.read_text("top_level.txt") or "").split():
        return True
    links = [base / line.partition(",")[0] for line in record if line.partition(",")[0].endswith(".pth")]
    lines = [line for link in links if link.is_file() for line in link.read_text(encoding="utf-8").splitlines()]
    folders = {Path(line).resolve() for line in lines if line}
    return file.parents[name.count(".") + (file.stem == "__init__")] in folders


def _prefixes(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def exists(module: str) -> bool:
    """Returns whether Python finds a module, also in the current folder. It imports nothing."""
    return PathFinder.find_spec(module.partition(".")[0], [*sys.path, os.getcwd()]) is not None
