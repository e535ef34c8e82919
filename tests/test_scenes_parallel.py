"""Rendering in several processes. This file takes most of its time to start them and to import torch in them."""

import sys

import numpy as np
import pytest

from mtlkit.datasets.scenes import Scenes, cache

SIZE = (24, 20)


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(cache, "FEW", 0)
    monkeypatch.setattr(cache, "_processors", lambda: 2)


def test_processes_give_the_same_bytes_as_one(tmp_path, monkeypatch, request, capfd):
    alone = cache.load_arrays(Scenes(tmp_path / "alone", size=SIZE, limit=3).folder)
    assert capfd.readouterr().err == ""
    request.getfixturevalue("two_processes")
    monkeypatch.setattr(cache, "fill", lambda *_: pytest.fail("a frame was rendered in this process"))
    shared = Scenes(tmp_path / "shared", size=SIZE, limit=3)
    for name, values in cache.load_arrays(shared.folder).items():
        np.testing.assert_array_equal(values, alone[name])
    assert "rendering 3 train frames at 24x20" in capfd.readouterr().err
    assert sorted(p.name for p in shared.folder.iterdir()) == sorted(["manifest.json", *(f"{n}.npy" for n in alone)])


@pytest.mark.usefixtures("two_processes")
def test_a_failing_process_is_told(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RuntimeError, match=r"status 3:\nit broke"):
        Scenes(tmp_path / "cache", size=SIZE, limit=3)
    assert list((tmp_path / "cache").iterdir()) == []
