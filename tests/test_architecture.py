"""Rules for the structure of the code, on which a reader can rely."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import mtlkit
from mtlkit.engine.engine import Engine

ROOT = Path(mtlkit.__file__).parent
REPOSITORY = Path(__file__).parents[1]
PLUGINS = ("mtlkit.balancers", "mtlkit.tasks", "mtlkit.datasets", "mtlkit.kinds", "mtlkit.networks")
CORE = [file for file in ROOT.rglob("*.py") if file.relative_to(ROOT).parts[0] not in ("datasets", "kinds", "networks")]


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("file", CORE, ids=lambda file: str(file.relative_to(ROOT)))
def test_core_never_imports_a_plugin(file):
    assert not [(line, name) for line, name in imports(file) if name.startswith(PLUGINS)]


@pytest.mark.parametrize("file", CORE, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_core_file_is_longer_than_250_lines(file):
    assert len(file.read_text().splitlines()) <= 250


#: Rooms (packages), the lowest first. A file imports from its own room and from lower ones, also for type checking.
ROOMS = ("top", "data", "config", "engine", "loop", "page", "report", "run", "console", "study", "testing", "cli")


def modules():
    """Returns the file of every module that is installed as mtlkit, by name."""
    folders = {"mtlkit": ROOT, "mtlkit.balancers": REPOSITORY / "balancers", "mtlkit.tasks": REPOSITORY / "tasks"}
    found = {}
    for package, folder in folders.items():
        for file in folder.rglob("*.py"):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def arrows():
    """Returns the modules of mtlkit that each module imports anywhere in its file, also under `TYPE_CHECKING`."""
    known, found = modules(), {}
    for module, file in known.items():
        found[module] = set()
        for _, name in imports(file):
            while name not in known and "." in name:
                name = name.rpartition(".")[0]
            if name in known and name != module:
                found[module].add(name)
    return found


def test_there_is_no_circle_of_imports():
    waiting, done = arrows(), set()
    while free := [module for module, needed in waiting.items() if needed <= done]:
        done.update(free)
        waiting = {module: needed for module, needed in waiting.items() if module not in done}
    assert not waiting, f"these modules import each other in a circle: {', '.join(sorted(waiting))}"


def room(module):
    """Returns the package below mtlkit that a module is in; `top` for the modules that plug-ins import."""
    first = f"{module}.".split(".")[1]
    return first if first and (first in ROOMS or (ROOT / first).is_dir() or (REPOSITORY / first).is_dir()) else "top"


def test_rooms_import_downwards_only():
    doors = {"mtlkit", "mtlkit.__main__"}  # they only pass on what users need
    for module, needed in arrows().items():
        if room(module) in ROOMS and module not in doors:
            for other in needed - doors:
                assert ROOMS.index(room(other)) <= ROOMS.index(room(module)), f"{module} imports {other}"


def test_the_page_on_the_architecture_names_what_there_is():
    text = (REPOSITORY / "docs" / "explanation" / "architecture.md").read_text()
    drawn = [line.split("/")[0].strip() for line in text.splitlines() if re.match(r"    \w+/  ", line)]
    assert [name for name in reversed(drawn) if name in ROOMS] == [name for name in ROOMS if name in drawn]
    assert {*drawn, "testing", "top"} >= set(ROOMS)
    for path in re.findall(r"`(mtlkit/[\w/]+\.py)`", text):
        assert path.endswith("/NAME.py") or (REPOSITORY / path).exists(), path


@pytest.mark.parametrize(("folder", "other"), [("balancers", "mtlkit.tasks"), ("tasks", "mtlkit.balancers")])
def test_balancers_and_tasks_do_not_know_each_other(folder, other):
    for file in (REPOSITORY / folder).glob("*.py"):
        assert not [(file.name, line) for line, name in imports(file) if name.startswith(other)]


def test_the_engine_names_no_method_and_no_task():
    names = {*mtlkit.BALANCERS.names(), *mtlkit.TASKS.names()} - {"config"}  # there, it is the configuration
    for file in (*(ROOT / "engine").glob("*.py"), ROOT / "step.py", ROOT / "state.py", ROOT / "gradients.py"):
        tree = ast.parse(file.read_text())
        docs = {
            ast.get_docstring(n, clean=False)
            for n in ast.walk(tree)
            if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)} - docs
        used = strings | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert not names & used, file


def test_train_step_fits_on_a_screen():
    assert len(inspect.getsource(Engine.train_step).splitlines()) <= 40


def test_every_balancer_is_found_by_its_file_name():
    files = {file.stem for file in (REPOSITORY / "balancers").glob("*.py")} - {"__init__"}
    ours = {name for name in mtlkit.BALANCERS.names() if mtlkit.BALANCERS.get(name).__module__.startswith("mtlkit.")}
    assert files == ours


def test_every_kind_is_found_by_its_file_name():
    files = {file.stem for file in (ROOT / "kinds").glob("*.py")} - {"__init__"}
    assert files == {name for name in mtlkit.KINDS.names() if mtlkit.KINDS.get(name).__module__.startswith("mtlkit.")}


def test_what_handles_targets_names_no_kind():
    files = [
        *(ROOT / "data").glob("*.py"),
        *(ROOT / "engine").glob("*.py"),
        ROOT / "target.py",
        ROOT / "run/first_look.py",
    ]
    for file in files:
        tree = ast.parse(file.read_text())
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not strings & set(mtlkit.KINDS.names()), file


def test_plugins_are_described():
    registries = (mtlkit.BALANCERS, mtlkit.TASKS, mtlkit.DATASETS, mtlkit.KINDS, mtlkit.ENCODERS, mtlkit.DECODERS)
    for registry in registries:
        for name in registry.names():
            assert registry.describe(name), name


SHARE = 1e-3  # numbers after `<` up to this size are tolerances; larger ones are shares and sizes


def tolerances(file):
    """Returns the lines of a test file that have a number as a tolerance."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.keyword) and node.arg in ("rtol", "atol", "rel", "abs", "tolerance"):
            numbers = [node.value]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[-1], ast.Lt | ast.LtE):
            numbers = [n for n in ast.walk(node.comparators[-1]) if isinstance(n, ast.Constant)]
            numbers = [n for n in numbers if isinstance(n.value, float) and n.value <= SHARE]
        else:
            continue
        yield from (n.lineno for n in numbers if isinstance(n, ast.Constant) and n.value)


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_a_tolerance_has_a_name_or_a_reason(file):
    """A tolerance is one of `tolerances.py`, or has a comment on its line or in the three lines above."""
    lines = file.read_text().splitlines()
    assert not [n for n in tolerances(file) if not any("#" in line for line in lines[max(n - 4, 0) : n])]
