"""`mtlkit.Balanced`: a plain training loop has the engine's numbers."""

import pytest
import torch
from loops import Loop, engine_state
from tolerances import NETWORK, ROUNDING, SINGLE, SINGLE_SUM
from torch import nn

from mtlkit import BALANCERS, Balanced
from mtlkit.engine.scalars import scalars_of

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
    made[1] = toys.without(made[1], "segmentation", rows=slice(4))
    made[3] = toys.without(made[3], "depth")
    made[-2] = toys.without(toys.without(made[-2], "depth"), "attributes")
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


@pytest.mark.parametrize("setting", ["plain", "weighted"])
@pytest.mark.parametrize("name", ["uniform", "mgda", "uncertainty", "gradnorm"])
def test_the_heads_get_what_the_setting_says(toys, name, setting):
    engine, loop = pair(toys, name, engine={"decoder_gradients": setting}, decoder_gradients=setting)
    for batch in batches(toys, 4):
        engine.train_step(batch)
        loop.step(batch)
    assert_same(engine, loop)


METHODS = ["uniform", "rotograd", "mgda", "uncertainty", "gradnorm", "famo", "dtp", "adversarial", "graddrop", "moco"]


@pytest.mark.parametrize("divided", [True, False], ids=["divided", "summed"])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_needs_no_word(toys, name, divided):
    """The loop may divide by the number of micro-batches, as Accelerate does, or leave the sum."""
    optimizer = {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.0}
    engine, loop = pair(toys, name, engine={"accumulation": 2, **optimizer})
    made = batches(toys, 8)
    for first, second in zip(made[::2], made[1::2], strict=True):
        for batch in (first, second):
            engine.train_step(batch)
            loop.backward(batch, divide=2 if divided else 1)
        if not divided:
            for parameter in loop.net.parameters():
                if parameter.grad is not None:
                    parameter.grad /= 2
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    if divided:
        assert_same(engine, loop)
    for key, value in engine_state(engine).items():
        torch.testing.assert_close(loop.state()[key], value, rtol=NETWORK, atol=ROUNDING, equal_nan=True, msg=key)
    assert loop.balanced.number == 4


def test_a_scaler_changes_nothing_and_a_skipped_step_moves_nothing(toys):
    for name in METHODS:
        engine, loop = pair(toys, name, engine={"precision": "fp32"})
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)

        def step(batch, loop=loop, scaler=scaler):
            loop.backward(batch, backward=lambda loss: scaler.scale(loss).backward())
            scaler.step(loop.optimizer)
            scaler.update()
            loop.optimizer.zero_grad()

        for i in range(4):
            if i == 2:  # an overflow
                before, weight = loop.state(), loop.net.encoder.first.weight
                before = {key: value.clone() for key, value in before.items()}
                handle = weight.register_hook(lambda gradient: gradient * torch.inf)
                step(toys.make_batch(20))
                handle.remove()
                assert loop.balanced.number == 2
                assert all(torch.equal(value, loop.state()[key]) for key, value in before.items()), name
            engine.train_step(toys.make_batch(i))
            step(toys.make_batch(i))
        for key, value in engine_state(engine).items():
            torch.testing.assert_close(
                loop.state()[key], value, rtol=2 * SINGLE_SUM, atol=2 * SINGLE, equal_nan=True, msg=f"{name} {key}"
            )


@pytest.mark.parametrize(("name", "space"), SETTINGS)
def test_a_step_that_the_loop_gives_up_leaves_no_trace(toys, name, space):
    one, two = (pair(toys, name, space)[1] for _ in range(2))
    for i in range(4):
        if i in (0, 2):
            two.backward(toys.make_batch(50 + i))
            two.optimizer.zero_grad(set_to_none=i == 0)
        one.step(toys.make_batch(i))
        two.step(toys.make_batch(i))
    assert two.balanced.number == 4
    for key, value in one.state().items():
        assert torch.equal(value.nan_to_num(7), two.state()[key].nan_to_num(7)), key


def test_a_subset_of_the_tasks_equals_a_batch_without_the_others_labels(toys):
    for name in METHODS:
        engine, loop = pair(toys, name, engine={"optimizer": "adamw"})
        for i in range(4):
            batch = toys.make_batch(i)
            present = toys.TASK_NAMES if i != 2 else ("segmentation", "attributes")
            engine.train_step(batch if i != 2 else toys.without(batch, "depth"))
            loop.backward(batch, names=present)
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        assert_same(engine, loop)


def test_means_are_losses_too(toys):
    engine, loop = pair(toys, "mgda")
    for i in range(3):
        engine.train_step(toys.make_batch(i))
        _, losses = loop.losses(toys.make_batch(i))
        loop.balanced.loss({name: total / count for name, (total, count) in losses.items()}).backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    for key, value in engine_state(engine).items():
        torch.testing.assert_close(loop.state()[key], value, rtol=NETWORK, atol=ROUNDING, msg=key)


def test_the_loss_is_an_ordinary_scalar(toys):
    _, loop = pair(toys, "uniform")
    outputs, losses = loop.losses(toys.make_batch(0))
    loss = loop.balanced.loss(losses)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sum((total / count).item() for total, count in losses.values()))
    with torch.no_grad():
        _, again = loop.losses(toys.make_batch(0))
        assert float(loop.balanced.loss(again)) == pytest.approx(loss.item())
    (loss + 0.5 * outputs["attributes"].square().sum()).backward()  # a term of the loop's own
    loop.optimizer.step()
    assert loop.balanced.number == 1


def test_scalars_are_those_of_the_last_finished_step(toys):
    engine, loop = pair(toys, "rotograd")
    assert loop.balanced.scalars() == {}
    for i in range(2):
        step = engine.train_step(toys.make_batch(i))
        loop.step(toys.make_batch(i))
    assert loop.balanced.scalars() == scalars_of(step)
    loop.backward(toys.make_batch(5))
    assert loop.balanced.scalars() == scalars_of(step)


def test_observe_adds_the_gram_matrix(toys):
    _, loop = pair(toys, "uniform")
    loop.step(toys.make_batch(0))
    assert not any(key.startswith("cosine/") for key in loop.balanced.scalars())
    loop.balanced.observe = True
    loop.step(toys.make_batch(1))
    assert "cosine/segmentation/depth" in loop.balanced.scalars()


def test_a_fused_optimizer_that_skips_by_itself_moves_nothing(toys):
    """With a fused optimizer, a scaler calls `step` in any case, and the optimizer finds out that it must not move."""
    _, loop = pair(toys, "gradnorm", engine={"precision": "fp32"})
    loop.optimizer = torch.optim.Adam(loop.net.parameters(), lr=1e-2, fused=True)
    loop.balanced.follow(loop.optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for i, factor in enumerate((1.0, torch.inf, 1.0)):
        before = {key: value.clone() for key, value in loop.state().items()}
        handle = loop.net.encoder.first.weight.register_hook(lambda gradient, factor=factor: gradient * factor)
        loop.backward(toys.make_batch(i), backward=lambda loss: scaler.scale(loss).backward())
        scaler.step(loop.optimizer)
        scaler.update()
        loop.optimizer.zero_grad()
        handle.remove()
        same = [torch.equal(value, loop.state()[key]) for key, value in before.items()]
        assert all(same) if factor == torch.inf else not any(same[:4])
        assert loop.balanced.number == (1, 1, 2)[i]


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
