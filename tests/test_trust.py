"""A few cases of every part of `make trust`, with the seeds of that harness (docs/results/trust.md)."""

import os
import random
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


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_fork_renews_the_threads_of_torch_before_it_begins(monkeypatch):
    renewed = []
    monkeypatch.setattr(kills.torch, "set_num_threads", renewed.append)
    if not (child := kills.fork()):
        os._exit(len(renewed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert renewed == []  # the parent has its own


def test_a_command_that_ends_before_its_kill_is_a_fault_that_says_how(monkeypatch):
    def call(words, folder, number=0, name=""):
        Path(f"{folder}.txt").write_text("terminate called")
        return kills.Ended(-6 if number else 0, ["open x"])

    monkeypatch.setattr(kills, "call", call)
    result = Result()
    kills._try(kills.Scenario("a command", (), (), lambda folder: {}, 1), 1, random.Random(0), result)
    (fault,) = result.faults
    assert "killed at event 1 of 1, open x" in fault
    assert "but status -6 after 1 events: terminate called" in fault


def test_time_is_no_state_of_a_checkpoint():
    engine = checkpoints._trained(0)
    before = checkpoints._state(engine)
    engine.clock.before += 1.0
    assert same(before, checkpoints._state(engine))


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
    chosen = spread(events, 3, random.Random(0))
    assert {kind(events[number - 1]) for number in chosen} == {"mkdir aN", "open aN/x", "rename x y"}
    assert same({"a": [1, 2.0]}, {"a": [1, 2.0]})
    assert not same({"a": [1, 2.0]}, {"a": [1, 2]})
