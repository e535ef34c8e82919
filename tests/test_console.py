"""What the terminal shows of a run: plain lines without a terminal, and a live display on a terminal."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mtlkit.console import Console
from mtlkit.terminal import Terminal

Record = dict[str, Any]
WIDTHS = (80, 100, 140)


def watch(records: list[Record], live: int = 0, total: int = 20, step: int = 0) -> str:
    """Returns all that the console prints for a run with these records. `live` is the width of a terminal."""
    file = io.StringIO()
    words = {"force_terminal": True, "force_interactive": True, "width": live, "height": 50} if live else {}
    console = Console("runs/a", Terminal(file=file, **words))
    console.start(total, step)
    hooks: dict[str, Callable] = {"train": console.step, "info": console.note}
    for record in records:
        hooks.get(record["split"], console.evaluation)(record)
    console.finish({"status": "interrupted"})
    return file.getvalue()


def last(shown: str) -> list[str]:
    """Returns the lines of the last picture of a live display, without what moves the cursor and colours."""
    shown = shown.replace("\x1b[2K", "\n")  # where the picture before is wiped
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown).replace("\r", "").splitlines()
    (start,) = [n for n, line in enumerate(lines) if "━" in line][-1:]
    return [line.rstrip() for line in lines[start:]]


TRAIN = {
    **{"step": 10, "split": "train", "epoch": 0, "loss/depth": 0.51234, "weight/depth": 1.5, "grad_norm/depth": 0.25},
    **{"lr/encoder": 0.001, "lr/balancer": 0.02, "step_time": 0.5},
}
VAL = {"step": 10, "split": "val", "epoch": 0, "loss/depth": 0.6, "depth/abs": 0.3451, "depth/rel": 0.2}
INFO = {"step": 0, "split": "info", "total_steps": 20, "steps_per_epoch": 7, "batch_size": 16}


def many(count: int, name: str = "task_{}") -> list[Record]:
    """The records of a run with so many tasks. Task i has the accuracy i / 100; that of task 20 falls by 0.5."""
    tasks = [name.format(i) for i in range(count)]
    ways = {f"{task}/accuracy": True for task in tasks} | {f"{task}/size": None for task in tasks}
    info = INFO | {"monitor_of": "trainer.monitor=*/accuracy", "higher_is_better": ways}
    train = TRAIN | {f"loss/{task}": 1 - i / 100 for i, task in enumerate(tasks)}
    train = {key: value for key, value in train.items() if not key.endswith("/depth")}
    losses = {f"loss/{task}": 0.5 for task in tasks}
    values = {f"{task}/accuracy": i / 100 for i, task in enumerate(tasks)} | {f"{task}/size": 4.0 for task in tasks}
    before = values | ({f"{tasks[20]}/accuracy": 0.7} if count > 20 else {})
    val = {"step": 10, "split": "val", **losses, **values, "monitor": -0.195, "best": True}
    return [info, {"step": 0, "split": "val", **losses, **before}, train, val]


def test_plain_lines():
    constant = {"split": "val_constant", "step": 0, "depth/abs": 0.9}
    shown = watch([INFO, constant, VAL | {"step": 0}, TRAIN, VAL | {"best": True, "monitor": 0.8}])
    lines = shown.splitlines()
    assert "\x1b" not in shown
    assert lines[0].split() == ["constant", "0/20"]
    assert lines[1].split() == ["depth", "abs", "0.9"]
    assert lines[2] == "val       0/20  epoch 1/3  -:--:-- left"
    assert lines[3] == "  depth  abs 0.3451  rel 0.2"
    rest = r"process memory [\d.]+ [MG]iB  lr encoder 0.001  lr balancer 0.02  0:00:\d\d left"
    assert re.fullmatch(rf"train    10/20  epoch 2/3  32 samples/s  {rest}", lines[4])
    assert lines[5] == "  depth 0.5123 w 1.5"
    assert re.fullmatch(r"val      10/20  epoch 2/3  best: step 10, loss/untrained 0.8  0:00:\d\d left", lines[6])
    assert lines[8].startswith("interrupted at step 10/20 after 0:00:")


@pytest.mark.parametrize(
    ("monitor", "value", "text"),
    [
        ("trainer.monitor=depth/abs", 0.3, "best: step 10, depth/abs 0.3"),
        ("trainer.monitor=depth/rel", -0.3, "best: step 10, depth/rel 0.3"),
        ("delta-m against trainer.baseline", -0.052, "best: step 10, delta-m +5.2 %"),
        ("the mean of loss / untrained loss", None, "best: step 10"),
    ],
)
def test_the_best_evaluation_has_its_own_sign(monitor, value, text):
    info = INFO | {"monitor_of": monitor, "higher_is_better": {"depth/abs": False, "depth/rel": True}}
    best = VAL | {"best": True, "monitor": value}
    worse = VAL | {"step": 12, "monitor": 9.0}
    assert text in re.split(" {2}", watch([info, best]).splitlines()[0])
    assert text in watch([info, best, worse]).splitlines()[2]
    lost = {"step": 11, "split": "info", "best_lost": True}
    assert "best:" not in watch([info, best, lost, worse]).splitlines()[2]


@pytest.mark.parametrize("live", [0, *WIDTHS])
@pytest.mark.parametrize("broken", [None, float("nan")])
def test_missing_values_do_not_break_it(live, broken):
    records = [INFO, *many(40)]
    for record in (TRAIN, VAL, *many(40)[1:]):
        records.append({key: broken if "/" in key else value for key, value in record.items()})
    shown = watch([*records, {"step": 11, "split": "train"}, {"step": 12, "split": "val"}], live)
    assert "mean" in shown


def test_means_say_over_how_many_tasks_they_are():
    *rest, val = many(40)
    val = val | {"task_39/accuracy": None, "task_38/accuracy": float("nan")}
    assert "accuracy 0.185 (38 of 40)  size 4\n" in watch([*rest, val])


def test_plain_lines_of_many_tasks():
    lines = [line.split() for line in watch(many(40)).splitlines()]
    text = "40 tasks: shown are means over them, the 3 best, the 3 worst and the 3 that changed most. All of them:"
    assert " ".join(lines[0]) == text
    assert lines[1] == ["runs/a/report.html,", "or", "mtlkit", "evaluate", "runs/a"]
    assert lines[7] == ["mean", "loss", "0.805", "weight", "-"]
    assert lines[8] == ["best", "task_39", "0.61", "task_38", "0.62", "task_37", "0.63"]
    assert lines[9] == ["worst", "task_0", "1", "task_1", "0.99", "task_2", "0.98"]
    assert "*/accuracy 0.195" in " ".join(lines[10])
    assert lines[11] == ["mean", "accuracy", "0.195", "size", "4"]
    best = [part for i in (39, 38, 37) for part in (f"task_{i}", "accuracy", f"0.{i}")]
    assert lines[12] == ["best", *best]
    assert lines[13] == ["worst", *(part for i in range(3) for part in (f"task_{i}", "accuracy", f"{i / 100:.4g}"))]
    assert lines[14] == ["changed", "task_20", "accuracy", "0.2"]


def test_ten_tasks_are_all_shown():
    shown = watch(many(10))
    assert all(f"  task_{i} " in shown for i in range(10))
    assert "mean" not in shown
    assert "mean" in watch(many(11))


NAMES = ("task_{}", "a_task_whose_name_nobody_would_ever_like_to_type_because_it_is_far_too_long_{}", "t{}")


@pytest.mark.parametrize("count", [1, 4, 10, 40, 300])
@pytest.mark.parametrize("name", NAMES)
def test_no_plain_line_is_longer_than_120(count, name):
    records = many(count, name)
    long = {f"{name.format(0)}/a_metric_with_a_long_name_of_more_words_than_any_other_{i}": 1e-9 for i in range(9)}
    incident = {"incident": f"{', '.join(name.format(i) for i in range(count))} has no value"}
    shown = watch([*records, records[-1] | long | incident])
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 120
    assert all(line == line.rstrip() and line.isprintable() for line in lines)
    assert re.findall(r"_any_other_(\d) 1e-09", shown) == list("012345678")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("count", "name"), [(4, NAMES[0]), (4, NAMES[1]), (40, NAMES[0]), (40, NAMES[1])])
def test_a_name_and_its_value_are_on_one_line_of_a_terminal(width, count, name):
    records = many(count, name)
    extra = {f"{name.format(0)}/a_metric_{i}": 0.1 * i for i in range(3, 10)}
    lines = last(watch([*records, records[-1] | extra], width))
    assert max(map(len, lines)) <= width
    shown = "\n".join(lines)
    for i in range(3, 10):
        assert f"a_metric_{i} 0.{i}" in shown
    assert f"accuracy {0 if count == 4 else 0.195}" in shown
    for text in ("10/20", "epoch 2/3", "32 samples/s", "process memory", "lr balancer 0.02", "best: step 10, */acc"):
        assert text in shown
    if count == 40:
        assert [line.split()[-1] for line in lines if re.match("(mean|best|worst) ", line)] == ["0.195", "0.39", "0"]


def test_a_terminal_shows_the_newest_numbers():
    shown = watch([INFO, TRAIN, VAL], 100)
    text = "\n".join(last(shown))
    for part in ("10/20", "depth", "0.5123", "1.5", "0.25", "validation at step 10", "abs 0.3451"):
        assert part in text
    assert "\x1b[?25h" in shown[shown.rindex("\x1b[?25l") :]  # the cursor is visible again


@pytest.mark.parametrize("live", [0, 100])
def test_incidents_are_shown_as_they_are(live):
    text = "the Gram matrix of [depth] is singular"
    for record in (TRAIN, VAL, {"step": 10, "split": "info"}):
        assert f"step 10: {text}" in watch([record | {"incident": text}], live)


def test_facts_of_the_run_are_no_news():
    info = {"step": 0, "split": "info", "versions": {"torch": "2"}}
    assert watch([info]) == watch([])


def test_the_data_of_many_targets_in_a_few_lines():
    targets = {f"target_{i}": {"type": "depth", "valid": 1 - i / 100} for i in range(40)}
    ranges = [
        {"target": name, "part": "", "where": "train", "unit": "m", "low": 0.0, "median": 1.0, "high": 2.0, "size": 1.0}
        | {"count": 9}
        for name in targets
    ]
    data = {"samples": {"train": 9}, "size": (8, 8), "looked_at": 9, "targets": targets, "ranges": ranges}
    lines = watch([INFO | {"data": data | {"notes": ["A note."], "licence": "Free."}}]).splitlines()
    assert lines[1].startswith("40 targets; the 3 with the fewest valid labels")
    assert [line.split(":")[0] for line in lines[2:5]] == ["target_39", "target_38", "target_37"]
    assert [line.split()[0] for line in lines[5:8]] == ["target_37", "target_38", "target_39"]
    assert lines[8:10] == ["A note.", "Terms of use: Free."]


def test_a_phase_is_said_once_in_plain_lines_and_replaced_on_a_terminal():
    file = io.StringIO()
    console = Console("runs/a", Terminal(file=file))
    for words in ("Opening the data", "Training", "Evaluating on validation data", "Training"):
        console.phase(words)
    assert file.getvalue() == "Opening the data ...\nTraining ...\nEvaluating on validation data ...\n"
    file = io.StringIO()
    console = Console("runs/a", Terminal(file=file, force_terminal=True, force_interactive=True, width=80))
    console.phase("Opening the data")
    console.start(9, 0)
    console.phase("Evaluating on validation data")
    console.finish({"status": "stopped"})
    assert "Opening the data ..." in file.getvalue()
    assert last(file.getvalue())[0].startswith("evaluating ━")


def test_the_first_word_comes_before_torch():
    code = "import sys; from mtlkit.cli.main import main; main(['train', 'scenes', 'seed=none'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "Loading PyTorch ...\n"
    assert "seed" in found.stderr


def test_the_time_left_counts_from_where_the_run_went_on(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = io.StringIO()
    console = Console("runs/a", Terminal(file=file, width=100))
    now[0] = 100.0  # the time for reading the data
    console.start(1050, 1000)
    now[0] = 130.0
    console.step(TRAIN | {"step": 1010})
    assert "0:02:00 left" in file.getvalue()
    console.finish({"status": "finished"})
    assert "finished at step 1010/1050 after 0:00:30" in file.getvalue()
