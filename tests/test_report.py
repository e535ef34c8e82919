"""What a run leaves beside its page: the numbers of the table, and the pictures."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtlkit.report import pictures_png, save_pictures, summary, write_report
from mtlkit.report.history import History
from mtlkit.terminal import Terminal

INFO = {
    "step": 0,
    "split": "info",
    "total_steps": 20,
    "versions": {"torch": "2.99"},
    "higher_is_better": {"depth/abs": False, "depth/delta": True, "depth/bias": None},
    "units": {"depth/abs": "m"},
}
CONSTANT = {"step": 0, "split": "val_constant", "depth/abs": 2.0, "depth/delta": 0.0, "depth/bias": 0.5}
UNTRAINED = {"step": 0, "split": "val", "depth/abs": 4.0, "depth/delta": 0.25, "depth/bias": 0.75, "loss/depth": 3.0}
BETTER = {"step": 10, "split": "val", "depth/abs": 0.5, "depth/delta": 0.75, "depth/bias": 1.0, "best": True}
WORSE = {"step": 20, "split": "val", "depth/abs": 3.0, "depth/delta": 0.5, "depth/bias": 2.0}
TRAIN = {
    "step": 10,
    "split": "train",
    "loss/depth": 1.0,
    "weight/depth": 1.0,
    "grad_norm/depth": 2.0,
    "lr/encoder": 0.1,
}
RECORDS = [INFO, CONSTANT, UNTRAINED, TRAIN, BETTER, WORSE]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes the folder of a run with these records."""

    def write(records: list[dict[str, Any]], config: str | None = None) -> Path:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if config is not None:
            (tmp_path / "config.yaml").write_text(config)
        return tmp_path

    return write


def text(run: Path, width: int = 100) -> str:
    file = io.StringIO()
    Terminal(file=file, width=width).print(*summary(run), highlight=False, crop=False, sep="\n")
    return file.getvalue()


def cells(run: Path) -> dict[str, list[str]]:
    """Returns the table's numbers by metric."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text(run).splitlines()]
    lines = [line[-5:] for line in lines if len(line) >= 5]
    return {line[0].split()[0]: line[1:] for line in lines}


def test_the_table_compares_the_best_model_with_the_constant_prediction(write):
    rows = cells(write(RECORDS))
    assert rows["abs"] == ["2", "4", "0.5", "+75 %"]
    assert rows["delta"] == ["0", "0.25", "0.75", "+0.75"]  # nothing is relative to 0, so this is the difference
    assert rows["bias"] == ["0.5", "0.75", "1", "–"]  # this metric has no direction
    shown = text(write(RECORDS))
    assert "abs ↓ (m)" in shown
    assert "delta ↑" in shown
    assert re.search(r" best +vs *\n.*\(step 10\) +constant", shown)


def of_tasks(count: int, name: str = "task_{}") -> list[dict[str, Any]]:
    """The records of a run: task i ends at an accuracy of i / 100, and task 20 came from 0.9."""
    names = [name.format(i) for i in range(count)]
    ends = {f"{task}/accuracy": i / 100 for i, task in enumerate(names)}
    begins = {key: 0.9 if key == f"{name.format(20)}/accuracy" else 0.01 for key in ends}
    sizes = {f"{task}/size": 4.0 for task in names}
    ways = dict.fromkeys(ends, True) | dict.fromkeys(sizes)
    return [
        {"step": 0, "split": "info", "total_steps": 20, "higher_is_better": ways, "units": dict.fromkeys(sizes, "m")},
        {"step": 0, "split": "val_constant", **dict.fromkeys(ends, 0.1)},
        {"step": 0, "split": "val", **begins, **sizes},
        {"step": 20, "split": "val", **ends, **sizes, "best": True},
        {"step": 20, "split": "info", "status": "finished", "why": "trainer.max_steps=20"},
    ]


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("name", ["task_{}", "a_task_with_a_name_that_is_longer_than_half_of_a_line_{}"])
@pytest.mark.parametrize("count", [4, 40])
def test_the_table_is_whole_at_every_width(write: Write, width: int, name: str, count: int) -> None:
    run = write(of_tasks(count, name))
    whole = text(run, width)
    table, _, rest = whole.rstrip().rpartition("On the validation split.")
    assert all(len(line.rstrip()) <= width for line in table.splitlines())
    names = table.replace("\n", " ").replace(" ", "")
    assert len([line for line in table.splitlines() if "accuracy ↑" in line]) == (4 if count == 4 else 10)
    assert re.search(r"accuracy ↑ +0\.1 +0\.01 +0 +-100 %", table)
    assert "size (m)" in table
    if len(name) < 20 or width > 100:  # else it is wrapped
        assert name.format(3 if count == 4 else 39) in names
    assert "…" not in table
    assert rest.split("\n")[1:] == [
        f"Run:    {run}",
        "Ended:  finished at step 20 of 20: trainer.max_steps=20",
        f"Report: {run}/report.html",
    ]


def test_of_many_tasks_the_table_shows_means_and_those_that_stand_out(write: Write) -> None:
    records = of_tasks(40)
    records[3]["task_5/accuracy"] = None
    run = write(records)
    lines = [line.split() for line in text(run).splitlines()]
    (mean,) = [line for line in lines if line[:1] == ["mean"]]
    others = [i / 100 for i in range(40) if i != 5]
    assert mean[:8] == ["mean", "39", "tasks", "accuracy", "↑", "0.1", "0.03282", f"{sum(others) / 39:.4g}"]
    best = next(place for place, line in enumerate(lines) if line[:1] == ["best"] and "task_39" in line)
    shown = [line[line.index("accuracy") - 1] for line in lines[best:] if "accuracy" in line]
    assert shown == ["task_39", "task_38", "task_37", "task_0", "task_1", "task_2", "task_20", "task_39", "task_38"]
    assert f"mtlkit evaluate {run}" in text(run, 300)


def test_many_tasks_without_a_common_metric_are_ordered_by_their_losses(write: Write) -> None:
    losses = {f"loss/task_{i}": 2.0 for i in range(20)}
    later = {key: 0.1 * (1 + i) for i, key in enumerate(losses)}
    figures = {f"task_{i}/metric_{i}": 1.0 for i in range(20)}
    info = {"step": 0, "split": "info", "higher_is_better": dict.fromkeys(figures, True)}
    records = [{"step": 0, "split": "val"} | losses | figures, {"step": 9, "split": "val"} | later | figures]
    found = re.findall(r"(task_\d+) +loss ↓", text(write([info, *records])))
    assert found == ["task_0", "task_1", "task_2", "task_19", "task_18", "task_17", "task_0", "task_1", "task_2"]


def test_without_a_marked_best_the_last_evaluation_counts(write):
    run = write([INFO, CONSTANT, UNTRAINED, {**BETTER, "best": False}, WORSE])
    assert cells(run)["abs"] == ["2", "4", "3", "-50 %"]
    assert re.search(r" last +vs *\n.*\(step 20\) +constant", text(run))


def test_the_last_marked_evaluation_is_the_best(write):
    assert cells(write([INFO, CONSTANT, BETTER, WORSE | {"best": True}]))["abs"][2] == "3"


def test_what_is_missing_is_a_dash(write):
    assert cells(write([CONSTANT]))["abs"] == ["2", "–", "–", "–"]
    assert cells(write([INFO, UNTRAINED]))["abs"] == ["–", "4", "–", "–"]
    assert cells(write([INFO, CONSTANT, UNTRAINED, BETTER | {"depth/abs": None}]))["abs"] == ["2", "4", "–", "–"]


def test_the_rows_are_the_tasks_metrics_and_nothing_else(write):
    rows = History(write([*RECORDS, {"step": 20, "split": "val", "normals/mean": 9.0, "depth/late": 1.0}])).rows()
    assert [(row.task, row.metric) for row in rows] == [
        *(("depth", metric) for metric in ("abs", "delta", "bias", "late")),
        ("normals", "mean"),
    ]


@pytest.mark.parametrize("use", [write_report, summary])
def test_a_folder_that_is_no_run_is_an_error(tmp_path, use):
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.jsonl"):
        use(tmp_path)


# Pictures


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SAMPLE = [
    ("image", picture(48, 64, 0)),
    ("depth_target", picture(48, 64, 1)),
    ("depth_prediction", picture(48, 64, 2)),
    ("left_right_prediction", picture(10, 30, 3)),  # no label; a name with an underscore
]


@pytest.fixture
def pictured() -> Callable[[Path], Path]:
    def add(run: Path) -> Path:
        save_pictures(run, [SAMPLE] * 11)
        return run

    return add


def test_pictures_are_kept_exactly(write, pictured):
    run = pictured(write([]))
    for name, pixels in SAMPLE:
        np.testing.assert_array_equal(np.asarray(Image.open(run / "pictures" / "10" / f"{name}.png")), pixels)


def test_new_pictures_replace_the_old(tmp_path):
    folder = tmp_path / "pictures"
    save_pictures(tmp_path, [SAMPLE, SAMPLE])
    save_pictures(tmp_path, [SAMPLE[:1]])
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == ["pictures/0/image.png"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("depth", picture(4, 4), "got 'depth'"),
        ("../depth_target", picture(4, 4), "got '../depth_target'"),
        ("_target", picture(4, 4), "got '_target'"),
        ("image", picture(4, 4).astype(np.float32), "must be .* uint8"),
        ("image", picture(4, 4)[..., :1], r"got \(4, 4, 1\)"),
        ("image", picture(4, 4)[:0], r"got \(0, 4, 3\)"),
    ],
)
def test_a_wrong_picture_is_refused_before_anything_changes(tmp_path, name, pixels, message):
    folder = tmp_path / "pictures"
    save_pictures(tmp_path, [SAMPLE])
    with pytest.raises(ValueError, match=message):
        save_pictures(tmp_path, [[], [(name, pixels)]])
    assert len(list(folder.glob("*/*"))) == len(SAMPLE)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_grid_as_one_picture(write):
    run = write([])
    save_pictures(run, [SAMPLE] * 2)
    path = pictures_png(run, ["left_right"])
    assert path == run / "pictures.png"
    grid = np.asarray(Image.open(path))
    assert grid.shape[1] > 3 * 192  # the image and two tasks
    left = 6  # where the first picture begins; each of its pixels is three wide
    np.testing.assert_array_equal(grid[24 : 24 + 144 : 3, left : left + 192 : 3], SAMPLE[0][1])


def test_the_grid_of_no_pictures_is_an_error(write):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        pictures_png(write([]))
