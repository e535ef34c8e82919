"""Progress: plain lines without a terminal, and a live display on a terminal."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from mtlkit.run.console import Console
from mtlkit.terminal import Terminal


def show(records: list[dict[str, Any]], terminal: bool = False, total: int = 20, step: int = 0) -> str:
    """Returns all that the console prints for a run with these records."""
    file = io.StringIO()
    console = Console(Terminal(file=file, force_terminal=terminal, force_interactive=terminal, width=100))
    console.start(total, step)
    hooks: dict[str, Callable] = {"train": console.step, "info": console.note}
    for record in records:
        hooks.get(record["split"], console.evaluation)(record)
    console.finish({"status": "interrupted"})
    return file.getvalue()


TRAIN = {"step": 10, "split": "train", "epoch": 0, "loss/depth": 0.51234, "weight/depth": 1.5, "grad_norm/depth": 0.25}
VAL = {"step": 10, "split": "val", "epoch": 0, "loss/depth": 0.6, "depth/abs": 0.3451, "depth/rel": 0.2}


def test_plain_lines_one_a_record():
    lines = show([VAL | {"split": "val_constant", "step": 0}, VAL | {"step": 0}, TRAIN, VAL | {"best": True}])
    constant, untrained, train, val, end = lines.splitlines()
    assert constant.split()[:5] == ["constant", "0/20", "-:--:--", "left", "depth"]
    assert untrained.split()[:2] == ["val", "0/20"]
    assert train.split()[0:2] == ["train", "10/20"]
    assert train.split()[4:] == ["depth", "0.5123", "w", "1.5"]
    assert val.split()[:3] == ["val", "*", "10/20"]
    assert val.split()[5:] == ["depth", "abs", "0.3451", "rel", "0.2"]
    assert end.startswith("interrupted at step 10/20 after 0:00:")
    assert "\x1b" not in lines
    assert len({line.index("depth") for line in (constant, untrained, train, val)}) == 1  # aligned


def test_a_line_is_never_wrapped():
    metrics = {f"depth/a_long_name_of_a_metric_{i}": 0.123456 for i in range(20)}
    assert len(show([{"step": 10, "split": "val", **metrics}]).splitlines()) == 2


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("broken", [None, float("nan")])
def test_missing_values_do_not_break_it(terminal, broken):
    train = dict.fromkeys(TRAIN, broken) | {"step": 10, "split": "train"}
    val = dict.fromkeys(VAL, broken) | {"step": 10, "split": "val"}
    assert "depth" in show([train, val, {"step": 11, "split": "train"}, {"step": 12, "split": "val"}], terminal)


@pytest.mark.parametrize("terminal", [False, True])
def test_many_tasks_do_not_flood(terminal):
    train = {"step": 10, "split": "train"} | {f"loss/task_{i}": 0.5 for i in range(40)}
    val = {"step": 10, "split": "val"} | {f"task_{i}/auc": 0.5 for i in range(40)}
    shown = show([train, val], terminal)
    assert "task_5" in shown
    assert "task_6" not in shown
    assert "+34 more" in shown


def test_a_terminal_shows_the_newest_numbers():
    shown = show([TRAIN, VAL], terminal=True)
    last = shown[shown.rindex("training") :]
    for text in ("10/20", "depth", "0.5123", "1.5", "0.25", "validation at step 10", "abs 0.3451"):
        assert text in last
    assert "\x1b[?25h" in shown[shown.rindex("\x1b[?25l") :]  # the cursor is visible again


@pytest.mark.parametrize("terminal", [False, True])
def test_incidents_are_shown_as_they_are(terminal):
    text = "the Gram matrix of [depth] is singular"
    for record in (TRAIN, VAL, {"step": 10, "split": "info"}):
        assert f"step 10: {text}" in show([record | {"incident": text}], terminal)


def test_facts_of_the_run_are_no_news():
    info = {"step": 0, "split": "info", "versions": {"torch": "2"}}
    assert show([info]) == show([])


def test_the_time_left_counts_from_where_the_run_went_on(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = io.StringIO()
    console = Console(Terminal(file=file, width=100))
    now[0] = 100.0  # the time for reading the data
    console.start(1050, 1000)
    now[0] = 130.0
    console.step(TRAIN | {"step": 1010})
    assert "0:02:00 left" in file.getvalue()
    console.finish({"status": "finished"})
    assert "finished at step 1010/1050 after 0:00:30" in file.getvalue()
