"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import mtlkit

PACKAGES = ("mtlkit", "mtlkit.balancers", "mtlkit.tasks")
DOCS = Path(__file__).parents[1] / "docs"
PYTHON = r"```python\n(.*?)```"


def modules():
    for package in PACKAGES:
        module = importlib.import_module(package)
        yield package
        for info in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not info.name.endswith("__main__") and not (package == "mtlkit" and info.name.startswith(PACKAGES[1:])):
                yield info.name


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_doctests(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.failed == 0


def test_plugins_have_a_doctest():
    finder = doctest.DocTestFinder(recurse=False)
    for registry in (mtlkit.BALANCERS, mtlkit.TASKS, mtlkit.ENCODERS, mtlkit.DECODERS):
        for name in registry.names():
            cls = registry.get(name)
            if cls.__module__.startswith("mtlkit."):
                assert any(test.examples for test in finder.find(cls)), name


def test_the_python_of_readme_and_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(PYTHON, readme, re.DOTALL)
    assert len(blocks) == 2
    blocks += [
        block for file in sorted(DOCS.rglob("*.md")) for block in re.findall(PYTHON, file.read_text(), re.DOTALL)
    ]
    assert len(blocks) > 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    gram = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert mtlkit.BALANCERS.build("inverse_norm", tasks=("a", "b")).weights(gram).tolist() == [0.75, 1.5]
