"""A run from the configuration to its folder: files, resume, evaluation, prediction, and error messages."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tolerances import SINGLE

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.data.files import image_tensor, resize
from mtlkit.data.pictures import read_picture
from mtlkit.engine.losses import NonFiniteError
from mtlkit.run import checkpoint, inference, predicting
from mtlkit.run.ending import why_it_ended
from mtlkit.run.experiment import Experiment
from mtlkit.study.delta_m import figures_of
from mtlkit.waits import TIMES

TINY = [
    "data.size=[32,32]",
    "data.train_size=12",
    "data.val_size=6",
    "data.batch_size=4",
    "model.encoder=test_resnet",
    "model.levels=null",
    "trainer.max_epochs=null",
    "trainer.log_every=1",
    "trainer.eval_every=2",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def compose(cache, tmp_path, no_report):
    def make(*words, folder="run"):
        own = [f"data.root={cache}", f"output_dir={tmp_path / folder}"]
        return Experiment.compose("scenes", [*TINY, *own, *words])

    return make


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A finished run of four steps with RotoGrad."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    words = [*TINY, f"data.root={cache}", f"output_dir={folder}", "balancer=rotograd", "trainer.max_steps=4"]
    return Experiment.compose("scenes", words).run()


def test_the_folder_of_a_run(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "checkpoints",
        "config.yaml",
        "data.json",
        "details.json",
        "metrics.jsonl",
        "pictures",
        "report.html",
    }
    for name in ("last", "best"):
        files = {path.name for path in (finished / "checkpoints" / name).iterdir()}
        assert files == {"model.safetensors", "balancer.safetensors", "training.pt", "checksums.json"}
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"last", "best"}  # `previous` has gone
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["split"] == "train"] == [1, 2, 3, 4]
    assert [r["step"] for r in records if r["split"] == "val"] == [0, 2, 4]
    train = next(r for r in records if r["split"] == "train")
    assert {"epoch", *TIMES, "loss/depth", "weight/depth", "grad_norm/depth", "cosine/depth/normals"} < set(train)
    val = next(r for r in records if r["split"] == "val")
    assert {"segmentation/miou", "depth/abs", "normals/mean", "attributes/f1", "loss/normals"} < set(val)
    constant = next(r for r in records if r["split"] == "val_constant")
    assert constant["depth/abs"] is not None
    page = (finished / "report.html").read_text()
    assert "Finished at step 4 of 4: trainer.max_steps=4" in page  # though the log says so only after the report
    assert "Peak memory" in page
    assert "rotograd" in page
    assert "<img" in page


def weights(run, name="last"):
    found = load_file(run / "checkpoints" / name / "model.safetensors")
    return found | load_file(run / "checkpoints" / name / "balancer.safetensors")


def without_times(run):
    hidden = (*TIMES, "started")
    return [
        {k: v for k, v in r.items() if k not in hidden}
        for r in log.read_log(run / "metrics.jsonl")
        if r["split"] != "info"
    ]


@pytest.mark.parametrize("balancer", ["uniform", "fixed", "uncertainty", "gradnorm", "rotograd", "cosreg"])
def test_two_steps_and_two_after_resume_equal_four(compose, balancer):
    words = [f"balancer={balancer}", "data.augment=true", "trainer.schedule=constant"]
    whole = compose(*words, "trainer.max_steps=4", folder="whole").run()
    half = compose(*words, "trainer.max_steps=2", folder="half").run()
    compose(*words, "trainer.max_steps=4", folder="half").run(resume=True)
    found, expected = weights(half), weights(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert without_times(half) == without_times(whole)


def test_a_killed_run_resumes_to_the_same_end(cache, tmp_path, finished):
    """After a kill between two checkpoints, the run repeats the steps since the last one and loses nothing."""
    code = (
        "import os, sys, threading; from mtlkit.engine import engine; from mtlkit.cli.main import main\n"
        "from mtlkit.run.saving import CHECKPOINT\n"
        "step = engine.Engine.train_step\n"
        "def train_step(self, batch):\n"
        "    if self.step == 3:\n"
        "        [one.join() for one in threading.enumerate() if one.name == CHECKPOINT]  # that of step 2\n"
        "        os._exit(9)\n"
        "    return step(self, batch)\n"
        "engine.Engine.train_step = train_step\n"
        "main(sys.argv[1:])\n"
    )
    words = [*TINY, f"data.root={cache}", "balancer=rotograd", "trainer.max_steps=4", f"output_dir={tmp_path / 'run'}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "scenes", *words], env=env, capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr
    assert [r["step"] for r in log.read_log(tmp_path / "run" / "metrics.jsonl")][-1] == 3
    assert checkpoint.steps(tmp_path / "run") == {"best": 2, "last": 2, "previous": 0}
    assert main(["train", "scenes", *words, "--resume"]) == 0
    found, expected = weights(tmp_path / "run"), weights(finished)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert without_times(tmp_path / "run") == without_times(finished)
    assert "rotograd" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("dead_at", ["before the first checkpoint", "at step 0"])
def test_a_run_killed_at_its_very_start_resumes(compose, tmp_path, monkeypatch, finished, dead_at):
    from mtlkit.engine import engine

    words, run = ["balancer=rotograd", "trainer.max_steps=4"], tmp_path / "run"

    def die(*args, **named):
        raise KeyboardInterrupt

    if dead_at == "at step 0":
        monkeypatch.setattr(engine.Engine, "train_step", die)
    else:
        monkeypatch.setattr(checkpoint, "write_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        compose(*words).run()
    monkeypatch.undo()
    compose(*words).run(resume=True)
    assert without_times(run) == without_times(finished)


def test_an_existing_run_is_not_overwritten(compose, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds a run.*--resume"):
        compose("trainer.max_steps=4").run()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(FileNotFoundError, match=r"no run in .* to resume"):
        compose("trainer.max_steps=4", folder="other").run(resume=True)


def test_a_resumed_run_must_be_the_same_experiment(compose, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match=r"balancer\.name.*rotograd.*uniform"):
        compose("balancer=uniform", "trainer.max_steps=8").run(resume=True)
    with pytest.raises(ValueError, match=r"trainer\.lr.*0\.001.*0\.5"):
        compose("trainer.lr=0.5", "trainer.max_steps=8").run(resume=True)
    with pytest.raises(ValueError, match=r"task\.attributes\..*A resumed run goes on as it began"):
        compose("task=[depth]", "trainer.max_steps=8").run(resume=True)
    run = compose("trainer.max_steps=6").run(resume=True)  # settings that the words do not name stay
    assert "name: rotograd" in (run / "config.yaml").read_text()
    assert "max_steps: 6" in (run / "config.yaml").read_text()
    assert [r["step"] for r in log.read_log(run / "metrics.jsonl") if r["split"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_a_nan_stops_the_run_and_keeps_the_last_checkpoint(compose, monkeypatch, capsys, cache, tmp_path):
    from mtlkit.tasks.depth import Depth

    original, calls = Depth.loss, []

    def loss(self, output, target):
        total, count = original(self, output, target)
        calls.append(torch.is_grad_enabled())
        return (total * float("nan"), count) if sum(calls) == 4 else (total, count)

    monkeypatch.setattr(Depth, "loss", loss)
    with pytest.raises(NonFiniteError, match="'depth' is nan at step 3"):
        compose("trainer.max_steps=6").run()
    run = tmp_path / "run"
    assert torch.isfinite(torch.cat([v.float().flatten() for v in weights(run).values()])).all()
    monkeypatch.undo()
    compose("trainer.max_steps=4").run(resume=True)
    calls.clear()
    monkeypatch.setattr(Depth, "loss", loss)
    words = [*TINY, f"data.root={cache}", "trainer.max_steps=6", f"output_dir={tmp_path / 'other'}"]
    assert main(["train", "scenes", *words]) == 3
    assert "'depth' is nan at step 3" in capsys.readouterr().err


def test_evaluate_gives_the_logged_figures(finished):
    best = [r for r in log.read_log(finished / "metrics.jsonl") if r.get("best")][-1]
    figures = inference.evaluate_run(finished)
    assert figures["depth/abs"] == pytest.approx(best["depth/abs"], rel=SINGLE)
    assert figures["segmentation/miou"] == pytest.approx(best["segmentation/miou"], rel=SINGLE)
    assert set(inference.evaluate_run(finished, "train", "last")) == set(figures)
    measured = figures_of([finished], "train")
    assert measured.kind == "train figures of the best evaluation"
    assert measured.by_seed[0]["depth/abs"] == inference.evaluate_run(finished, "train")["depth/abs"]


def test_predict_writes_arrays_and_pictures_at_the_images_size(finished, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    (folder,) = predicting.predict_files(finished, [tmp_path / "photo.jpg"], tmp_path / "out")
    assert np.load(folder / "segmentation.npy").shape == (40, 50)
    assert np.load(folder / "depth.npy").shape == (1, 40, 50)
    normals = np.load(folder / "normals.npy")
    # The arrays are float16, with relative errors of up to 5e-4.
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-3)
    assert np.load(folder / "attributes.npy").shape == (12,)
    with Image.open(folder / "depth.png") as picture:
        assert picture.size == (50, 40)
    with pytest.raises(FileExistsError, match="exists already"):
        predicting.predict_files(finished, [tmp_path / "photo.jpg"], tmp_path / "out")


def test_predict_sees_pictures_as_training_does(finished, tmp_path, monkeypatch):
    """The model gets the right pixels of a grey 16-bit picture and of a photo that is stored turned."""
    from mtlkit.engine.model import MultiTaskModel

    seen, original = [], MultiTaskModel.forward
    monkeypatch.setattr(
        MultiTaskModel, "forward", lambda self, image, *rest: seen.append(image) or original(self, image, *rest)
    )
    ramp = (np.arange(64 * 48, dtype=np.uint16) * 21).reshape(48, 64)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    photo, exif = np.zeros((64, 48, 3), np.uint8), Image.Exif()
    photo[:, 24:] = 200  # bright on the right, so at the bottom after turning
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "photo.png", exif=exif)
    folders = predicting.predict_files(finished, [tmp_path / "grey.png", tmp_path / "photo.png"], tmp_path / "out")
    grey, turned = seen
    assert float(grey.mean()) == pytest.approx(ramp.mean() / 65_535, abs=1e-5)  # shrinking rounds in float32
    assert torch.equal(grey[0], image_tensor(resize(read_picture(tmp_path / "grey.png"), (32, 32))))
    assert float(turned[..., :15, :].max()) == 0
    assert float(turned[..., 17:, :].min()) == pytest.approx(200 / 255)
    assert np.load(folders[1] / "depth.npy").shape == (1, 48, 64)


def test_predict_resizes_as_the_run_describes(finished, tmp_path, monkeypatch):
    """It resizes as the data set does. CelebA with `resize: torchvision` gets the numbers of torchvision's `Resize`."""
    from torchvision.transforms import Compose, Resize, ToTensor

    from mtlkit.engine.model import MultiTaskModel

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    description = json.loads((run / "data.json").read_text())
    assert description["resizing"] == "area"
    (run / "data.json").write_text(json.dumps(description | {"resizing": "torchvision"}))
    seen, original = [], MultiTaskModel.forward
    monkeypatch.setattr(
        MultiTaskModel, "forward", lambda self, image, *rest: seen.append(image) or original(self, image, *rest)
    )
    ramp = np.random.default_rng(0).integers(0, 2**16, (40, 50)).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    photo.save(tmp_path / "photo.png")
    predicting.predict_files(run, [tmp_path / "photo.png", tmp_path / "grey.png"], tmp_path / "out")
    assert torch.equal(seen[0][0], Compose([Resize((32, 32)), ToTensor()])(photo))
    exact = Image.fromarray(ramp.astype(np.float32) / 65_535).resize((32, 32), Image.Resampling.BILINEAR)
    torch.testing.assert_close(seen[1][0, 0], torch.from_numpy(np.array(exact)), rtol=0, atol=SINGLE)
    (run / "data.json").write_text(json.dumps(description | {"resizing": "bilinear"}))
    with pytest.raises(
        ValueError, match=r"data\.json is damaged: resizing: expected one of area, torchvision, found 'bilinear'"
    ):
        inference.load_run(run)


def test_predict_refuses_what_is_no_image_before_any_work(finished, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (8, 8)).save(good)
    bad.write_text("no image")
    with pytest.raises(ValueError, match=r"bad\.png is damaged or not what its name says"):
        predicting.predict_files(finished, [good, bad], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no image"):
        predicting.predict_files(finished, [tmp_path / "missing.png"], tmp_path / "out")
    (tmp_path / "other").mkdir()
    shutil.copy(good, tmp_path / "other" / "good.png")
    with pytest.raises(ValueError, match=r"would both be written to .*good\. Give a folder"):
        predicting.predict_files(finished, [good, tmp_path / "other" / "good.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_and_missing_runs_are_named(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        inference.load_run(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    file = broken / "checkpoints" / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        inference.load_run(broken)
    shutil.rmtree(broken / "checkpoints" / "best")
    with pytest.raises(FileNotFoundError, match="no checkpoint 'best'; it has last"):
        inference.load_run(broken, "best")


def test_a_checkpoint_survives_a_kill_between_its_two_renamings(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / "best").rename(run / "checkpoints" / "best.old")
    inference.load_run(run)


def test_a_full_disk_leaves_the_last_checkpoint_intact(compose, monkeypatch, tmp_path):
    compose("trainer.max_steps=2").run()
    before = weights(tmp_path / "run")

    def full(*args, **options):
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"Could not write the checkpoint .* No space left"):
        compose("trainer.max_steps=4").run(resume=True)
    after = weights(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["best", "last"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=[depht]"], "depht"),
        (["data.size=[7,5]", "model.encoder=test_vit"], r"size.*7.*5"),
        (["data.batch_size=64"], r"12 samples, fewer than data\.batch_size=64"),
        (["trainer.precision=fp16"], r"trainer\.precision=fp16 needs a GPU"),
        (["model.batch_norm=sync"], "sync"),
        (["task.segmentation.decoder=linear"], "one value per pixel"),
        (["balancer=rotograd", "balancer.dim=100000"], r"balancer\.dim"),
        (["model.pretrained=missing.safetensors"], r"missing\.safetensors"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(compose, words, message, tmp_path):
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=message):
        compose(*words, "trainer.max_steps=2").run()
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_an_unwritable_folder_is_refused(compose, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(OSError, match="output_dir"):
        compose("trainer.max_steps=2").run()


def test_a_folder_that_cannot_be_made_is_refused(compose, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"output_dir=.* cannot be made"):
        compose("trainer.max_steps=2", folder="file/run").run()


def test_control_tasks_train(compose, no_report):
    no_report.undo()
    names = ["noise", "opposite", "duplicate"]
    run = compose(f"data.controls=[{','.join(names)}]", f"task=[depth,{','.join(names)}]", "trainer.max_steps=2").run()
    last = [record for record in log.read_log(run / "metrics.jsonl") if record["split"] == "val"][-1]
    assert all(last[f"loss/{name}"] is not None for name in names)
    with pytest.raises(ValueError, match=r"task\.noise: the data set 'scenes' has no such target"):
        compose("task=[depth,noise]", "trainer.max_steps=2", folder="other").run()


def test_one_task_alone_and_deterministic_runs_repeat(compose):
    words = ["task=[depth]", "balancer=gradnorm", "trainer.max_steps=2", "deterministic=true"]
    try:
        a, b = compose(*words, folder="a").run(), compose(*words, folder="b").run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(weights(a)[name], value) for name, value in weights(b).items())


def test_what_takes_the_whole_run_is_said_before_it_begins(compose):
    """The number of steps is known only when the data are open: here, two epochs of three steps."""
    words = ["trainer.max_epochs=2", "trainer.max_steps=null", "task=[depth]"]
    with pytest.raises(ValueError, match=r"trainer\.warmup_steps: 9 is not less than the 6 steps of this run"):
        compose(*words, "trainer.warmup_steps=9").run()
    words += ["balancer=stch", "trainer.normalize_losses=9", "trainer.normalize_again=9"]
    records = log.read_log(compose(*words).run() / "metrics.jsonl")
    said = [record["incident"] for record in records if record["step"] == 0 and "incident" in record]
    for text in ("trainer.normalize_losses=9, and", "trainer.normalize_again=9 is never", "SmoothTchebycheff settles"):
        assert [one for one in said if one.startswith(text)], text
    assert (records[-1]["status"], records[-1]["why"]) == ("finished", "trainer.max_epochs=2")


def test_the_reason_of_an_end():
    def why(step, **keys):
        config = SimpleNamespace(**{"max_steps": None, "max_epochs": None, "early_stopping": None} | keys)
        monitor = SimpleNamespace(without_gain=3)
        return why_it_ended(SimpleNamespace(step=step, total_steps=8, config=config, monitor=monitor))

    assert why(8, max_steps=8, max_epochs=4) == "trainer.max_steps=8"
    assert why(8, max_steps=9, max_epochs=4) == "trainer.max_epochs=4"
    assert why(5, max_steps=8, early_stopping=3) == "no gain in 3 evaluations (trainer.early_stopping=3)"
