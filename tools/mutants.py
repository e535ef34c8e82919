"""Runs mutation tests: puts small faults into the code, one at a time. The tests must notice each one.

    python tools/mutants.py                              # every mutant; keeps the results of earlier runs python
    tools/mutants.py balancers/nash.py            # of some files only python tools/mutants.py --sample 400 --seed 1
    # a random part of each file, for an estimate python tools/mutants.py --report                     # runs nothing:
    the score so far and what survives;
                                                         # with the words of a sample, that sample's

The faults are those of mutmut's operators, and two more: leaving out a statement or an entry of a dictionary. (mutmut 3
itself cannot be used, because the package consists of several folders.) These are never changed: texts, the messages of
`raise` and `assert`, `strict=`, `device=` (there is one device here), types, `__all__` and decorators.

The tests of a mutant are those in `tools/mutants.yaml` that run its line. The quick ones run first, until one fails,
and those that start processes run last. Code that runs on import, such as a default, also gets the tests under
`on_import`. All third-party packages are imported once. A mutant inside a function is a fork of a process that has
collected the tests. Other mutants, such as a default, are forks that import mtlkit from a folder of links, which
contains the one changed file. Processes that a test starts import it from there, too. `.cache/mutants` keeps the
results: a killed mutant stays killed as long as its function is the same, and a mutant that survived is tried again.
"""

import argparse
import ast
import contextlib
import fnmatch
import gc
import importlib
import inspect
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import libcst as cst
import yaml
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "mutants"
FOLDERS = {name: ROOT / name for name in ("balancers", "tasks", "configs")}  # that are packages of mtlkit
PYTEST = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "randomly", "--randomly-seed=1"]
PYTEST += ["--randomly-dont-reorganize", "-p", "no:xdist"]
KEPT = ("strict", "device")  # arguments
OPERATORS = [pair for pair in mutators.mutation_operators if pair[1] is not mutators.operator_string]


@dataclass(frozen=True)
class Mutant:
    """One fault: the bytes `start` to `end` of `file` become `after`."""

    file: str
    function: str  # the qualified name of what surrounds it
    first: int  # first and last line of the statement
    last: int
    imported: bool  # whether it runs on import: in a class body, a default, or at the top of the file
    start: int
    end: int
    before: str
    after: str
    left: str  # what stands beside it in its line
    right: str
    key: str = ""

    @property
    def change(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        if len(before) < 12:
            before, after = (f"{self.left[-24:]}{text}{self.right[:12]}".strip() for text in (before, after))
        left = max(0, alike(before, after) - 40)  # of a long statement, what is around the change
        right = max(0, alike(before[left:][::-1], after[left:][::-1]) - 40)
        return f"{before[left : len(before) - right]} → {after[left : len(after) - right]}"

    def source(self) -> bytes:
        whole = (ROOT / self.file).read_bytes()
        return whole[: self.start] + self.after.encode() + whole[self.end :]


def alike(one: str, two: str) -> int:
    """Returns the number of characters that two texts have in common at their beginning."""
    return next(
        (i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two))
    )


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # also where pytest captures


def leave_out_statement(node: cst.Expr) -> Iterator[cst.BaseSmallStatement]:
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def leave_out_entry(node: cst.Dict) -> Iterator[cst.Dict]:
    for i in range(len(node.elements)):
        yield node.with_changes(elements=[*node.elements[:i], *node.elements[i + 1 :]])


OPERATORS += [(cst.Expr, leave_out_statement), (cst.Dict, leave_out_entry)]


class Finder(cst.CSTVisitor):
    """Finds every mutant of a file."""

    METADATA_DEPENDENCIES = (PositionProvider, ByteSpanPositionProvider)

    def __init__(self, file: str, module: cst.Module) -> None:
        super().__init__()
        self.file, self.module, self.found = file, module, []
        self._names: list[str] = []
        self._lines = [(1, 1)]
        self._bodies: set[int] = set()  # of functions
        self._depth = 0

    def _skips(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Raise | cst.Assert | cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
            return True
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
            return node.func.value in ("len", "isinstance", "cast", "super")
        if isinstance(node, cst.Arg) and node.keyword:
            return node.keyword.value in KEPT
        if isinstance(node, cst.Assign) and not self._names:
            named = self.module.code_for_node(node.targets[0].target)
            return named == "__all__" or isinstance(node.value, cst.Subscript)  # a type
        return isinstance(node, cst.If) and self.module.code_for_node(node.test) == "TYPE_CHECKING"

    def on_visit(self, node: cst.CSTNode) -> bool:
        if self._skips(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.Lambda):
            self._bodies.add(id(node.body))
        self._depth += id(node) in self._bodies
        place = self.get_metadata(PositionProvider, node, None)
        if place and isinstance(node, cst.BaseSmallStatement | cst.BaseCompoundStatement):
            body = getattr(node, "body", None)
            end = self.get_metadata(PositionProvider, body).start.line if body else place.end.line
            self._lines.append((place.start.line, end))
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._names.append(node.name.value)
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                for changed in operator(node):
                    self._keep(node, changed)
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        if self._skips(node):
            return
        self._depth -= id(node) in self._bodies
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._names.pop()
        if isinstance(node, cst.BaseSmallStatement | cst.BaseCompoundStatement):
            self._lines.pop()

    def _keep(self, node: cst.CSTNode, changed: cst.CSTNode) -> None:
        span = self.get_metadata(ByteSpanPositionProvider, node)
        start, end = span.start, span.start + span.length
        before = self.module.bytes[start:end].decode()
        if isinstance(node, cst.Call) and isinstance(changed, cst.Call) and kept(node) != kept(changed):
            return
        function, (first, last) = ".".join(self._names), self._lines[-1]
        after = self.module.code_for_node(changed)
        left = self.module.bytes[:start].decode().rpartition("\n")[2].lstrip()
        right = self.module.bytes[end:].decode().partition("\n")[0]
        imported = not self._depth
        self.found.append(Mutant(self.file, function, first, last, imported, start, end, before, after, left, right))


def kept(call: cst.Call) -> list[str]:
    """Returns the arguments that no mutant changes, as they are written."""
    named = [arg for arg in call.args if arg.keyword and arg.keyword.value in KEPT]
    return [cst.Module([]).code_for_node(arg.value) for arg in named]


def mutants_of(file: str) -> list[Mutant]:
    """Returns the mutants of a file, and keeps them. A key changes only if the surrounding function changes."""
    source = (ROOT / file).read_bytes()
    maker = "".join(map(inspect.getsource, (Finder, find_mutants, leave_out_statement, leave_out_entry)))
    digest = sha256(source + maker.encode()).hexdigest()
    kept = CACHE / "found" / f"{file.replace('/', '.')}.json"
    if kept.exists() and (stored := json.loads(kept.read_text()))["digest"] == digest:
        return [Mutant(**values) for values in stored["mutants"]]
    found = find_mutants(file, source)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"digest": digest, "mutants": [asdict(mutant) for mutant in found]}))
    return found


def find_mutants(file: str, source: bytes) -> list[Mutant]:
    wrapper = MetadataWrapper(cst.parse_module(source))
    finder = Finder(file, wrapper.module)
    wrapper.visit(finder)
    spans, found, seen = spans_of(source), [], set()
    for mutant in finder.found:
        what = (mutant.start, mutant.end, "".join(mutant.after.split()))
        if what in seen or what[2] == "".join(mutant.before.split()):
            continue
        try:
            ast.parse(mutant.source())
        except SyntaxError:
            continue
        seen.add(what)
        lines = source.decode().splitlines()
        begin, end = spans.get(mutant.function, (mutant.first, mutant.last))
        offset = len("\n".join(lines[: begin - 1]).encode())
        parts = (file, mutant.function, "\n".join(lines[begin - 1 : end]), str(mutant.start - offset), mutant.after)
        found.append(replace(mutant, key=sha256("\0".join(parts).encode()).hexdigest()[:16]))
    return found


def spans_of(source: bytes) -> dict[str, tuple[int, int]]:
    """Returns the first and last line of every function and class, by qualified name."""
    found = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}".strip(".")
                found[name] = (child.lineno, child.end_lineno)
            walk(child, name)

    walk(ast.parse(source), "")
    return found


# -- running tests in a fork --------------------------------------------------------------------------------------


class Watch:
    """A pytest plug-in: it records the time and the lines of every test, and the first test that failed."""

    def __init__(self, measure: coverage.Coverage | None = None) -> None:
        self.measure, self.times, self.failed = measure, defaultdict(float), []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.measure:
            self.measure.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.times[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def import_third_parties() -> None:
    """Imports all third-party modules of the code and the tests, once for all forks."""
    names = set()
    for file in [path for part in ("mtlkit", "balancers", "tasks", "tests") for path in (ROOT / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
    own = {"mtlkit", "layouts", "__future__"} | {path.stem for path in (ROOT / "tests").glob("*.py")}
    for name in sorted(names):
        if name.split(".")[0] not in own:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # a foreign package of a test that skips without it


def overlay(mutant: Mutant, folder: Path) -> None:
    """Makes a folder from which mtlkit can be imported: links to the code, and the one changed file."""
    package = folder / "mtlkit"
    package.mkdir(parents=True)
    for path in [*(ROOT / "mtlkit").iterdir(), *FOLDERS.values()]:
        (package / path.name).symlink_to(path)
    target = Path(mutant.file) if mutant.file.startswith("mtlkit/") else Path("mtlkit", mutant.file)
    for depth in range(1, len(target.parts) - 1):
        parent = folder.joinpath(*target.parts[: depth + 1])
        real = parent.resolve()
        parent.unlink()
        parent.mkdir()
        for path in real.iterdir():
            (parent / path.name).symlink_to(path)
    (folder / target).unlink()
    (folder / target).write_bytes(mutant.source())


def alone(folder: Path, seconds: float | None) -> None:
    """Gives this process, a fork, its own session, a limit of processor time, and the folder for its output."""
    os.setsid()
    sys.dont_write_bytecode = True  # the links share their byte code with the code itself
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    if seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    with open(folder / "output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def run_tests(tests: list[str], folder: Path, plugin: object, *more: str) -> int:
    """Runs pytest in this process, which is a fork, and returns its exit code."""
    import pytest

    os.chdir(ROOT)
    return int(pytest.main([*PYTEST, *more, f"--basetemp={folder / 'tmp'}", *tests], plugins=[plugin]))


def digest_of(test: str, files: Iterable[str]) -> str:
    paths = [ROOT / test, ROOT / "tests/toys.py", *(ROOT / file for file in sorted(files))]
    return sha256(b"\0".join(path.read_bytes() for path in paths if path.exists())).hexdigest()


def baseline(test: str, files: list[str]) -> dict[str, Any]:
    """Returns the time and the lines of code of a test file's tests. Keeps them until the file or code changes."""
    kept = CACHE / f"{Path(test).stem}.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        if found.get("files") == files and found["digest"] == digest_of(test, found["lines"]):
            return found
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    child = os.fork()
    if child == 0:
        alone(folder, None)
        measure = coverage.Coverage(data_file=None, include=[str(ROOT / file) for file in files])
        measure.start()
        watch = Watch(measure)
        run_tests([test], folder, watch)
        measure.stop()
        data = measure.get_data()
        lines = {file: data.contexts_by_lineno(str(ROOT / file)) for file in files}
        lines = {file: contexts for file, contexts in lines.items() if contexts}
        found = {"files": files, "digest": digest_of(test, lines), "times": watch.times, "failed": watch.failed}
        (folder / "found").write_text(json.dumps(found | {"lines": lines}))
        os._exit(0)
    os.waitpid(child, 0)
    if not (folder / "found").exists():
        raise SystemExit(f"{test} could not be run: {(folder / 'output').read_text()[-2000:]}")
    shutil.move(folder / "found", kept)
    shutil.rmtree(folder)
    return json.loads(kept.read_text())


class Selection:
    """Chooses the tests of a mutant."""

    def __init__(self, table: dict[str, Any], files: list[str]) -> None:
        self.last = {file: matching(table["last"], file) for file in files}
        self.on_import = {file: set(matching(table["on_import"], file)) for file in files}
        self.times: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {file: defaultdict(set) for file in files}
        self.every: dict[str, set[str]] = {file: set() for file in files}
        mine = {file: set(matching(table["tests"], file)) | self.on_import[file] for file in files}
        self.reads: dict[str, set[str]] = {file: set() for file in files}  # the tests of `on_import`
        starters = {test.partition("::")[0] for tests in self.last.values() for test in tests}
        for test in sorted(starters.union(*mine.values())):
            found = baseline(test, table_files())
            failed = set(found["failed"])
            if failed:
                say(f"{test}: fail without any fault and are left out: {', '.join(sorted(failed))}")
            self.times |= {name: seconds for name, seconds in found["times"].items() if name not in failed}
            for file in files:
                if test in mine[file]:
                    self.every[file] |= set(found["times"]) - failed
                    if test in self.on_import[file]:
                        self.reads[file] |= set(found["times"]) - failed
                    for line, contexts in found["lines"].get(file, {}).items():
                        self.lines[file][int(line)] |= set(contexts) - failed - {""}
        self.spans = {file: spans_of((ROOT / file).read_bytes()) for file in files}

    def tests(self, mutant: Mutant, budget: float) -> list[str]:
        """Returns the tests that run the mutant's line, one case of each first, as they fit into `budget` seconds."""
        first, last, name = mutant.first, mutant.last, mutant.function
        if mutant.imported:  # the tests of what surrounds it
            first, last = self.spans[mutant.file].get(name, (1, 10**6))
        lines = self.lines[mutant.file]
        found = set().union(*(contexts for n, contexts in lines.items() if first <= n <= last))
        if not name:  # a constant, which runs when the file is imported and never again
            found = set(self.every[mutant.file])
        if mutant.imported:
            found |= self.reads[mutant.file]
        found -= set(self.last[mutant.file])
        cases = defaultdict(list)
        for test in sorted(found, key=self.times.__getitem__):
            cases[test.partition("[")[0]].append(test)
        ranked = [(i, self.times[test], test) for tests in cases.values() for i, test in enumerate(tests)]
        chosen, spent = [], 0.0
        for _, seconds, test in sorted(ranked):
            if not chosen or spent + seconds <= budget:
                chosen.append(test)
                spent += seconds
        return chosen + self.last[mutant.file]


def matching(table: dict[str, list[str]], file: str) -> list[str]:
    return [test for pattern, tests in table.items() if fnmatch.fnmatch(file, pattern) for test in tests]


class Forks:
    """Tries mutants in forks of this process, which has imported only third parties. Each fork imports mtlkit."""

    def __init__(self) -> None:
        self.watch = Watch()

    def start(self, mutant: Mutant, tests: list[str], seconds: float, folder: Path) -> int:
        """Starts a fork that runs the tests on the mutant. Returns its process id."""
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            alone(folder, 20 + 5 * seconds)
            overlay(mutant, folder / "code")
            os.environ["PYTHONPATH"] = str(folder / "code")
            code = self.attempt(mutant, tests, folder)
            (folder / "failed").write_text("\n".join(self.watch.failed))
        except BaseException:  # noqa: BLE001 - a fork must not go on as if it were the parent
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def attempt(self, mutant: Mutant, tests: list[str], folder: Path) -> int:
        sys.path.insert(0, str(folder / "code"))
        return run_tests(tests, folder, self.watch, "-x")


class Server(Forks):
    """Tries mutants in forks of a process that has collected the tests: a pytest plug-in that replaces the code of
    functions. A mutant costs a fork and the tests' own time."""

    def __init__(self, run: Callable[["Forks"], None], file: str) -> None:
        super().__init__()
        self.run, self.file = run, file

    def pytest_runtestloop(self, session: Any) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        parts = Path(self.file).with_suffix("").parts
        importlib.import_module(".".join(parts if parts[0] == "mtlkit" else ("mtlkit", *parts)))
        gc.unfreeze()  # the tests' conftest freezes what is imported, and `get_objects` leaves out what is frozen
        self.functions = defaultdict(list)
        for found in gc.get_objects():
            if type(found) is FunctionType and found.__code__.co_filename == str(ROOT / self.file):
                self.functions[found.__code__.co_qualname, found.__code__.co_firstlineno].append(found)
        assert self.functions, f"no function of {self.file} is in memory, so that no fault would be put in"
        gc.freeze()  # forks share memory as long as nobody touches it
        self.run(self)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.watch.pytest_runtest_logreport(report)

    def attempt(self, mutant: Mutant, tests: list[str], folder: Path) -> int:
        for before, after in replaced(mutant):
            for function in self.functions[before.co_qualname, before.co_firstlineno]:
                function.__code__ = after
        items = [self.items[test] for test in tests]
        items[0].config._tmp_path_factory._given_basetemp = folder / "tmp"
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.watch.failed:
                return 1
        return 0


def replaced(mutant: Mutant) -> list[tuple[CodeType, CodeType]]:
    """Returns the code of all functions of the file, without the fault and with it."""
    path = ROOT / mutant.file
    return list(zip(*(functions_of(path, source) for source in (path.read_bytes(), mutant.source())), strict=True))


def can_replace(mutant: Mutant) -> bool:
    """Returns whether a function can get the changed code: not if its last `super()` or outer variable is gone."""
    same = all(len(before.co_freevars) == len(after.co_freevars) for before, after in replaced(mutant))
    return not mutant.imported and same


def functions_of(path: Path, source: bytes) -> Iterator[CodeType]:
    """Yields the code of all functions that are not inside another one, in order."""
    waiting = [compile(source, path, "exec")]
    while waiting:
        code = waiting.pop()
        if code.co_flags & inspect.CO_OPTIMIZED:
            yield code
        else:
            waiting += [const for const in code.co_consts if isinstance(const, CodeType)]


def run(forks: Forks, mutants: list[Mutant], selection: Selection, jobs: int, budget: float) -> None:
    """Tries the mutants, `jobs` at a time, and writes each result as soon as it is known."""
    waiting, running, began, done = list(mutants), {}, time.time(), 0
    with open(CACHE / "results.jsonl", "a") as log:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop(0)
                tests = selection.tests(mutant, budget)
                seconds = sum(selection.times[test] for test in tests)
                folder = Path(tempfile.mkdtemp(prefix="mutant-"))
                if not tests:
                    running[-len(running) - 1] = (mutant, tests, 0.0, time.time(), folder)
                    continue
                child = forks.start(mutant, tests, seconds, folder)
                running[child] = (mutant, tests, seconds, time.time(), folder)
            for child, (mutant, tests, seconds, started, folder) in list(running.items()):
                status = "survived" if child < 0 else state(child, time.time() - started > 60 + 10 * seconds)
                if not status:
                    continue
                del running[child]
                failed = (folder / "failed").read_text().split("\n") if (folder / "failed").exists() else []
                if status == "error":
                    say((folder / "output").read_text()[-3000:])
                shutil.rmtree(folder)
                record = {"key": mutant.key, "status": status, "by": failed[:1], "tests": len(tests)}
                place = {"file": mutant.file, "function": mutant.function, "line": mutant.first}
                record |= place | {"change": mutant.change}
                log.write(json.dumps(record) + "\n")
                log.flush()
                done += 1
                if status != "killed":
                    say(f"{status}: {mutant.file}:{mutant.first} {mutant.function}: {mutant.change}")
                if done % 50 == 0:
                    say(f"{mutant.file}: {done} of {len(mutants)}, {time.time() - began:.0f} s")
            time.sleep(0.005)


def state(child: int, late: bool) -> str:
    """Returns how a fork ended, or an empty text while it runs."""
    pid, code = os.waitpid(child, os.WNOHANG)
    if not pid and not late:
        return ""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with the processes that its tests started
    if not pid:
        os.waitpid(child, 0)
        return "timeout"
    if os.WIFSIGNALED(code):
        return "timeout" if os.WTERMSIG(code) in (signal.SIGXCPU, signal.SIGKILL) else "killed"
    ended = os.WEXITSTATUS(code)  # 1: a test failed; 2 and 4: the tests cannot even be collected
    return {0: "survived", 1: "killed", 2: "killed", 4: "killed"}.get(ended, "error")


# -- the score ----------------------------------------------------------------------------------------------------


def estimate(files: Sequence[tuple[int, int, int]]) -> tuple[float, float]:
    """Returns the share of caught mutants and half its 95 % interval, from (mutants, tried, caught) of every file.

    Each file is a stratum that counts by its mutants. A share of 1 in a sample is not certain, so its spread is that of
    (caught + 1) / (tried + 2).
    """
    whole = sum(every for every, _, _ in files)
    share = sum(every / whole * caught / tried for every, tried, caught in files)
    spread = 0.0
    for every, tried, caught in files:
        near = (caught + 1) / (tried + 2)
        spread += (every / whole) ** 2 * near * (1 - near) / tried * (1 - tried / every)
    return share, 1.96 * spread**0.5


def report(mutants: list[Mutant], results: dict[str, dict], justified: dict[str, list[dict]]) -> None:
    """Prints a table of the files and every mutant that survives without a reason."""
    rows, left, used = [], [], set()
    for file in sorted({mutant.file for mutant in mutants}):
        mine = [mutant for mutant in mutants if mutant.file == file]
        tried = [(mutant, results[mutant.key]["status"]) for mutant in mine if mutant.key in results]
        caught = sum(status in ("killed", "timeout") for _, status in tried)
        survived = [mutant for mutant, status in tried if status not in ("killed", "timeout")]
        excused = [mutant for mutant in survived if reason(mutant, justified, used)]
        left += [mutant for mutant in survived if mutant not in excused]
        rows.append((file, len(mine), len(tried), caught, len(excused), len(survived) - len(excused)))
    say("\n| file | mutants | tried | killed | equivalent | survived | score |\n|---|---|---|---|---|---|---|")
    total = tuple(sum(row[i] for row in rows) for i in range(1, 6))
    for file, every, tried, caught, excused, survived in [*rows, ("all", *total)]:
        score = f"{100 * (caught + excused) / tried:.1f} %" if tried else "-"
        say(f"| {file} | {every} | {tried} | {caught} | {excused} | {survived} | {score} |")
    sampled = [(every, tried, caught + excused) for _, every, tried, caught, excused, _ in rows if tried]
    if sampled and total[1] < total[0]:
        share, half = estimate(sampled)
        left_out = sum(not tried for _, _, tried, *_ in rows)
        say(f"\nA sample; {left_out} files have none. Of the others' mutants {100 * share:.1f} ± {100 * half:.1f} %")
    say("")
    for mutant in left:
        say(f"survived: {mutant.file}:{mutant.first} {mutant.function}: {mutant.change}")
    for file, entries in justified.items():
        for entry in entries:
            for change in entry["changes"]:
                mine = [m for m in mutants if m.file == file]
                if mine and all(m.key in results for m in mine) and (file, change) not in used:
                    say(f"justified in mutants.yaml, but no such mutant survives: {file}: {change}")


def reason(mutant: Mutant, justified: dict[str, list[dict]], used: set) -> str:
    for entry in justified.get(mutant.file, []):
        if entry.get("in", mutant.function) == mutant.function and mutant.change in entry["changes"]:
            used.add((mutant.file, mutant.change))
            return entry["why"]
    return ""


def settings() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "tools/mutants.yaml").read_text())


def table_files() -> list[str]:
    patterns = [pattern for pattern in settings()["tests"] if pattern != "*"]  # which stands for all of these
    return sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="only the mutants of these files; patterns are allowed")
    parser.add_argument("--sample", type=int, help="number of mutants, with a share of each file")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of tests that a mutant may survive")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    say(f"mutmut {version('mutmut')}, torch {version('torch')}, Python {sys.version.split()[0]}")
    table = settings()
    files = [f for pattern in args.files or ["*"] for f in table_files() if fnmatch.fnmatch(f, pattern)]
    log = CACHE / "results.jsonl"
    if args.fresh:
        log.unlink(missing_ok=True)
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    justified = table["equivalent"] or {}
    chosen = mutants
    if args.sample:
        draw, share = random.Random(args.seed), args.sample / len(mutants)
        by_file = [[m for m in mutants if m.file == file] for file in files]
        chosen = [m for part in by_file for m in draw.sample(part, min(len(part), round(len(part) * share)))]
    counted = {mutant.key for mutant in chosen}  # of a sample's score: what else is settled was not drawn at random
    if not args.report:
        results = results_so_far()
        chosen = [m for m in chosen if results.get(m.key, {}).get("status") not in ("killed", "timeout")]
        chosen = [m for m in chosen if m.key not in results or not reason(m, justified, set())]
        os.environ["OMP_NUM_THREADS"] = "1"
        import_third_parties()
        gc.freeze()
        for file in files:  # one by one, so that the first results come early
            mine = [m for m in chosen if m.file == file]
            if mine:
                run_file(file, mine, Selection(table, [file]), args.jobs, args.budget)
    report(mutants, {key: found for key, found in results_so_far().items() if key in counted}, justified)


def results_so_far() -> dict[str, dict]:
    log = CACHE / "results.jsonl"
    return {r["key"]: r for r in map(json.loads, log.read_text().splitlines())} if log.exists() else {}


def run_file(file: str, mutants: list[Mutant], selection: Selection, jobs: int, budget: float) -> None:
    """Tries the mutants of one file: those inside functions by a server, and each other one from the start."""
    inside = [mutant for mutant in mutants if can_replace(mutant)]
    tests = {test.partition("::")[0] for mutant in inside for test in selection.tests(mutant, budget)}
    if tests:
        folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        child = os.fork()
        if child == 0:
            server = Server(lambda forks: run(forks, inside, selection, jobs, budget), file)
            os._exit(run_tests(sorted(tests), folder, server, "--capture=sys"))
        _, code = os.waitpid(child, 0)
        if code:
            raise SystemExit(f"The tests of {file} could not be collected.")
        shutil.rmtree(folder)
    run(Forks(), [mutant for mutant in mutants if mutant not in inside], selection, jobs, budget)


if __name__ == "__main__":
    main()
