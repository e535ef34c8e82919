"""`mtlkit.Balanced`: a plain training loop has the engine's numbers."""

import pytest
import torch
from loops import Loop, engine_state

from mtlkit import BALANCERS

SETTINGS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]
OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}


def pair(toys, name, space=None, engine=None, **more):
    """Returns an engine and a loop with the same start."""
    options = OPTIONS.get(name, {}) | ({} if space in (None, BALANCERS.get(name).spaces[0]) else {"space": space})
    made = toys.make_engine(name, options=options, **(engine or {}))
    made.steps_per_epoch = 3  # so that ten steps have more than one epoch
    return made, Loop(made, name, options, **more)


def assert_same(engine, loop):
    expected, found = engine_state(engine), loop.state()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value.nan_to_num(7), found[name].nan_to_num(7)), name


def batches(toys, number=10):
    """Some lack all labels of a task, or those of some samples."""
    made = [toys.make_batch(i) for i in range(number)]
    made[3] = toys.without(made[3], "depth")
    made[4] = toys.without(toys.without(made[4], "depth"), "attributes")
    made[6] = toys.without(made[6], "segmentation", rows=slice(4))
    return made


@pytest.mark.parametrize(("name", "space"), SETTINGS)
def test_ten_steps_equal_ten_steps_of_the_engine(toys, name, space):
    engine, loop = pair(toys, name, space)
    for batch in batches(toys):
        step = engine.train_step(batch)
        loop.step(batch)
        assert_same(engine, loop)
    assert loop.balanced.number == engine.step == 10
    assert step.tasks == toys.TASK_NAMES


@pytest.mark.parametrize("name", ["rotograd", "uncertainty"])
def test_a_first_look_in_inference_mode_does_not_spoil_the_training(toys, name):
    """Lightning evaluates before it trains. The state is moved to the features' precision at that time."""
    engine, loop = pair(toys, name)
    loop.balanced.float()
    with torch.inference_mode():
        loop.balanced.loss(loop.losses(toys.make_batch())[1])
    for batch in batches(toys):
        engine.train_step(batch)
        loop.step(batch)
    assert_same(engine, loop)
