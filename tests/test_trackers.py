"""Trackers and observers of one's own: what they get from a run, and what happens if they fail."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from accelerate.utils import LoggerType
from PIL import Image

import mtlkit
from mtlkit import Experiment, log
from mtlkit.cli.main import main
from mtlkit.config.composition import compose
from mtlkit.config.schema_trainer import Tracker
from mtlkit.run import trackers

TINY = ["data.size=[32,24]", "data.train_size=8", "data.val_size=4", "data.batch_size=4", "task=[segmentation,depth]"]
TINY += ["model.encoder=test_resnet", "model.levels=null", "trainer.max_epochs=null", "trainer.log_every=1"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [*TINY, f"data.root={tmp_path / 'cache'}", f"output_dir={tmp_path / 'run'}", "trainer.max_steps=2"]


def numbers(run: Path) -> dict[tuple[str, int], float]:
    """Returns the numbers in the log of a run by (split/key, step)."""
    return {
        (f"{record['split']}/{key}", record["step"]): value
        for record in log.read_log(run / "metrics.jsonl")
        if record["split"] != "info"
        for key, value in record.items()
        if key not in ("step", "split", "best", "incident") and value is not None
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_gets_what_the_log_has(words: list[str]) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Experiment.compose("scenes", [*words, "trainer.trackers=[tensorboard]"]).run()
    events = EventAccumulator(str(run / "trackers" / "scenes"), {"scalars": 0, "images": 0})
    events.Reload()
    found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    expected = numbers(run)
    assert {"train/loss/depth", "val/depth/abs", "val/segmentation/iou/wall"} < {key for key, _ in expected}
    # TensorBoard keeps single precision.
    assert found == {key: pytest.approx(value, rel=1e-6) for key, value in expected.items()}
    kinds = [f"{task}_{kind}" for task in ("depth", "segmentation") for kind in ("target", "prediction", "error")]
    assert set(events.Tags()["images"]) == {f"pictures/{name}" for name in ("image", *kinds)}
    (image,) = events.Images("pictures/image")
    assert image.step == 2
    with Image.open(io.BytesIO(image.encoded_image_string)) as picture:  # TensorBoard lays the four side by side
        assert picture.height < 32 < 4 * 32 <= picture.width
    (settings,) = (run / "trackers" / "scenes").glob("*/hparams.yml")
    assert "trainer.lr: 0.00" in settings.read_text()
    assert "data.size: '[32, 24]'" in settings.read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_each_step_once_after_a_kill(words: list[str], tmp_path: Path) -> None:
    """The run has gone to step 4 when it dies, and its last checkpoint is that of step 2."""
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def train(steps: int, resume: bool) -> None:
        options = ["trainer.trackers=[tensorboard]", f"trainer.max_steps={steps}"]
        Experiment.compose("scenes", [*words, *options]).run(resume=resume)

    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last"
    train(2, resume=False)
    shutil.copytree(last, tmp_path / "last")
    train(4, resume=True)
    shutil.rmtree(last)
    (tmp_path / "last").rename(last)
    train(4, resume=True)
    assert len(list((run / "trackers" / "scenes").glob("events.*"))) == 3
    events = EventAccumulator(str(run / "trackers" / "scenes"), {"scalars": 0, "images": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss/depth")] == [1, 2, 3, 4]
    found = sorted((tag, e.step) for tag in events.Tags()["scalars"] for e in events.Scalars(tag))
    assert found == sorted(numbers(run))
    assert [e.step for e in events.Images("pictures/image")] == [2, 4]


def test_wandb_continues_the_same_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.delenv("WANDB_RESUME", raising=False)
    config = compose("scenes", [*words, "trainer.trackers=[wandb]"])
    given: list[dict] = []

    class Accelerator:
        log_with, trackers = ("wandb",), ()

        def init_trackers(self, name: str, settings: dict, init_kwargs: dict) -> None:
            given.append(init_kwargs)

    for begun in (None, 2, None):
        trackers.start_trackers(Accelerator(), config, pytest.fail, begun)
    first, again, new = (options["wandb"] for options in given)
    assert first == again == {"id": first["id"], "resume": "allow"}
    assert new["id"] != first["id"]
    monkeypatch.setenv("WANDB_RUN_ID", "mine")  # the user decides
    trackers.start_trackers(Accelerator(), config, pytest.fail, None)
    assert "wandb" not in given[-1]


@pytest.mark.filterwarnings("ignore")  # of wandb's own imports
def test_wandb_gets_what_the_log_has(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its offline mode, in a process of its own: wandb starts a service."""
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "mtlkit", "train", "scenes", *words, "trainer.trackers=[wandb]"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "incident" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert all(key.encode() in content for key in ("train/loss/depth", "val/segmentation/iou/wall", "trainer.lr"))
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/pictures/depth_prediction*.png"))) == 4


class Fake:
    """A tracker that keeps what it gets. It raises in the `failing` method from step `after` on."""

    name = "fake"

    def __init__(self, failing: str = "", after: int = 0) -> None:
        self.failing, self.after = failing, after
        self.calls: list[tuple[str, Any]] = []

    def _call(self, method: str, value: Any, step: int = 0) -> None:
        if method == self.failing and step >= self.after:
            raise ConnectionError("the server\nis away")
        self.calls.append((method, value))

    def log(self, values: dict[str, float], step: int) -> None:
        self._call("log", values, step)

    def log_images(self, values: dict[str, np.ndarray], step: int) -> None:
        self._call("log_images", values, step)

    def finish(self) -> None:
        self._call("finish", None, step=1)


@pytest.mark.parametrize("failing", ["log", "log_images", "finish"])
def test_a_run_goes_on_without_a_tracker_that_fails(
    failing: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The log and the console say it once."""
    bad, good = Fake(failing, after=1), Fake()
    monkeypatch.setattr(trackers, "PICTURES", {"fake": {}})
    monkeypatch.setattr(
        "mtlkit.run.experiment.start_trackers",
        lambda accelerator, config, report, begun: [trackers.Trackers([bad, good], report)],
    )
    assert main(["train", "scenes", *words]) == 0
    records = log.read_log(tmp_path / "run" / "metrics.jsonl")
    incidents = [record["incident"] for record in records if "incident" in record]
    assert incidents == ["The tracker 'fake' failed and gets nothing more: ConnectionError: the server is away"]
    assert capsys.readouterr().out.count("the server is away") == 1
    order = ["val_constant", "val", "train", "train", "val"]
    assert [next(iter(v)).split("/")[0] for method, v in good.calls if method == "log"] == order
    assert [method for method, _ in good.calls[-2:]] == ["log_images", "finish"]
    assert len(bad.calls) == {"log": 2, "log_images": 5, "finish": 6}[failing]
    assert good.calls[-2][1]["pictures/image"].shape == (4, 24, 32, 3)


def test_only_finite_numbers_are_sent() -> None:
    tracker = Fake()
    record = {"step": 3, "split": "val", "a/x": 1, "a/y": math.nan, "a/z": None, "best": True, "incident": "a word"}
    trackers.Trackers([tracker], pytest.fail).evaluation(record)
    assert tracker.calls == [("log", {"val/a/x": 1})]


def test_what_cannot_be_tracked_is_refused_before_the_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refused(word: str) -> str:
        assert main(["train", "scenes", *words, word]) == 2
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        return capsys.readouterr().err

    error = refused("trainer.trackers=[tensorbord]")
    assert "trainer.trackers: expected a list, each item one of aim, " in error
    assert "Did you mean 'tensorboard'?" in error
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    assert "'tensorboard' is not installed. Install it by `pip install 'mtlkit[tensorboard]'`, " in refused(
        "trainer.trackers=[tensorboard]"
    )
    assert "Install it by `pip install mlflow`" in refused("trainer.trackers=[mlflow]")
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [LoggerType.WANDB])
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])

    def start(*given: object, **options: object) -> None:
        raise RuntimeError("no account")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", start)
    assert "trainer.trackers=['wandb']: a tracker cannot start: RuntimeError: no account" in refused(
        "trainer.trackers=[wandb]"
    )


def test_the_trackers_are_those_of_accelerate() -> None:
    assert set(get_args(Tracker)) <= {str(one.value) for one in LoggerType} - {"all"}


OBSERVER = """
from mtlkit.observer import OBSERVERS, Observer

@OBSERVERS.register("witness")
class Witness(Observer):
    '''Writes which hooks are called.'''
    def __init__(self, config):
        self.path = config.output_dir + "/witness.txt"
    def _write(self, word):
        with open(self.path, "a") as file:
            file.write(word + chr(10))
    def start(self, total_steps, step): self._write(f"start {total_steps}")
    def step(self, record): self._write(f"step {record['step']}")
    def pictures(self, step, samples): self._write(f"pictures {len(samples)}")
    def finish(self, summary): self._write(summary["status"])
"""


def test_an_observer_of_a_plug_in_watches_a_run(words: list[str], tmp_path: Path, plugin: Callable) -> None:
    plugin("witness_lab", OBSERVER)
    words = [*words, "plugins=[witness_lab]"]
    run = Experiment.compose("scenes", [*words, "trainer.observers=[witness]"]).run()
    assert (run / "witness.txt").read_text().split("\n") == [
        *("start 2", "step 1", "step 2", "pictures 4", "finished", "")
    ]
    with pytest.raises(ValueError, match=r"trainer\.observers: no observer is called 'witnes'.*mean 'witness'"):
        compose("scenes", [*words, "trainer.observers=[witnes]"])
    assert "witness" in mtlkit.OBSERVERS.names()
    # A run may get another observer when it goes on.
    Experiment.compose("scenes", [*words, "trainer.max_steps=3", "trainer.observers=[]"]).run(resume=True)
    assert (run / "witness.txt").read_text().count("start") == 1


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Returns a function that writes a module which Python can import."""

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return write


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_the_main_process_tracks(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mtlkit"]
    command = [*launch, "train", "scenes", *words, "trainer.trackers=[tensorboard]"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "trackers" / "scenes").glob("events.*"))) == 1
    # The figures of single classes are those of all samples, like their mean.
    val = [record for record in log.read_log(tmp_path / "run" / "metrics.jsonl") if record["split"] == "val"][-1]
    iou = [value for key, value in val.items() if key.startswith("segmentation/iou/") and value is not None]
    assert np.mean(iou) == pytest.approx(val["segmentation/miou"])
    settings = json.dumps([str(path) for path in (tmp_path / "run" / "trackers").rglob("hparams.yml")])
    assert settings.count("hparams.yml") == 1
