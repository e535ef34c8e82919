"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import mtlkit

PACKAGES = ("mtlkit", "mtlkit.balancers", "mtlkit.tasks")


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
