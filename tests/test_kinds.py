"""Kinds of target in runs: messages show ranges and units and name samples, and kinds must be registered."""

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import mtlkit
from mtlkit.cli.main import main
from mtlkit.data.dataset import DATASETS, Dataset, Sample
from mtlkit.data.samples import Samples
from mtlkit.engine.evaluation import evaluate_constants, output_sizes, units
from mtlkit.log import read_log
from mtlkit.metrics import Pooled
from mtlkit.run.first_look import FirstLook
from mtlkit.target import Kind, Target
from mtlkit.task import TASKS, Task
from mtlkit.waits import TIMES

EXPERIMENT = """
data: {name: one, batch_size: 4, augment: false}
model: {encoder: test_resnet, levels: [1, 2], pretrained: false}
trainer: {max_steps: 2, log_every: 1, eval_every: 2}
task: {depth: {type: depth}, flags: {type: multilabel, decoder: linear}}
"""


class One(Dataset):
    """Random pictures. `mode` says what is unusual about the targets."""

    def __init__(self, root=None, split="train", size=None, limit=None, mode="ok"):
        self.split, self.mode = split, mode
        kind = "regression" if mode in ("numbers", "bits") else "multilabel"
        self.targets = {"depth": Target("depth"), "flags": Target(kind, ("p", "q"))}

    def __len__(self) -> int:
        return 8

    def label(self, index: int) -> str:
        return f"{self.split}/{index}.png"

    def __getitem__(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(index)
        depth = torch.rand(1, 32, 48, generator=draw) + 1
        targets = {"depth": depth, "flags": torch.tensor([index % 2, 1.0])}
        if self.mode == "mm":
            depth *= 1000
        if self.mode == "val_mm" and self.split == "val":
            depth *= 30
        if self.mode == "nans" and index == 7:
            depth[0, :4] = float("nan")
        if self.mode == "error" and index == 7:
            raise ValueError("cannot parse '12,5'")
        if self.mode == "absent":
            del targets["flags"]
        if self.mode in ("numbers", "bits"):
            targets["flags"] = torch.tensor([1.0, 0.5 if self.mode == "numbers" else 0.0])
        if self.mode == "unknown":
            targets["flags"] = torch.full((2,), float("nan"))
        return {"image": torch.rand(3, 32, 48, generator=draw), "targets": targets}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setitem(DATASETS._classes, "one", One)
    path = tmp_path / "one.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


def info(run: Path) -> dict:
    found: dict = {}
    for record in read_log(run / "metrics.jsonl"):
        if record["split"] == "info":
            found |= record
    return found


def test_millimetres_are_told_wherever_one_looks(experiment: str, tmp_path: Path, capsys) -> None:
    """Depths are uniform from 1 to 2 m. The median of 8 x 1536 depths is 1.5 m +- 0.02 m (four standard errors)."""
    run, told = tmp_path / "run", "depth: the median in train is 1"
    assert main(["train", experiment, "data.mode=mm", f"output_dir={run}"]) == 0
    first, table = capsys.readouterr().out.split("train    1/2")
    assert re.search(r"depth in m: train median 1[45]\d\d .*; val median 1[45]\d\d ", first)
    assert told in first
    assert "millimetres" in first
    assert "abs ↓ (m)" in table
    facts = info(run)
    ranges = [(one["target"], one["where"], one["unit"]) for one in facts["data"]["ranges"]]
    assert ranges == [("depth", "train", "m"), ("depth", "val", "m")]
    for one in facts["data"]["ranges"]:
        # Four standard errors, as above.
        assert (one["low"], one["median"], one["high"]) == pytest.approx((1010, 1500, 1990), abs=20)
    assert facts["units"] == {"depth/abs": "m", "depth/rmse": "m"}
    page = (run / "report.html").read_text()
    assert "depth in m: train median 1" in page
    assert told in page
    assert "abs ↓ (m)" in page

    assert main(["data", "show", experiment, "data.mode=mm"]) == 0
    shown = capsys.readouterr().out
    assert f"Warning: {told}" in shown
    assert shown.count("  depth in m: ") == 3  # one per split
    assert main(["data", "show", experiment]) == 0
    assert "Warning" not in capsys.readouterr().out
    assert main(["data", "show", experiment, "data.mode=val_mm"]) == 0
    assert "depth: the numbers in train and val differ 30-fold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("nans", "train/7.png: the target 'depth' (depth) must hold finite numbers of at least 0"),
        ("error", "train/7.png: cannot parse '12,5'"),
    ],
)
def test_a_bad_sample_is_named_and_skipped_by_every_command(
    experiment: str, tmp_path: Path, capsys, mode: str, message: str
) -> None:
    words = [experiment, f"data.mode={mode}"]
    commands = (
        ["train", *words, f"output_dir={tmp_path / 'bad'}", "data.workers=1"],
        ["data", "show", *words],
        ["data", "prepare", *words, "--out", str(tmp_path / "bad_out"), "--workers", "1"],
    )
    for command in commands:
        assert main(command) == 2
        split = "train: " if command[:2] == ["data", "show"] else ""  # `data show` names the split
        assert f"mtlkit: {split}{message}" in capsys.readouterr().err

    skip, run = "data.on_error=skip", tmp_path / "run"
    train = ["train", *words, skip, f"output_dir={run}", "data.workers=1"]
    assert main(train) == 0
    records = read_log(run / "metrics.jsonl")
    assert sum(r.get("left_out", 0) for r in records if r["split"] == "train") == 1  # two steps use each sample once
    assert any(message in r.get("incident", "") for r in records)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # users see a warning; only these tests turn warnings into errors
        assert main(["evaluate", str(run)]) == 0
    assert "mtlkit: warning: 1 sample left out" in capsys.readouterr().err
    assert main(["data", "show", *words, skip]) == 0
    assert f"left out, for example {message}" in capsys.readouterr().out
    out = tmp_path / "out"
    assert main(["data", "prepare", *words, skip, "--out", str(out), "--splits", "train"]) == 0
    assert json.loads((out / "manifest.json").read_text())["splits"]["train"]["blocks"][0]["skipped"] == ["train/7.png"]


@pytest.mark.usefixtures("no_report")
def test_unknown_labels_are_as_good_as_missing_ones(experiment: str, tmp_path: Path) -> None:
    runs = []
    for mode in ("absent", "unknown"):
        run = tmp_path / mode
        assert main(["train", experiment, f"data.mode={mode}", f"output_dir={run}"]) == 0
        records = [r for r in read_log(run / "metrics.jsonl") if r["split"] != "info"]
        runs.append([{key: value for key, value in r.items() if key not in TIMES} for r in records])
    assert runs[0] == runs[1]
    (constant,) = (r for r in runs[0] if r["split"] == "val_constant")
    assert "depth/abs" in constant
    assert "flags/f1" not in constant


def test_labels_that_only_some_samples_know_give_the_constant() -> None:
    class Some(One):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            if index % 4:
                sample["targets"]["flags"][:] = float("nan")
            return sample

    samples = Samples(Some())
    flags = TASKS.build("multilabel", "flags", ("p", "q"))
    constants = FirstLook(samples, samples, "val").constants({"flags": flags})
    assert constants["flags"].tolist() == [[0.0, 1.0]]  # only samples 0 and 4 have labels


def test_a_task_refuses_a_target_that_it_cannot_learn(experiment: str, tmp_path: Path, capsys) -> None:
    train = ["train", experiment, f"output_dir={tmp_path / 'run'}"]
    assert main([*train, "task.flags.type=depth", "task.flags.decoder=conv"]) == 2
    error = capsys.readouterr().err
    assert "has no classes" in error
    assert main([*train, "task.flags.type=classification"]) == 2
    assert (
        "task.flags.type=classification: it learns targets of the kind 'classification', int64 () here, but the target "
        "'flags' is of the kind 'multilabel', float32 (2,). For this target write type: multilabel."
    ) in capsys.readouterr().err
    assert main([*train, "data.mode=numbers"]) == 2
    assert (
        "task.flags: a task of Multilabel learns targets that must hold 0, 1 or NaN (unknown), found 0.5"
    ) in capsys.readouterr().err
    assert main([*train, "data.mode=bits"]) == 0  # another kind, but its values are allowed


# ---- a kind from another package


class Keypoints(Kind):
    """The positions (x, y) of 17 joints in pixels, and whether they are visible."""

    unit = "px"

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 17, 3


class Pose(Task):
    """Finds each of 17 joints at the largest value of its map."""

    dense = True
    regression = True
    out_channels = 17

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        error = (self.predict(output) - target).nan_to_num(0)
        return error.square().sum(), (~target.isnan()).sum()

    def predict(self, output: Tensor) -> Tensor:
        shares = output.flatten(2).softmax(-1).unflatten(2, output.shape[-2:])
        y, x = (torch.arange(n) + 0.5 for n in output.shape[-2:])
        places = [(shares.sum(2) * x).sum(-1), (shares.sum(3) * y).sum(-1), shares.amax((2, 3))]
        return torch.stack(places, -1)

    def metrics(self):
        from torchmetrics import MetricCollection

        return MetricCollection({"error": Error()})

    def constant(self, targets: Tensor) -> Tensor:
        return targets.nanmean(0, keepdim=True)

    def picture(self, value: Tensor):
        return torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()


class Error(Pooled):
    higher_is_better = False
    unit = "px"

    def __init__(self) -> None:
        super().__init__(2)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        assert prediction.shape == target.shape
        known = ~target.isnan()
        self.sums = self.sums + torch.stack([(prediction - target)[known].abs().sum(), known.sum()]).double()

    def compute(self) -> Tensor:
        return self.sums[0] / self.sums[1]


class People(One):
    """Random pictures, half of them with joints."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.targets = {"depth": Target("depth"), "joints": Target("keypoints")}

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        del sample["targets"]["flags"]
        if index % 2:
            sample["targets"]["joints"] = torch.rand(17, 3, generator=torch.Generator().manual_seed(index)) * 20
        return sample


@pytest.fixture
def people(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setitem(DATASETS._classes, "people", People)
    monkeypatch.setitem(TASKS._classes, "pose", Pose)
    path = tmp_path / "people.yaml"
    path.write_text(
        EXPERIMENT.replace("name: one", "name: people, target_size: [24, 16]").replace(
            "flags: {type: multilabel, decoder: linear}", "joints: {type: pose}"
        )
    )
    return str(path)


def test_a_strangers_kind_must_be_registered(people: str, tmp_path: Path, capsys) -> None:
    """The message names the kind. `test_foreign_kinds.py` shows that a run works with a registered one."""
    assert main(["train", people, f"output_dir={tmp_path / 'run'}", "data.augment=true"]) == 2
    error = capsys.readouterr().err
    assert "The target 'joints' is of the kind 'keypoints', which is not registered." in error
    assert "@mtlkit.KINDS.register('keypoints')" in error
    assert "Traceback" not in error


def test_only_maps_give_the_outputs_their_size() -> None:
    pose, depth = Pose("joints"), TASKS.build("depth", "depth")
    pose.kind, depth.kind = Keypoints(), mtlkit.KINDS.build("depth")
    tasks = {"joints": pose, "depth": depth}
    targets = {"joints": torch.zeros(2, 17, 3), "depth": torch.ones(2, 1, 16, 24)}
    assert output_sizes(tasks, targets) == {"depth": (16, 24)}
    assert depth.map_size(torch.ones(2, 1, 5, 7)) == (5, 7)
    constants = {"joints": torch.ones(1, 17, 3), "depth": torch.ones(1, 1, 1, 1)}
    batches = [{"targets": targets}]
    predictor = SimpleNamespace(tasks=tasks, device=torch.device("cpu"), inputs=lambda batch: (None, batch["targets"]))
    found = evaluate_constants(batches, predictor, constants)
    assert found["joints/error"] == 1
    assert found["depth/abs"] == 0


@pytest.mark.parametrize(
    ("task", "kind", "expected"),
    [
        (("depth", "x", ()), "depth", {"x/abs": "m", "x/rmse": "m"}),
        (("depth", "x", ()), "disparity", {}),
        (("normals", "x", ()), "normals", {"x/mean": "°", "x/median": "°"}),
        (("reconstruction", "x", ("grey",)), "reconstruction", {"x/psnr": "dB"}),
        (("segmentation", "x", ("a", "b")), "segmentation", {}),
    ],
)
@pytest.mark.parametrize("compat", [None, "mtan"])
def test_metrics_carry_their_unit(task: tuple, kind: str, expected: dict, compat: str | None) -> None:
    options = {"compat": compat} if task[0] in ("depth", "normals") else {}
    built = TASKS.build(*task, **options)
    built.kind = mtlkit.KINDS.build(kind, task[2])
    assert units({"x": built}) == expected


def test_every_kind_is_whole() -> None:
    """Each kind has a description, accepts its own invalid value and stays in its format when pixels move."""
    import numpy as np

    from mtlkit.target import Motion

    for name in mtlkit.KINDS.names():
        assert mtlkit.KINDS.describe(name), name
        kind = mtlkit.KINDS.build(name, ("a", "b", "c"))
        value = kind.invalid(8, 12)
        motion = Motion((12, 8), 2.0, np.array([0.25, 0.5]), np.array([0.1, 0.2, 1.0]), mirrored=True)
        moved = torch.from_numpy(np.array(kind.move(value.numpy(), motion)))
        assert (moved.shape, moved.dtype) == (value.shape, value.dtype), name
        assert not kind.valid(moved).any(), name
        small = kind.resize(value, 6, 4)
        assert small.shape == kind.shape(4, 6), name
