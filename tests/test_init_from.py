"""Runs that start from another run's weights (`model.init_from`): what is taken, what is new, and what is refused."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.run.experiment import Experiment

TINY = [
    "data.size=[32,32]",
    "data.train_size=8",
    "data.val_size=4",
    "data.batch_size=4",
    "model.encoder=test_resnet",
    "model.levels=null",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "trainer.schedule=constant",
]
TASKS = "task=[segmentation,attributes]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run `a` of two steps with GradNorm."""
    folder = tmp_path_factory.mktemp("init_from")
    train(folder, "a", "balancer=gradnorm", TASKS)
    return folder


def compose(folder, name, *words):
    own = [f"data.root={folder / 'cache'}", f"output_dir={folder / name}"]
    return Experiment.compose("scenes", [*TINY, *own, *words])


def train(folder, name, *words):
    return compose(folder, name, *words).run()


@pytest.fixture
def started(folder, tmp_path, monkeypatch):
    """Returns the weights at step 0 and the sentences of a run with these words; it is stopped at step 1."""
    from mtlkit.engine.engine import Engine

    def stop(self, batch):
        raise RuntimeError("stopped by the test")

    def start(*words, init_from=None):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "train_step", stop)
            source = [] if init_from is False else [f"model.init_from={init_from or folder / 'a'}"]
            with pytest.raises(RuntimeError, match="stopped by the test"):
                compose(folder, "new", *source, f"output_dir={tmp_path / 'new'}", *words).run()
        info = {
            k: v for r in log.read_log(tmp_path / "new" / "metrics.jsonl") if r["split"] == "info" for k, v in r.items()
        }
        found = weights(tmp_path / "new", "last"), weights(tmp_path / "new", "last", "balancer"), info
        shutil.rmtree(tmp_path / "new")
        return found

    return start


def weights(run, name="best", file="model"):
    return load_file(run / "checkpoints" / name / f"{file}.safetensors")


def test_the_same_parts_are_all_taken(folder, started):
    model, balancer, info = started("balancer=gradnorm", TASKS)
    for found, expected in ((model, weights(folder / "a")), (balancer, weights(folder / "a", file="balancer"))):
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert info["init_from"] == {"folder": str(folder / "a"), "checkpoint": "best", "step": 2}
    count = lambda prefix: sum(name.startswith(prefix) for name in model)  # noqa: E731
    assert info["model"] == [
        f"Starts from {folder / 'a'}, checkpoint 'best', step 2.",
        f"Encoder: taken, all {count('encoder.')} tensors.",
        f"Decoder of segmentation: taken, all {count('decoders.segmentation.')} tensors.",
        f"Decoder of attributes: taken, all {count('decoders.attributes.')} tensors.",
        "Balancer gradnorm: taken, all 4 tensors.",
    ]


def test_other_tasks_get_new_decoders_that_start_as_without_it(folder, started):
    words = ("balancer=gradnorm", "task=[depth,attributes]")
    model, balancer, info = started(*words)
    plain, plain_balancer, _ = started(*words, init_from=False)
    its, its_balancer = weights(folder / "a"), weights(folder / "a", file="balancer")
    for name, tensor in model.items():
        expected = plain if name.startswith("decoders.depth.") else its
        assert torch.equal(tensor, expected[name]), name
    own = [name for name in its if name.startswith("decoders.attributes.")]
    assert any(not torch.equal(its[name], plain[name]) for name in own)  # else nothing above could fail
    for name, tensor in balancer.items():
        expected = plain_balancer if name.endswith(".depth") else its_balancer
        assert torch.equal(tensor, expected[name]), name
    text = "\n".join(info["model"])
    assert "Decoder of depth: new, nothing was taken." in text
    assert "Left there: the decoders of segmentation." in text
    assert "new are weight.depth, initial_loss.depth; left there: initial_loss.segmentation" in text


def test_another_shape_is_new_and_named(folder, started):
    """The decoder has another width: what does not fit starts as without the weights."""
    words = ("task=[segmentation,attributes]", "task.segmentation.decoder={name: conv, width: 8}")
    model, _, info = started(*words)
    plain, *_ = started(*words, init_from=False)
    its, same = weights(folder / "a"), 0
    for name, tensor in model.items():
        fits = its[name].shape == tensor.shape
        assert torch.equal(tensor, (its if fits else plain)[name]), name
        same += not fits
    assert same > 2
    assert " there, 8" in "\n".join(info["model"])
    assert "Balancer: uniform starts anew; the state there is of gradnorm." in info["model"]


def test_tables_of_other_tasks_and_seeds_are_not_taken(folder, started):
    train(folder, "gradvac", "balancer=gradvac", TASKS, "seed=3")
    own = weights(folder / "gradvac", file="balancer")
    assert float(own["target.value"].abs().sum()) > 0
    _, same, _ = started("balancer=gradvac", TASKS, init_from=folder / "gradvac")
    assert torch.equal(same["target.value"], own["target.value"])
    assert not torch.equal(same["seed"], own["seed"])  # `seed` alone decides what a run draws
    _, other, _ = started("balancer=gradvac", "task=[depth,attributes]", init_from=folder / "gradvac")
    assert float(other["target.value"].abs().sum()) == 0


def test_what_changes_the_meaning_of_the_same_weights_is_said(started):
    _, _, info = started(TASKS, "model.normalise=false")
    assert "model.normalise differs: its default there, False here." in info["model"]


def test_a_folder_of_weights_is_enough(folder, started, tmp_path):
    (tmp_path / "weights").mkdir()
    kept = {name: tensor for name, tensor in weights(folder / "a").items() if name.startswith("encoder.")}
    save_file(kept, tmp_path / "weights" / "model.safetensors")
    model, _, info = started("balancer=gradnorm", TASKS, init_from=tmp_path / "weights")
    assert all(torch.equal(model[name], tensor) for name, tensor in kept.items())
    assert info["init_from"] == {"folder": str(tmp_path / "weights"), "checkpoint": "weights", "step": None}
    assert "Balancer: gradnorm starts anew; there is no balancer.safetensors." in info["model"]
    assert "weights has no checksums.json" in info["incident"]


def test_float64_weights_keep_all_digits(folder, started):
    train(folder, "double", TASKS, "trainer.precision=fp64")
    model, *_ = started(TASKS, "trainer.precision=fp64", init_from=folder / "double")
    assert all(torch.equal(model[name], tensor) for name, tensor in weights(folder / "double").items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.init_from={folder}"], r"is not the folder of a run: it has no config.yaml. Runs in it: .*a"),
        (["model.init_from={folder}/b"], "b is not the folder of a run: it does not exist"),
        (["model.init_from={folder}/a", "model.encoder=test_convnext"], "nothing of its encoder 'test_resnet' fits"),
        (["model.init_from={folder}/new"], "lies in this run's own folder"),
        (
            ["model.init_from={folder}/damaged"],
            r"init_from: .*model\.safetensors is damaged: its number of bytes",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused(folder, capsys, words, message):
    shutil.copytree(folder / "a", folder / "damaged", dirs_exist_ok=True)
    for path in (folder / "damaged").glob("checkpoints/*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:999])
    own = [*TINY, f"data.root={folder / 'cache'}", f"output_dir={folder / 'new'}", TASKS]
    assert main(["train", "scenes", *own, *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert "model.init_from" in error
    assert re.search(message, error), error
    assert not (folder / "new" / "checkpoints").exists()


def test_a_resumed_run_keeps_its_start(folder, tmp_path, capsys):
    """The run that it began from may be gone by then. Another one is refused."""
    shutil.copytree(folder / "a", tmp_path / "a")
    words = [*TINY, f"data.root={folder / 'cache'}", TASKS, "balancer=gradnorm", f"model.init_from={tmp_path / 'a'}"]
    half = [*words, f"output_dir={tmp_path / 'half'}"]
    assert main(["train", "scenes", *half]) == 0
    shutil.rmtree(tmp_path / "a")
    assert main(["train", "scenes", *half, "trainer.max_steps=4", "--resume"]) == 0
    assert "Starts from" in (tmp_path / "half" / "report.html").read_text()
    capsys.readouterr()
    assert main(["train", "scenes", *half, "--resume", f"model.init_from={tmp_path / 'b'}"]) == 2
    assert "A resumed run goes on as it began" in capsys.readouterr().err
