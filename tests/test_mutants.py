"""The mutation tester: which faults it makes, and that it distinguishes killed mutants from those that survive."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mutmut")
TOOLS = Path(__file__).parents[1] / "tools"

SOURCE = '''
"""A file with one fault to make of each kind, and many that are not made."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["pairs"]
Types = list[int]
LIMIT = 3


class Counter:
    def __init__(self, start: int = 5) -> None:
        self.value = start

    @property
    def doubled(self) -> "Tensor":
        return self.value * 2


def pairs(a: list, b: list) -> list:
    if len(a) > LIMIT:
        raise ValueError(f"{len(a) + 1} is too much")
    return list(zip(a, b, strict=True))
'''


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("mutants")


def found(mutants, folder, monkeypatch, source):
    (folder / "code.py").write_text(source)
    monkeypatch.setattr(mutants, "ROOT", folder)
    monkeypatch.setattr(mutants, "CACHE", folder / "cache")
    assert mutants.mutants_of("code.py") == mutants.mutants_of("code.py")  # the same mutants each time
    return mutants.mutants_of("code.py")


def test_the_faults(mutants, tmp_path, monkeypatch):
    every = found(mutants, tmp_path, monkeypatch, SOURCE)
    assert {(m.function, m.change, m.imported) for m in every} == {
        ("", "LIMIT = 3 → LIMIT = None", True),
        ("", "LIMIT = 3 → LIMIT = 4", True),
        ("Counter.__init__", "it__(self, start: int = 5) -> None: → it__(self, start: int = 6) -> None:", True),
        ("Counter.__init__", "self.value = start → self.value = None", False),
        ("Counter.doubled", "self.value * 2 → self.value / 2", False),
        ("Counter.doubled", "return self.value * 2 → return self.value * 3", False),
        ("pairs", "if len(a)> LIMIT: → if len(a)>= LIMIT:", False),
        ("pairs", "list(zip(a, b, strict=True)) → list(None)", False),
        ("pairs", "zip(a, b, strict=True) → zip(None, b, strict=True)", False),
        ("pairs", "zip(a, b, strict=True) → zip(a, None, strict=True)", False),
        ("pairs", "zip(a, b, strict=True) → zip(b, strict=True)", False),
        ("pairs", "zip(a, b, strict=True) → zip(a, strict=True)", False),
    }
    for mutant in every:
        compile(mutant.source(), "code.py", "exec")


def test_a_key_stays_while_its_function_does(mutants, tmp_path, monkeypatch):
    before = {m.key: m.function for m in found(mutants, tmp_path, monkeypatch, SOURCE)}
    changed = SOURCE.replace("class Counter", "OTHER = 1\n\n\nclass Counter").replace("* 2", "* 2 + 0")
    after = {m.key for m in found(mutants, tmp_path, monkeypatch, changed)}
    assert {name for key, name in before.items() if key not in after} == {"Counter.doubled"}


def test_a_sample_is_weighed_by_file(mutants):
    # By hand: 0.25 * 0.5 + 0.75 * 0.9 = 0.8. All of the first file was tested, so it has no variance. That of the
    # second is 0.75^2 (10 / 12) (2 / 12) / 10 (1 - 10 / 300) = 0.0075521.
    share, half = mutants.estimate([(100, 100, 50), (300, 10, 9)])
    assert share == pytest.approx(0.8)
    assert half == pytest.approx(1.96 * 0.0075521**0.5, rel=1e-4)  # five digits by hand


def test_a_fault_that_is_noticed_and_one_that_is_not(tmp_path):
    """The whole program works on a small project in its own folder."""
    for folder in ("tools", "tests", "mtlkit", "balancers", "tasks", "configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tools/mutants.py").write_text((TOOLS / "mutants.py").read_text())
    (tmp_path / "tools/mutants.yaml").write_text(
        "tests: {mtlkit/code.py: [tests/test_code.py]}\non_import: {}\nlast: {}\nequivalent:\n  mtlkit/code.py:\n"
        '    - {why: nobody asks for six, changes: ["def f(a, b=5): → def f(a, b=6):"]}\n'
    )
    (tmp_path / "mtlkit/__init__.py").write_text("")
    (tmp_path / "mtlkit/code.py").write_text("def f(a, b=5):\n    c = a + 1\n    return c * b if c else 7\n")
    (tmp_path / "tests/toys.py").write_text("")
    test = "from mtlkit.code import f\n\ndef test_f():\n    assert f(1, 2) == 4\n"
    (tmp_path / "tests/test_code.py").write_text(test)
    # As ours does. What is frozen is not among the objects that the collector names.
    (tmp_path / "tests/conftest.py").write_text("import gc\n\ndef pytest_collection_finish():\n    gc.freeze()\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "tools/mutants.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = map(json.loads, (tmp_path / ".cache/mutants/results.jsonl").read_text().splitlines())
    assert {(r["change"], r["status"]) for r in results} == {
        ("def f(a, b=5): → def f(a, b=6):", "survived"),
        ("c = a + 1 → c = None", "killed"),
        ("c = a + 1 → c = a - 1", "killed"),
        ("c = a + 1 → c = a + 2", "killed"),
        ("return c * b if c else 7 → return c / b if c else 7", "killed"),
        ("c * b if c else 7 → c * b if (c) and False else 7", "killed"),
        ("c * b if c else 7 → c * b if (c) or True else 7", "survived"),
        ("return c * b if c else 7 → return c * b if c else 8", "survived"),
    }
    assert "| mtlkit/code.py | 8 | 8 | 5 | 1 | 2 | 75.0 % |" in done.stdout


def test_the_file_of_tests_and_reasons_names_what_there_is() -> None:
    root = Path(__file__).parents[1]
    told = yaml.safe_load((root / "tools" / "mutants.yaml").read_text(encoding="utf-8"))
    assert told.keys() == {"tests", "on_import", "last", "equivalent"}
    for part in ("tests", "on_import", "last"):
        for pattern, tests in told[part].items():
            assert pattern == "*" or list(root.glob(pattern)), pattern
            assert all((root / test.partition("::")[0]).is_file() for test in tests), pattern
    for pattern, reasons in told["equivalent"].items():
        assert (root / pattern).is_file(), pattern
        assert all(reason["why"] and reason["changes"] for reason in reasons), pattern
