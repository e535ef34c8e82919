"""What a run records at its end: the pass over the split, the samples that it chooses, and facts about its start."""

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import mtlkit.run.machine as machine
from mtlkit.engine.predictor import Predictor
from mtlkit.legend import Classes, Scale
from mtlkit.report.details import details, save_details
from mtlkit.report.error_maps import UNKNOWN, draw_errors, error_legend
from mtlkit.report.samples import look
from mtlkit.run import showing
from mtlkit.run.survey import best_and_worst, survey
from mtlkit.task import TASKS

SIX = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [3, 0, 0], [0, 3, 0], [0, 0, 0]])


class Fixed(nn.Module):
    """Gives prepared outputs: the image is the number of the sample."""

    def __init__(self, outputs: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.prepared, self.compiled = outputs, False
        self.decoders = {name: SimpleNamespace(dense=output.ndim == 4) for name, output in outputs.items()}

    def forward(self, image, adapt=None, sizes=None):
        rows = image.flatten(1)[:, 0].long()
        return {name: output[rows] for name, output in self.prepared.items()}


def predictor_of(**tasks: tuple[str, dict, torch.Tensor]) -> Predictor:
    made = {name: TASKS.build(kind, name, **options) for name, (kind, options, _) in tasks.items()}
    for task in made.values():
        task.kind = task.own_kind()
    model = Fixed({name: output for name, (_, _, output) in tasks.items()})
    return Predictor(model, made, None, torch.device("cpu"), "fp32")  # type: ignore[arg-type]


def batches_of(targets: dict[str, torch.Tensor], size: int) -> list[dict]:
    image = torch.arange(len(next(iter(targets.values())))).float().view(-1, 1, 1, 1)
    return [
        {"image": image[i : i + size], "targets": {name: one[i : i + size] for name, one in targets.items()}}
        for i in range(0, len(image), size)
    ]


def test_the_tables_are_those_counted_by_hand():
    """Six images with the logits of `SIX`, and 2 x 2 maps. The counts are written out below."""
    maps = nn.functional.one_hot(torch.tensor([[0, 0, 1, 1]] * 3 + [[1, 1, 1, 0]] * 3), 2).float()
    maps = maps.view(6, 2, 2, 2).permute(0, 3, 1, 2).contiguous()
    predictor = predictor_of(
        digit=("classification", {"classes": ("a", "b", "c")}, SIX),
        marks=("multilabel", {"classes": ("x", "y")}, torch.tensor([[-50.0, 50]] * 3 + [[0.0, math.log(3)]] * 3)),
        parts=("segmentation", {"classes": ("p", "q")}, maps),
        number=("regression", {"classes": ("n",)}, torch.zeros(6, 1)),
    )
    nan = torch.nan
    targets = {
        "digit": torch.tensor([0, 1, 0, -1, 2, 1]),
        "marks": torch.tensor([[0, 1], [0, 0], [nan, 1], [1, 1], [0, nan], [nan, nan]]),
        "parts": torch.tensor([[[0, 1], [1, -1]]] * 6),
        "number": torch.zeros(6, 1),
    }
    for size in (6, 4, 1):
        batches = batches_of(targets, size)
        numbers = [[int(i) for i in batch["image"].flatten()] for batch in batches]
        found = survey(predictor, batches, numbers).details(20)
        assert (found.samples, found.split_size) == (6, 20)
        # digit: predicted a, b, c, a, b, a (the first of equal ones); the fourth has no label.
        assert found.confusion["digit"].counts == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]
        # parts: images 0 to 2 predict 0 0 1 1, the others 1 1 1 0; the last pixel of each has no label.
        assert found.confusion["parts"].counts == [[3, 3], [3, 9]]
        assert found.confusion.keys() == {"digit", "parts"}
        assert found.reliability.keys() == {"digit", "marks"}
        marks = {(one.low, one.count, one.observed) for one in found.reliability["marks"].bins if one.count}
        # p = 0 twice, both absent; p = 1 three times, two present; p = 0.5: one present, one absent; p = 0.75: present.
        assert marks == {(0.0, 2, 0.0), (0.9, 3, 2 / 3), (0.5, 2, 0.5), (0.7, 1, 1.0)}
        assert found.reliability["marks"].bins[7].predicted == pytest.approx(0.75, rel=1e-6)
        sure = math.exp(2) / (math.exp(2) + 2), math.exp(3) / (math.exp(3) + 2)  # 0.787 and 0.909
        digit = found.reliability["digit"].bins
        assert [one.count for one in digit] == [0, 0, 0, 1, 0, 0, 0, 3, 0, 1]
        assert [digit[7].predicted, digit[9].predicted] == pytest.approx(sure, rel=1e-6)
        assert (digit[3].observed, digit[7].observed, digit[9].observed) == (0, 2 / 3, 0)


def test_the_losses_are_those_of_each_sample_alone():
    predictor = predictor_of(n=("regression", {"classes": ("u", "v")}, torch.zeros(5, 2)))
    targets = {"n": torch.tensor([[1.0, 2.0], [3.0, torch.nan], [torch.nan, torch.nan], [0.0, 1.0], [0.0, 0.0]])}
    batches = batches_of(targets, 2)
    found = survey(predictor, batches, [[10, 11], [12, 13], [14]])
    assert found.losses == {10: {"n": 2.5}, 11: {"n": 9.0}, 13: {"n": 0.5}, 14: {"n": 0.0}}
    assert found.reliability == found.confusion == {}


def test_only_some_of_many_samples_are_ranked(monkeypatch):
    monkeypatch.setattr("mtlkit.run.survey.RANKED", 3)
    predictor = predictor_of(n=("regression", {"classes": ("u",)}, torch.zeros(9, 1)))
    found = survey(predictor, batches_of({"n": torch.arange(9.0)[:, None]}, 2), [[0, 1], [2, 3], [4, 5], [6, 7], [8]])
    assert found.losses == {0: {"n": 0.0}, 3: {"n": 9.0}, 6: {"n": 36.0}}
    assert found.samples == 9


def test_ranks_are_means_over_the_tasks_with_a_label():
    losses = {
        1: {"a": 0.1, "b": 500.0},  # ranks 0 and 1/2: 1/4
        2: {"a": 0.2},  # 1/4
        3: {"a": 0.3, "b": 400.0},  # 1/2 and 0: 1/4
        4: {"a": 9.0},  # 1
        5: {"a": 0.4, "b": math.nan},  # 3/4 and 1: 7/8
        6: {},
    }
    assert best_and_worst(losses) == ([1, 2], [4, 5])
    assert best_and_worst({7: {"a": 1.0}}) == ([], [])
    assert best_and_worst({7: {"a": 1.0}, 8: {"a": 0.0}}) == ([8], [7])
    assert best_and_worst({}) == ([], [])
    assert best_and_worst({i: {"a": 1.0} for i in range(9)}) == ([0, 1], [7, 8])  # all are equal


def test_probabilities_that_are_no_numbers_are_left_out():
    predictor = predictor_of(m=("multilabel", {"classes": ("x",)}, torch.tensor([[torch.nan], [0.0]])))
    found = survey(predictor, batches_of({"m": torch.ones(2, 1)}, 2), [[0, 1]])
    assert sum(one.count for one in found.reliability["m"].bins) == 1


@pytest.mark.parametrize(
    ("name", "prediction", "target", "expected", "unit"),
    [
        ("segmentation", [[0, 1, 1]], [[0, 0, -1]], [[0, 1, torch.nan]], ""),
        ("depth", [[[2.0, 1.0, 7.0]]], [[[1.5, 2.0, 0.0]]], [[0.5, 1.0, torch.nan]], "m"),
        ("normals", [[[0.0, 0]], [[-1, 0]], [[0, -1]]], [[[0.0, 0]], [[0, 0]], [[-1, 0]]], [[90.0, torch.nan]], "°"),
        ("reconstruction", [[[0.5, 1.0]], [[0.0, 1.0]]], [[[1.0, 0.5]], [[0.25, torch.nan]]], [[0.375, 0.5]], ""),
    ],
)  # fmt: skip
def test_errors_of_pixels(name, prediction, target, expected, unit):
    classes = {"segmentation": ("a", "b"), "reconstruction": ("x", "y")}.get(name, ())
    task = TASKS.build(name, "t", **({"classes": classes} if classes else {}))
    task.kind = task.own_kind()
    found = task.errors(torch.tensor(prediction), torch.tensor(target))
    torch.testing.assert_close(found.errors.double(), torch.tensor(expected).double(), equal_nan=True)
    assert (found.unit, found.binary) == (unit, name == "segmentation")


def test_legends_have_the_colours_of_the_pictures():
    depth = TASKS.build("depth", "depth", max_depth=8.0)
    legend = depth.legend()
    assert isinstance(legend, Scale)
    assert (legend.low, legend.high, len(legend.colours)) == (0, 8.0, 33)
    for share in (0.25, 0.5, 1.0):  # a colour of the scale is that of a pixel with the value in its place
        pixel = depth.picture(torch.full((1, 1, 1), 8 * share))[0, 0]
        assert legend.colours[round(32 * share)] == "#" + bytes(pixel.tolist()).hex()
    parts = TASKS.build("segmentation", "parts", classes=("wall", "floor"))
    legend = parts.legend()
    assert isinstance(legend, Classes)
    assert [name for name, _ in legend.colours] == ["wall", "floor"]
    pixels = parts.picture(torch.tensor([[0, 1]]))[0]
    assert [colour for _, colour in legend.colours] == ["#" + bytes(pixel.tolist()).hex() for pixel in pixels]


def test_the_scale_of_errors_ends_at_the_95th_percentile_of_all_maps():
    maps = [np.arange(0, 50.0).reshape(5, 10), np.arange(50, 101.0).reshape(3, 17), np.full((2, 2), np.nan)]
    legend = error_legend(maps, "m")
    assert isinstance(legend, Scale)
    assert (legend.low, legend.high, legend.unit) == (0, 95.0, "m")
    picture = draw_errors(np.array([[0.0, 95.0, 100.0, np.inf, np.nan]]), legend)
    colours = ["#" + bytes(pixel.tolist()).hex() for pixel in picture[0]]
    assert colours[:2] == [legend.colours[0], legend.colours[-1]]
    assert colours[2:4] == [legend.colours[-1]] * 2  # beyond the scale
    assert tuple(picture[0, 4]) == UNKNOWN
    assert error_legend([np.zeros((4, 4))]).high == 1.0
    assert error_legend([np.array([[0.0] * 99 + [3.0]])]).high == 3.0
    binary = error_legend([], binary=True)
    assert isinstance(binary, Classes)
    assert ["#" + bytes(p.tolist()).hex() for p in draw_errors(np.array([[0.0, 1]]), binary)[0]] == [
        colour for _, colour in binary.colours
    ]


def test_a_split_model_has_a_report_and_a_word_about_the_pictures(monkeypatch, tmp_path):
    """One process alone cannot compute with a model of which it has a part. It would wait for the others for ever."""
    notes: list[dict] = []
    engine = SimpleNamespace(predictor=SimpleNamespace(model=None), note=notes.append)
    monkeypatch.setattr(showing, "is_split", lambda model: True)
    monkeypatch.setattr(showing, "write_report", lambda run, ending: (run / "report.html").touch())
    showing.show(engine, [], [], tmp_path, {})  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "split" in notes[0]["incident"]


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit(tmp_path) is None
    git(tmp_path, "init")
    assert machine.commit(tmp_path) is None  # there is no commit
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    name = git(tmp_path, "rev-parse", "HEAD")
    assert machine.commit(tmp_path) == {"hash": name, "changed": False}
    (tmp_path / "new.txt").touch()
    assert machine.commit(tmp_path) == {"hash": name, "changed": False}  # results of runs lie there, too
    (tmp_path / "a.py").write_text("2")
    assert machine.commit(tmp_path) == {"hash": name, "changed": True}
    # The folder may be anybody's: its own filters and monitors are programs.
    (tmp_path / ".gitattributes").write_text("* filter=own\n")
    git(tmp_path, "config", "filter.own.clean", f"touch {tmp_path / 'ran'}; cat")
    git(tmp_path, "config", "core.fsmonitor", f"touch {tmp_path / 'ran'}; true")
    assert machine.commit(tmp_path) == {"hash": name, "changed": None}
    assert not (tmp_path / "ran").exists()


def test_git_may_be_absent_or_slow(tmp_path, monkeypatch):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    assert machine.commit(tmp_path) is None
    slow = bin_folder / "git"
    slow.write_text(f"#!/bin/sh\n[ -e {tmp_path}/quick ] || /bin/sleep 5\necho {'a' * 40}\n")
    slow.chmod(0o755)
    monkeypatch.setattr(machine, "PATIENCE", 0.2)
    assert machine.commit(tmp_path) is None
    monkeypatch.setattr(machine, "PATIENCE", 60)
    (tmp_path / "quick").touch()  # the same program is believed when it is quick
    assert machine.commit(tmp_path) == {"hash": "a" * 40, "changed": True}


def test_a_run_records_all_of_it(left):
    """`left` is a finished run that a Python program trained."""
    found, tables = look(left), details(left)
    assert found is not None
    assert tables is not None
    roles = [one.role for one in found.samples]
    assert roles == sorted(roles, key=("spread", "best", "worst").index)
    assert found.chosen_from == found.split_size == tables.samples == tables.split_size
    assert str(found.split_size) in found.rule
    best, worst = ([one.losses for one in found.samples if one.role == role] for role in ("best", "worst"))
    assert best
    assert all(losses.keys() for losses in (*best, *worst))
    records = [json.loads(line) for line in (left / "metrics.jsonl").read_text().splitlines()]
    assert "command" not in records[0]
    assert records[0]["precision"] == "fp32"
    assert "thread" in records[0]["device"]
    assert records[-1]["status"] == "finished"
    assert records[-1]["seconds"] > 0
    counts = {task: sum(map(sum, one.counts)) for task, one in tables.confusion.items()}
    assert all(counts.values())


def test_details_are_written_as_they_are_read(tmp_path):
    predictor = predictor_of(digit=("classification", {"classes": ("a", "b", "c")}, SIX))
    found = survey(predictor, batches_of({"digit": torch.tensor([0, 1, 2, 0, 1, 2])}, 6), [list(range(6))]).details(6)
    save_details(tmp_path, found)
    assert details(tmp_path) == found
