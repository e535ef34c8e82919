"""Builds and installs a foreign package that adds two kinds of target, one task for each, and a data set."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mtlkit
from mtlkit.log import read_log

PACKAGE = Path(__file__).parent / "people_lab"
REPOSITORY = Path(__file__).parents[1]

EXPERIMENT = """
data: {name: people, batch_size: 4, augmentation: {flip: 0.5, scale: [1.0, 1.5]}}
model: {encoder: test_resnet, levels: [1, 2], pretrained: false}
trainer: {max_steps: 2, log_every: 1, eval_every: 2}
task: {points: {type: keypoints, decoder: linear}, stage: {type: ordinal, decoder: linear}}
"""

COMMANDS = """
import sys
import torch
from mtlkit.cli.main import main
from mtlkit.testing import check_dataset, check_task

torch.set_num_threads(1)
for words in (
    ["data", "show", "people.yaml"],
    ["train", "people.yaml", "output_dir=run"],
    ["evaluate", "run"],
    ["data", "prepare", "people.yaml", "--out", "fast", "--splits", "train", "val"],
    ["train", "people.yaml", "data.root=fast", "output_dir=again"],
    ["list", "kinds"],
):
    print("==", *words)
    assert main(words) == 0
check_task("keypoints")
check_task("ordinal")
check_dataset("people")

import numpy as np
from mtlkit.data.dataset import DATASETS
from mtlkit.data.transforms import Augment

people, moved = DATASETS.build("people"), 0
for flip, scale in ((1.0, 1.0), (0.0, 2.0), (1.0, 2.0)):
    augment = Augment(people.targets, flip=flip, scale=[scale])
    for index in range(len(people)):
        before = people[index]
        after = augment(before, seed=index)
        assert after["targets"].get("stage") is before["targets"].get("stage")
        if "points" not in before["targets"]:
            continue
        # The red mark was the left eye's. In the mirrored picture it is the right eye's.
        for channel, row in ((0, 2 if flip else 1), (2, 1 if flip else 2)):
            x, y, seen = after["targets"]["points"][row].tolist()
            if x != x:  # it has left the picture
                assert scale > 1
                continue
            marks = (after["image"][channel] > 0.5).nonzero().double()
            found = (marks.mean(0) + 0.5) / torch.tensor([32.0, 48.0])
            # The mark has its centre within a pixel of the point, and up to `scale` pixels after zooming; at the
            # border a part of it is lost.
            assert abs(found[0] - y) < 2 * scale / 32 and abs(found[1] - x) < 2 * scale / 48, (index, found, x, y)
            moved += 1
assert moved > 20, moved
print("== augmented", moved)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Returns the output of a fresh process that has the package installed, and the folder in which it worked."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(PACKAGE, folder / "source")
    site = folder / "site"
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(folder / "source")]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder / "people.yaml").write_text(EXPERIMENT)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMANDS]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, folder


def test_all_commands_know_them(told: tuple[str, Path]) -> None:
    text, folder = told
    parts = {part.partition("\n")[0]: part for part in text.split("== ")}
    shown = parts["data show people.yaml"]
    assert re.search(r"points: keypoints, \d\S* % valid; .*left_eye 100 %", shown)
    assert re.search(r"stage: ordinal, \d\S* % valid; .*middle \d", shown)
    assert "points x: train median" in shown or "points.x: train median" in shown or "points (x)" in shown
    assert "points/distance" in parts["evaluate run"]
    assert "stage/steps_off" in parts["evaluate run"]
    assert "ordinal" in parts["list kinds"]
    assert "augmented" in text
    for run in ("run", "again"):
        records = [r for r in read_log(folder / run / "metrics.jsonl") if r["split"] in ("val", "val_constant")]
        assert [r["split"] for r in records] == ["val_constant", "val", "val"]
        assert all(r["points/distance"] > 0 and r["stage/steps_off"] is not None for r in records)
        page = (folder / run / "report.html").read_text()
        assert "points" in page
        assert "steps_off" in page
    manifest = json.loads((folder / "fast" / "manifest.json").read_text())
    assert manifest["targets"]["points"]["type"] == "keypoints"


def test_nothing_in_mtlkit_names_them() -> None:
    for folder in (Path(mtlkit.__file__).parent, *(REPOSITORY / name for name in ("balancers", "tasks", "configs"))):
        for file in (*folder.rglob("*.py"), *folder.rglob("*.yaml")):
            assert not re.search(r"keypoint|\bordinal\b|people_lab", file.read_text().lower()), file
