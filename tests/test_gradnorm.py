"""Compares GradNorm's weights with numbers worked out by hand: exponent, first losses of 0, negative losses, rate."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from mtlkit import BALANCERS
from mtlkit.step import Step


def gradients(balancer, norms, losses):
    """Returns the gradients of the weights in a step with these lengths and losses. A weight without one has None."""
    balancer.zero_grad()
    step = Step(balancer)
    step.tasks, step.losses = balancer.tasks, torch.tensor(losses, dtype=torch.float64)
    step.gradients = SimpleNamespace(gram=lambda: torch.diag(torch.tensor(norms, dtype=torch.float64) ** 2))
    assert balancer.combine(step).tolist() == [1.0] * len(norms)
    found = [None if weight.grad is None else weight.grad.item() for weight in balancer.weight.values()]
    balancer.after_step(step)
    return found


@pytest.mark.parametrize(("alpha", "signs"), [(0.0, (1, -1)), (0.2, (1, 1)), (1.5, (-1, 1))])
def test_alpha_favours_the_slow_task(alpha, signs):
    """By hand: the mean of the lengths 1.2 and 1 is 1.1. Relative to their mean, the rates are 1.5 and 0.5.

    The targets are 1.1 and 1.1 for alpha 0, 1.193 and 0.958 for 0.2, 2.02 and 0.389 for 1.5.
    """
    balancer = BALANCERS.build("gradnorm", tasks=("a", "b"), alpha=alpha)
    gradients(balancer, [1.0, 1.0], [1.0, 3.0])
    assert gradients(balancer, [1.2, 1.0], [1.0, 1.0]) == pytest.approx([1.2 * signs[0], signs[1]])


def test_a_task_whose_losses_have_been_0_so_far_is_left_out():
    """By hand with alpha 1: the rates of a and b are 1/2 and 1. Relative to their mean, they are 2/3 and 4/3."""
    balancer = BALANCERS.build("gradnorm", tasks=("a", "b", "c"), alpha=1.0)
    assert gradients(balancer, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == [None, None, None]
    assert gradients(balancer, [1.0, 1.0, 0.0], [4.0, 1.0, 0.0]) == [0.0, 0.0, None]  # both are at their targets
    # The mean length is 1.5, the targets are 1 and 2.
    assert gradients(balancer, [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]) == [2.0, -1.0, None]
    # c's first loss of 5 gives a rate of 1: mean rate 5/6, relative rates 0.6, 1.2 and 1.2, mean length 4/3.
    assert gradients(balancer, [2.0, 1.0, 1.0], [2.0, 1.0, 5.0]) == [2.0, -1.0, -1.0]
    # All losses are 0. No rate is NaN, and all gradients are 0.
    assert gradients(balancer, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]


def test_the_others_are_balanced_from_end_to_end(toys):
    engine = toys.make_engine("gradnorm")
    loss = engine.tasks["depth"].loss
    engine.tasks["depth"].loss = lambda output, target: (0 * loss(output, target)[0], loss(output, target)[1])
    for number in range(3):
        engine.train_step(toys.make_batch(number))
    weights = {task: weight.item() for task, weight in engine.balancer.weight.items()}
    assert weights.pop("depth") == 1
    assert sum(weights.values()) == pytest.approx(2)
    assert all(abs(weight - 1) > 0.01 for weight in weights.values())  # lr is 0.025


@pytest.mark.parametrize("name", ["gradnorm", "rotograd_procrustes"])
def test_a_negative_loss_is_refused_by_name(toys, name):
    engine = toys.make_engine(name)
    loss = engine.tasks["depth"].loss
    engine.tasks["depth"].loss = lambda output, target: (-loss(output, target)[0], loss(output, target)[1])
    with pytest.raises(ValueError, match=r"loss of task 'depth' is -.*GradNorm's weights need losses >= 0"):
        engine.train_step(toys.make_batch())


def test_the_rate_is_lr_and_decays(toys):
    """While a gradient does not change, Adam's steps are lr times a sign: 0.1, then 0.05."""
    engine = toys.make_engine("gradnorm", options={"lr": 0.1, "lr_decay": 0.5}, lr=1e-12)
    balancer, seen = engine.balancer, [torch.ones(3, dtype=torch.float64)]
    # The scaling after a step is off, because it would hide how far the weights move.
    balancer.after_step = lambda step: seen.append(torch.stack([w.detach().clone() for w in balancer.weight.values()]))
    for _ in range(2):
        engine.train_step(toys.make_batch())
    first, second = ((new - old).abs() for old, new in itertools.pairwise(seen))
    assert first.tolist() == pytest.approx([0.1] * 3)
    assert second.tolist() == pytest.approx([0.05] * 3)
