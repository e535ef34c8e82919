"""A few cases of every part of `make trust`, with the seeds of that harness (docs/results/trust.md)."""

import sys
from pathlib import Path

import pytest
from trust import checkpoints, command_lines, configurations, files, kills, long_runs
from trust.kills import kind, same, spread
from trust.result import Result

from mtlkit.report import history

PARTS = {
    "configurations": (configurations.run, 40),
    "command_lines": (command_lines.run, 30),
    "checkpoints": (checkpoints.run, 7),
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", PARTS)
def test_a_few_cases(name, tmp_path):
    run, count = PARTS[name]
    assert passed(run(tmp_path / name, 1, count)) >= count


@pytest.mark.filterwarnings("ignore")  # of Pillow and SciPy, about damaged files
def test_a_few_damaged_files(tmp_path):
    of_runs = ("log of a run", "samples of a run", "details of a run", "study")
    readers = ("pictures", "npy", "mat", "folder", "multimnist", "prepared data", *of_runs)
    assert passed(files.run(tmp_path, 1, 60, readers)) == 60


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.usefixtures("no_report")
def test_a_kill_a_full_disk_and_some_steps(tmp_path):
    assert passed(kills.run(tmp_path / "kills", 1, 2, ["prepared data"])) == 2
    assert passed(long_runs.full_disk(tmp_path / "full", 1, 1)) == 1
    assert passed(long_runs.long_run(tmp_path / "long", 1, 200)) == 200


def test_a_long_log_needs_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MOST", 100)
    long_runs.write_log(tmp_path / "run", 1000)
    found = history.History(tmp_path / "run")
    training = [record["step"] for record in found.records if record["split"] == "train"]
    assert training == list(range(1, 1001, 16))  # 63 of them: 100 were too many five times
    assert found.last_step == 1000
    assert found.notes == ["The log is long: curves and figures of training use every 16th of its training records."]


def passed(found: Result) -> int:
    assert found.faults == []
    return found.cases


def test_kills_are_spread_over_all_kinds_of_events():
    events = ["mkdir a1", "open a1/x", "open a2/x", "open a3/x", "rename x y"]
    import random

    chosen = spread(events, 3, random.Random(0))
    assert {kind(events[number - 1]) for number in chosen} == {"mkdir aN", "open aN/x", "rename x y"}
    assert same({"a": [1, 2.0]}, {"a": [1, 2.0]})
    assert not same({"a": [1, 2.0]}, {"a": [1, 2]})
