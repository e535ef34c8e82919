"""`mtlkit.Balanced`: a plain training loop has the engine's numbers."""

import pytest
import torch
from loops import Loop, engine_state
from torch import nn

from mtlkit import BALANCERS, Balanced

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


def test_a_layer_of_two_heads_keeps_its_gradient_when_one_of_the_tasks_has_no_label():
    encoder, layer = nn.Linear(3, 4), nn.Linear(4, 1)
    balanced = Balanced("uniform", tasks=("a", "b"))
    balanced.follow(torch.optim.SGD([*encoder.parameters(), *layer.parameters()], lr=0.1))
    z = balanced(encoder(torch.rand(8, 3)))
    losses = {"a": layer(z["a"]).square().mean(), "b": (0 * layer(z["b"]).sum(), 0)}
    with pytest.warns(UserWarning, match="share 2 parameters behind the features"):
        loss = balanced.loss(losses)
    loss.backward()
    assert layer.weight.grad.any()
