"""The names that installed plug-ins register, found in the text of their files without importing them.

The completion of the shells needs them in a fraction of a second, and torch alone takes longer to import. A name that
is registered in another way than by `@REGISTRY.register("NAME")` is not found.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from mtlkit.config.keys import GIVEN
from mtlkit.meanings import arguments
from mtlkit.registry import ENTRY_POINTS

REGISTERED = r"^\s*@(?:\w+\.)*{registry}\.register\(\s*[\"'](\w+)[\"']"


def registered(registry: str) -> list[str]:
    """Returns the names in a registry, which is given by the name of its variable.

    >>> "rotograd" in registered("BALANCERS"), "rotograd" in registered("TASKS")
    (True, False)
    """
    pattern = re.compile(REGISTERED.format(registry=registry), re.MULTILINE)
    return sorted({name for file in _files() for name in pattern.findall(_text(file))})


def option_names(registry: str, name: str) -> list[str]:
    """Returns the options of a class: those that its docstring explains, and those of its constructor.

    Options that it takes from a parent in another file are not found.

    >>> option_names("BALANCERS", "dwa")
    ['temperature', 'window']
    """
    pattern = re.compile(REGISTERED.format(registry=registry).replace(r"(\w+)", re.escape(name)), re.MULTILINE)
    for file in _files():
        text = _text(file)
        if pattern.search(text):
            found = next(cls for cls in ast.walk(ast.parse(text)) if _registers(cls, registry, name))
            assert isinstance(found, ast.ClassDef)
            return sorted(set(_options(found)) - GIVEN[registry])
    return []


def _options(cls: ast.ClassDef) -> Iterator[str]:
    yield from arguments(ast.get_docstring(cls) or "")
    for part in cls.body:
        if isinstance(part, ast.ClassDef) and part.name == "Options":
            yield from arguments(ast.get_docstring(part) or "")
        if isinstance(part, ast.FunctionDef) and part.name == "__init__" and "Options" not in map(_name, cls.body):
            yield from (argument.arg for argument in (*part.args.args[1:], *part.args.kwonlyargs))


def _name(part: ast.stmt) -> str:
    return part.name if isinstance(part, ast.ClassDef) else ""


def _registers(cls: ast.AST, registry: str, name: str) -> bool:
    calls = cls.decorator_list if isinstance(cls, ast.ClassDef) else []
    return any(
        isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith(f"{registry}.register")
        and any(isinstance(given, ast.Constant) and given.value == name for given in call.args)
        for call in calls
    )


def _files() -> Iterator[Path]:
    """Yields the files of all plug-ins. Looking for a package imports only the packages above it."""
    modules = {point.module for point in entry_points(group=ENTRY_POINTS)}
    # Balancers and tasks lie outside the folder of mtlkit while it is installed for development.
    ours = {module for module in modules if module.startswith("mtlkit.")}
    files: dict[Path, None] = {}
    for module in sorted({*ours, *(module.partition(".")[0] for module in modules)}):
        spec = importlib.util.find_spec(module)
        folders = (spec.submodule_search_locations or ()) if spec else ()
        files |= dict.fromkeys(file for folder in folders for file in Path(folder).rglob("*.py"))
        if spec and not folders and spec.origin:
            files[Path(spec.origin)] = None
    yield from sorted(files)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # it could not be imported either
        return ""
