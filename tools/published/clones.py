"""Reads published code from local clones, for tools/compare_protocols.py: classes, functions and settings.

A file of a clone is never run as it is. Its imports, functions, classes and assignments are; everything else at its top
level, such as a training or a download, is left out. A package that is not installed here becomes an empty stand-in,
which fails only if something uses it.
"""

import ast
import importlib
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)


class NotThereError(LookupError):
    """A clone, a file or a name in it does not exist."""


class _Anything(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing


class Missing(metaclass=_Anything):
    """Stands for a package that is not installed, for all its names, and for base classes from it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass


class Clone:
    """A clone of the repository `owner/name` in the folder `path`, under the repository's name."""

    def __init__(self, path: Path, repository: str) -> None:
        self.repository, self.path = repository, path
        self.folder = path / repository.partition("/")[2]
        self._modules: dict[str, ModuleType] = {}

    def commit(self) -> str:
        """Returns the short name of the clone's commit. Raises `NotThereError` if there is no clone."""
        if not self.folder.is_dir():
            raise NotThereError(f"no clone of {self.repository} in {self.path}")
        # --git-dir: otherwise git would answer for a repository that the folder lies in.
        command = ["git", f"--git-dir={self.folder / '.git'}", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()[:7] if done.returncode == 0 else "unknown commit"

    def text(self, file: str) -> str:
        """Returns the text of a file. Raises `NotThereError` if there is no clone or no such file."""
        self.commit()
        if not (self.folder / file).is_file():
            raise NotThereError(f"the clone of {self.repository} in {self.path} has no {file}")
        return (self.folder / file).read_text(encoding="utf-8")

    def module(self, file: str, root: str = "") -> ModuleType:
        """Returns a module with the functions, classes and assigned names of a file.

        The file may import others of the clone. `root` is the folder from which it counts them.
        """
        if file not in self._modules:
            module = self._modules[file] = ModuleType(re.sub(r"\W", "_", file))
            for node in self._tree(file).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self._import(node, module, root)
                elif isinstance(node, KEPT):
                    code = compile(ast.Module([node], []), str(self.folder / file), "exec")
                    exec(code, module.__dict__)  # the user's own clone; see the top of this file
        return self._modules[file]

    def get(self, file: str, name: str, root: str = "") -> Any:
        """Returns a function, class or value of a file. Raises `NotThereError` if it has no such name."""
        module = self.module(file, root)
        if not hasattr(module, name):
            raise NotThereError(f"{file} of the clone of {self.repository} has no {name}")
        return getattr(module, name)

    def options(self, *files: str) -> dict[str, Any]:
        """Returns the defaults of the command line that the files define by `add_argument` and `set_defaults`."""
        found: dict[str, Any] = {}
        for file in files:
            for call in self._calls(file, "add_argument"):
                name = max((_literal(word) or "" for word in call.args), key=len)
                default = {word.arg: _literal(word.value) for word in call.keywords}.get("default")
                found[name.lstrip("-").replace("-", "_")] = default
            for call in self._calls(file, "set_defaults"):
                found |= {word.arg: _literal(word.value) for word in call.keywords if word.arg}
        return found

    def arguments(self, file: str, function: str) -> dict[int | str, Any]:
        """Returns the arguments that are literals, by position or name, of the first call of a function in a file."""
        calls = self._calls(file, function)
        if not calls:
            raise NotThereError(f"{file} of the clone of {self.repository} does not call {function}")
        words = [*enumerate(calls[0].args), *((word.arg or "", word.value) for word in calls[0].keywords)]
        return {key: value for key, node in words if (value := _literal(node)) is not None}

    def calls(self, file: str, function: str) -> bool:
        """Returns whether a file calls a function or method of this name."""
        return bool(self._calls(file, function))

    def _calls(self, file: str, function: str) -> list[ast.Call]:
        calls = [node for node in ast.walk(self._tree(file)) if isinstance(node, ast.Call)]
        named = [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) == function]
        return sorted(named, key=lambda call: call.lineno)

    def _tree(self, file: str) -> ast.Module:
        # `async` was a usual name of an argument before it became a word of the language.
        return ast.parse(re.sub(r"\basync(?=\s*=)", "non_blocking", self.text(file)))

    def _import(self, node: ast.Import | ast.ImportFrom, module: ModuleType, root: str) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                value = getattr(self._find(node.module or "", root), alias.name, Missing)
            else:
                value = self._find(alias.name, root)
                if alias.asname is None and "." in alias.name:  # `import a.b` binds a
                    value = self._find(alias.name.partition(".")[0], root)
            setattr(module, alias.asname or alias.name.partition(".")[0], value)

    def _find(self, name: str, root: str) -> Any:
        """Returns a module of the clone, an installed one, or the stand-in for one that is missing."""
        file = f"{root}{name.replace('.', '/')}.py"
        if (self.folder / file).is_file():
            return self.module(file, root)
        try:
            return importlib.import_module(name)
        except ImportError:
            return Missing


def _literal(node: ast.expr) -> Any:
    """Returns the value of a constant expression, otherwise None."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
