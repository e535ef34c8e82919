"""The moving average of the weights (`trainer.ema`): how it moves, where it is used, and how it is saved."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from tolerances import ROUNDING

from mtlkit import log
from mtlkit.config.composition import compose as compose_config
from mtlkit.run import checksums
from mtlkit.run.experiment import Experiment
from mtlkit.run.inference import evaluate_run, load_run

TINY = [
    "task=[segmentation,attributes]",
    "data.size=[32,32]",
    "data.train_size=8",
    "data.val_size=4",
    "data.batch_size=4",
    "model.encoder=test_resnet",
    "model.levels=null",
    "trainer.max_epochs=null",
    "trainer.log_every=1",
    "trainer.eval_every=2",
    "trainer.schedule=constant",
    "trainer.ema=0.5",
]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ema")

    def run(name, *words, resume=False):
        own = [f"data.root={folder / 'cache'}", f"output_dir={folder / name}"]
        return Experiment.compose("scenes", [*TINY, *own, *words]).run(resume=resume)

    return run


def saved(run, name="last"):
    """Returns the averaged weights and the weights themselves."""
    folder = run / "checkpoints" / name
    return load_file(folder / "model.safetensors"), torch.load(folder / "training.pt", weights_only=True)["weights"]


def test_weights_and_statistics_are_averaged_and_counters_copied(toys):
    engine = toys.make_engine("gradnorm", ema=0.9, encoder=lambda: toys.ToyLateEncoder(batch_norm=True), accumulation=2)
    expected = {name: value.clone() for name, value in engine.network.state_dict().items()}
    batches = [toys.make_batch(number) for number in range(6)]
    for number, batch in enumerate(batches):
        engine.train_step(batch)
        if number % 2:  # the last micro-batch of a step
            for name, value in engine.network.state_dict().items():
                whole = not value.is_floating_point()
                expected[name] = value.clone() if whole else 0.9 * expected[name] + 0.1 * value
    found = engine.averaged.model.state_dict()
    assert any(name.endswith("running_mean") for name in found)
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value.double(), rtol=ROUNDING, atol=ROUNDING), name
    moved = [name for name, value in engine.network.state_dict().items() if not torch.equal(value, found[name])]
    assert len(moved) > 5
    assert engine.predictor.model is engine.averaged.model
    assert not engine.averaged.model.training


def test_a_step_that_the_loss_scaler_skips_does_not_move_the_average(toys, monkeypatch):
    engine = toys.make_engine(ema=0.5)
    before = {name: value.clone() for name, value in engine.averaged.model.state_dict().items()}
    monkeypatch.setattr(type(engine.optimizer), "step_was_skipped", True)
    engine.train_step(toys.make_batch())
    assert all(torch.equal(value, before[name]) for name, value in engine.averaged.model.state_dict().items())


def test_training_is_the_same_with_and_without_an_average(toys):
    one, two = toys.make_engine("rotograd", ema=0.9), toys.make_engine("rotograd")
    for number in range(3):
        for engine in (one, two):
            engine.train_step(toys.make_batch(number))
    assert two.averaged.model is two.network
    other = two.network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.network.state_dict().items())


@pytest.mark.parametrize("launcher", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_splits_the_weights_is_refused(toys, monkeypatch, launcher):
    """Accelerate has these launchers for GPUs only, so only their name is used here."""
    make = toys.make_accelerator

    class Launched:
        """The accelerator of this process, which says that another launcher started it."""

        distributed_type = DistributedType(launcher)
        deepspeed_plugin = SimpleNamespace(deepspeed_config={})

        def __init__(self, config):
            self.__dict__["own"] = make(config)

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(toys, "make_accelerator", Launched)
    message = rf"trainer.ema: {launcher} splits the weights over the processes, .* Set trainer.ema=null, or launch with"
    with pytest.raises(ValueError, match=message):
        toys.make_engine(ema=0.9)
    assert toys.make_engine().averaged.model is not None  # without an average, nothing is refused


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_figures_checkpoints_and_predictions_are_of_the_average(train, precision):
    run = train(precision, "trainer.max_steps=2", f"trainer.precision={precision}")
    averaged, weights = saved(run)
    assert averaged.keys() == weights.keys()
    assert any(not torch.equal(value, weights[name]) for name, value in averaged.items())
    predictor = load_run(run, "last").predictor
    assert all(torch.equal(value, averaged[name]) for name, value in predictor.model.state_dict().items())
    logged = [record for record in log.read_log(run / "metrics.jsonl") if record["split"] == "val"][-1]
    figures = evaluate_run(run, name="last")
    assert len(figures) > 3
    assert all(logged[name] == value for name, value in figures.items())
    # The weights themselves have other figures, so the lines above can fail.
    path = run / "checkpoints" / "last" / "model.safetensors"
    save_file(weights, path)
    checksums.seal(path.parent)
    other = evaluate_run(run, name="last")
    assert any(other[name] != value for name, value in figures.items())


def test_two_steps_and_two_after_a_resume_equal_four(train):
    """Also with a frozen stem and stage, another optimizer and a rate for each layer."""
    words = ("trainer.optimizer=lamb", "trainer.layer_decay=0.5", "model.freeze=1")
    whole = train("whole", "trainer.max_steps=4", *words)
    train("half", "trainer.max_steps=2", *words)
    half = train("half", "trainer.max_steps=4", *words, resume=True)
    for one, two in zip(saved(whole), saved(half), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    logs = [log.read_log(run / "metrics.jsonl") for run in (whole, half)]
    records = [[record for record in found if record["split"] == "val"][-1] for found in logs]
    assert json.dumps(records[0]) == json.dumps(records[1])


def test_the_log_and_the_report_say_it(train, capsys):
    run = train("said", "trainer.max_steps=2", "balancer=rotograd")
    info = {k: v for r in log.read_log(run / "metrics.jsonl") if r["split"] == "info" for k, v in r.items()}
    assert info["ema"] == 0.5
    text = " ".join(info["model"])
    assert "have the average of the weights (trainer.ema=0.5)" in text
    assert "After 2 steps, 25% of the average are still the weights of the start." in text
    assert "The balancer's adapters are not averaged" in text
    assert "Figures of averaged weights (trainer.ema=0.5)." in (run / "report.html").read_text()


def test_a_run_that_starts_from_averaged_weights_says_so(train):
    first = train("first", "trainer.max_steps=2")
    second = train("second", "trainer.max_steps=2", f"model.init_from={first}")
    assert re.search(r"Starts from .*averaged weights, trainer.ema=0.5", (second / "metrics.jsonl").read_text())


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1"])
def test_a_decay_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"trainer.ema: expected a number > 0 and < 1 or null, found"):
        compose_config("scenes", [f"trainer.ema={value}"])
