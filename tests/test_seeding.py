"""Only the seed decides initial weights, data and dropout, even if a balancer draws random numbers in every method."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore
from torch import nn

from mtlkit import BALANCERS, DECODERS, Decoder
from mtlkit.balancer import Balancer
from mtlkit.config.composition import compose
from mtlkit.config.schema import BalancerConfig
from mtlkit.data.loader import train_loader
from mtlkit.log import read_log
from mtlkit.run.build import build_dataset, build_order, build_parts, build_samples
from mtlkit.run.experiment import Experiment
from mtlkit.seeding import Turn, Turns
from mtlkit.waits import TIMES

WORDS = [
    "data.size=[32,32]",
    "data.train_size=8",
    "data.val_size=2",
    "data.batch_size=4",
    "data.augment=true",
    "task=[segmentation,attributes]",
    "model.encoder=test_resnet",
    "model.levels=null",
    "trainer.max_epochs=null",
    "trainer.max_steps=3",
    "trainer.log_every=1",
    "trainer.schedule=constant",
]


class Dropping(Decoder):
    """A linear map of the deepest level's mean, after dropout."""

    dense = False

    def __init__(self, info, out_channels):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(info.channels[-1], out_channels)

    def forward(self, features):
        return self.out(self.drop(features[-1].mean(dim=(2, 3))))


class Noisy(Balancer):
    """Plain summing that draws random numbers of all kinds wherever it is called."""

    drawn = ()

    def __init__(self, tasks):
        super().__init__(tasks)
        self.draw("constructor")

    def draw(self, where):
        numbers = (where, float(torch.rand(())), float(np.random.rand()), random.random())
        type(self).drawn = (*self.drawn, numbers)

    def setup(self, tasks, encoder):
        self.draw("setup")

    def adapter(self, task, features):
        self.draw("adapter")
        return features

    def objective(self, step):
        self.draw("objective")
        return super().objective(step)

    def combine(self, step):
        self.draw("combine")
        return super().combine(step)

    def after_model(self, step):
        self.draw("after_model")

    def after_step(self, step):
        self.draw("after_step")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(BALANCERS._classes, "noisy", Noisy)
    monkeypatch.setitem(DECODERS._classes, "dropping", Dropping)
    monkeypatch.setattr(Noisy, "drawn", ())
    yield
    ConfigStore.instance().repo.get("balancer", {}).pop("noisy.yaml", None)  # `compose` keeps the names there


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def start(cache):
    """Returns the untrained model's state and the first batch of a run with the seed 0 and this balancer."""
    config = compose("scenes", [*WORDS, f"data.root={cache}"])

    def make(name, seed=0):
        changed = replace(config, seed=seed, balancer=BalancerConfig(name=name))
        samples = build_samples(changed, build_dataset(changed, "train"), augment=True)
        parts = build_parts(changed, samples.dataset.targets, samples.image_size)
        batch = next(iter(train_loader(samples, build_order(changed, samples.dataset))))
        return parts.model.state_dict(), {"image": batch["image"], **batch["targets"]}

    return make


@pytest.fixture(scope="module")
def uniform(start):
    return start("uniform")


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value.nan_to_num(7), two[key].nan_to_num(7)), key


@pytest.mark.parametrize("name", [*BALANCERS.names(), "noisy"])
def test_every_balancer_begins_with_the_same_network_and_the_same_batch(start, uniform, name):
    for one, two in zip(start(name), uniform, strict=True):
        assert_equal(one, two)


def test_another_seed_gives_another_network_and_another_batch(start, uniform):
    for one, two in zip(start("uniform", seed=1), uniform, strict=True):
        assert any(not torch.equal(one[key], two[key]) for key in one)


def run(cache, folder, *words, resume=False):
    words = [*WORDS, f"data.root={cache}", f"output_dir={folder}", "task.attributes.decoder=dropping", *words]
    Experiment.compose("scenes", words).run(resume=resume)
    records = [record for record in read_log(folder / "metrics.jsonl") if record["split"] in ("train", "val")]
    return [{k: v for k, v in record.items() if k not in TIMES and not k.startswith("lr/")} for record in records]


@pytest.mark.parametrize("words", [[], ["trainer.accumulation=2"]], ids=["whole", "accumulated"])
def test_a_balancer_that_draws_everywhere_changes_no_dropout(cache, tmp_path, words):
    plain = run(cache, tmp_path / "plain", "balancer=uniform", *words)
    noisy = run(cache, tmp_path / "noisy", "balancer=noisy", *words)
    assert noisy == plain
    places = {where for where, *_ in Noisy.drawn}
    assert places == {"constructor", "setup", "adapter", "objective", "combine", "after_model", "after_step"}


def test_a_resumed_run_goes_on_with_the_numbers_that_it_would_have_had(cache, tmp_path):
    """A resumed run has the same dropout, and the balancer draws the same numbers."""
    whole = run(cache, tmp_path / "whole", "balancer=noisy")
    drawn = [numbers for numbers in Noisy.drawn if numbers[0] in ("objective", "combine", "after_step")]
    Noisy.drawn = ()
    run(cache, tmp_path / "half", "balancer=noisy", "trainer.max_steps=2")
    resumed = run(cache, tmp_path / "half", "balancer=noisy", "trainer.max_steps=3", resume=True)
    assert [numbers for numbers in Noisy.drawn if numbers[0] in ("objective", "combine", "after_step")] == drawn
    assert resumed[-1] == whole[-1]


def test_dropout_differs_between_steps_micro_batches_and_processes_and_the_balancers_numbers_do_not():
    def numbers(seed, steps, process):
        turns, cpu, found = Turns(seed), torch.device("cpu"), []
        for step in steps:
            turns.next(step)
            turns.model(cpu, process)
            drawn = []
            for turn in (Turn.ADAPTER, Turn.COMBINE):
                with turns.hook(turn, cpu):
                    drawn.append(float(torch.rand(())))
            found.append((float(torch.rand(())), *drawn))
        return list(zip(*found, strict=True))

    one, two = numbers(0, (0, 0, 1), process=0), numbers(0, (0, 0, 1), process=1)
    assert one[1:] == two[1:]  # the balancer's decisions are the same on all processes
    assert len({*one[0], *two[0], *one[1], *one[2]}) == 12
    assert not set(numbers(1, (0, 0, 1), process=0)[0]) & set(one[0])


def test_a_hook_leaves_everybody_elses_random_numbers_alone():
    def draw():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    turns, cpu = Turns(0), torch.device("cpu")
    turns.next(0)
    turns.model(cpu)
    expected = [draw() for _ in range(2)]
    turns.model(cpu)
    first = draw()
    with turns.hook(Turn.COMBINE, cpu):
        inside = draw()
    assert [first, draw()] == expected
    assert inside not in expected
