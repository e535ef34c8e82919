"""Compares Rotograd's first version with its formulas: least-squares rotation, the leader's step, centres, weights."""

import sys
from pathlib import Path

import pytest
import torch

from mtlkit import BALANCERS, EncoderInfo
from mtlkit.balancers.rotograd_procrustes import nearest_rotations
from mtlkit.run import checkpoint
from mtlkit.state import stack
from mtlkit.step import Step

sys.path.insert(0, str(Path(__file__).parent))
from test_rotograd import NAMES, assert_rotation, assert_same, make_batch, make_engine, product, state_of
from tolerances import NETWORK, ROUNDING, SMALL

NAME = "rotograd_procrustes"


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(d, seed=0, size=1.0):
    generator = normal(d, d, seed=seed) * size
    return torch.linalg.matrix_exp(generator - generator.T)


def rotation_nearest(matrix, tolerance):
    (found,) = nearest_rotations(matrix[None], tolerance)
    return found


def distance(q, target, source):
    """Returns the sum that the rotation minimises."""
    return (source @ q.T - target).square().sum()


def test_no_rotation_brings_the_gradients_closer():
    target, source = normal(20, 5, seed=1), normal(20, 5, seed=2)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1, 1], dtype=torch.float64))
    for t, s in [(target, source), (source @ rotation(5), source), (source @ mirror, source), (target[:2], source[:2])]:
        best = rotation_nearest(t.T @ s, 1e-8)
        torch.testing.assert_close(best @ best.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=ROUNDING)
        assert torch.linalg.det(best) == pytest.approx(1)
        least = distance(best, t, s)
        for seed in range(200):
            assert distance(rotation(5, seed), t, s) > least
            assert distance(best @ rotation(5, seed, 1e-3), t, s) >= least - 1e-12  # nearby rotations are not better
    exact = rotation_nearest((source @ rotation(5)).T @ source, 1e-8)
    torch.testing.assert_close(exact, rotation(5).T, rtol=0, atol=1e-12)  # an exact rotation is found


def test_an_undetermined_rotation_is_the_one_nearest_to_the_present_one():
    target, source, one = normal(2, 6, seed=3), normal(2, 6, seed=4), torch.eye(6, dtype=torch.float64)
    best = rotation_nearest(target.T @ source, 1e-8)
    least = distance(best, target, source)
    basis = torch.linalg.svd(source).Vh  # the gradients do not determine its last four rows
    for seed in range(200):
        other = torch.block_diag(one[:2, :2], rotation(4, seed, 0.1 * (seed + 1) / 200))
        other = best @ basis.T @ other @ basis
        assert distance(other, target, source) == pytest.approx(least.item(), abs=1e-12)  # equally good,
        assert (other - one).norm() > (best - one).norm() - 1e-12  # but not nearer
    noise = 1e-15 * normal(6, 6, seed=5)  # the effect of another order of summation
    torch.testing.assert_close(rotation_nearest(target.T @ source + noise, 1e-8), best, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(rotation_nearest(torch.zeros_like(one), 1e-8), one, rtol=0, atol=SMALL)


def textbook(engine, batch):
    """Returns z, z_k and the gradients at z_k by plain autograd, one row per task; their norms at z; and the losses."""
    image, targets = engine.prepare(batch)
    (z,) = engine.network.encoder(image)
    z = z.detach()
    adapted, gradients, norms, losses = {}, {}, {}, {}
    for name, task in engine.tasks.items():
        own = z.clone().requires_grad_()
        (adapted[name],) = engine.balancer.adapter(name, [own])
        total, count = task.loss(engine.network.decoders[name]([adapted[name]]), targets[name])
        losses[name] = (total / count).detach()
        gradients[name], at_z = torch.autograd.grad(total / count, [adapted[name], own])
        norms[name] = at_z.norm()
    return z, adapted, gradients, norms, losses


@pytest.mark.parametrize("update", ["closed_form_step", "jump", "sgd"])
def test_a_step_moves_the_leader_by_the_papers_formulas(update):
    engine = make_engine(NAME, {"lr": 0.1, "update": update}, width=4, labels=5)  # 5 labels determine 4 channels
    balancer = engine.balancer
    for number in range(2):
        engine.train_step(make_batch(number, labels=5))
    batch, lr = make_batch(2, labels=5), 1.0 if update == "jump" else 0.1 * 0.99**2
    z, adapted, gradients, norms, _ = textbook(engine, batch)
    old = {name: balancer.rotation[name].detach().clone() for name in NAMES}
    centre = balancer.centre.clone()
    centres = {name: balancer.offset[name] + old[name] @ centre for name in NAMES}
    weighted = sum(balancer.weight[name] * gradients[name] @ old[name] for name in NAMES).detach()
    engine.train_step(batch)

    new_centre = centre - lr * (centre - z.mean(0))
    torch.testing.assert_close(balancer.centre, new_centre, rtol=NETWORK, atol=ROUNDING)
    for name in NAMES:
        if update == "sgd":
            r = old[name].clone().requires_grad_()
            objective = distance(r, gradients[name].detach(), weighted) / (norms[name] * weighted.norm())
            (gradient,) = torch.autograd.grad(objective, r)
            gradient = (gradient - old[name] @ gradient.T @ old[name]) / 2  # in the tangent space
            moved = old[name] - lr * gradient
        else:
            u, _, vh = torch.linalg.svd(gradients[name].T @ weighted)
            u[:, -1] *= torch.linalg.det(u @ vh)
            moved = old[name] - lr * (old[name] - u @ vh)
        u, _, vh = torch.linalg.svd(moved)
        torch.testing.assert_close(balancer.rotation[name], u @ vh, rtol=0, atol=NETWORK)
        new_task_centre = centres[name] - lr * (centres[name] - adapted[name].detach().mean(0))
        found = balancer.offset[name] + balancer.rotation[name] @ balancer.centre
        torch.testing.assert_close(found, new_task_centre, rtol=NETWORK, atol=ROUNDING)


def test_the_forward_is_the_rigid_motion_about_the_centres():
    engine = make_engine(NAME, {"lr": 0.3, "dim": 5}, width=8)
    for number in range(3):
        engine.train_step(make_batch(number))
    balancer, z = engine.balancer, normal(3, 8, 2, 2)  # maps work like vectors
    (found,) = balancer.adapter("a", [z])
    centred = z[:, :5] - balancer.centre.view(5, 1, 1)
    task_centre = balancer.offset["a"] + balancer.rotation["a"] @ balancer.centre
    expected = torch.einsum("ij,bjhw->bihw", balancer.rotation["a"], centred) + task_centre.view(5, 1, 1)
    torch.testing.assert_close(found[:, :5], expected, rtol=0, atol=ROUNDING)
    assert torch.equal(found[:, 5:], z[:, 5:])
    assert balancer.centre.abs().max() > 0.01


@pytest.mark.parametrize("update", ["closed_form_step", "jump", "sgd"])
def test_the_span_of_the_gradients_is_all_that_matters(update):
    balancer = BALANCERS.build(NAME, tasks=("a", "b"), update=update)
    right, before = normal(40, 6, seed=2), torch.stack([rotation(40), rotation(40, 1)])
    left = torch.stack([normal(40, 6, seed=1), normal(40, 6, seed=3) * torch.arange(6)])  # of ranks 6 and 5
    halves = [(left[:, :, :2], right[:, :2]), (left[:, :, 2:], right[:, 2:])]
    few = before + product(balancer._turn(before, halves, 0.3))
    whole = before + product(balancer._turn(before, [(a @ b.T, None) for a, b in halves], 0.3))
    torch.testing.assert_close(few, whole, rtol=0, atol=NETWORK)
    assert (few - before).abs().max() > 0.01


@pytest.mark.parametrize("width", [4, 12, 64])
def test_micro_batches_add_up(width):
    options = {"lr": 0.2}
    engine = make_engine(NAME, options, width, accumulation=2)
    alike = make_engine(NAME, options, width, accumulation=2)
    halves = [make_batch(rows=rows) for rows in (slice(0, 4), slice(4, 8))]
    for half, other in zip(halves, halves[::-1], strict=True):
        engine.train_step(half)
        alike.train_step(other)
    assert engine.step == 1
    assert_same(state_of(engine), state_of(alike), tolerance=1e-9)  # all micro-batches count equally
    fresh = make_engine(NAME, options, width, accumulation=2)
    mean = torch.cat([fresh.network.encoder(fresh.prepare(half)[0])[0] for half in halves]).mean(0).detach()
    torch.testing.assert_close(engine.balancer.centre, 0.2 * mean)


def test_the_weights_take_gradnorms_direction_and_never_pass_the_target():
    engine = make_engine(NAME, {"weight_lr": 0.02, "alpha": 0.7, "lr_decay": 1.0}, width=4)
    balancer, moves = engine.balancer, []
    for number in range(30):
        batch = make_batch(number % 3)
        *_, norms, losses = textbook(engine, batch)
        n, loss = (torch.stack([found[name] for name in NAMES]) for found in (norms, losses))
        w = torch.stack([balancer.weight[name].detach() for name in NAMES])
        step = engine.train_step(batch)
        torch.testing.assert_close(step.weights, w)  # the encoder's gradient has these weights
        rates = loss / torch.stack([balancer.initial_loss[name] for name in NAMES])
        target = (w * n).mean() * (rates / rates.mean()) ** 0.7
        moved = torch.where((w * n - target).abs() > 0.02 * n, w - 0.02 * torch.sign(w * n - target), target / n)
        found = torch.stack([balancer.weight[name].detach() for name in NAMES])
        torch.testing.assert_close(found, moved * 3 / moved.sum(), rtol=NETWORK, atol=ROUNDING)
        moves.append((w * n - target).abs() > 0.02 * n)
    assert {True, False} == {bool(value) for value in torch.stack(moves).flatten()}  # both cases occurred


def test_an_absent_task_keeps_its_features_and_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    whole, half, second = (make_engine(NAME, {"lr": 0.2}) for _ in range(3))
    z = normal(5, 64)
    for number in range(4):
        before = whole.balancer.adapter("a", [z])[0].clone()
        whole.train_step(make_batch(number, absent=("a",) if number == 2 else ()))
        assert torch.equal(before, whole.balancer.adapter("a", [z])[0]) == (number == 2)
        if number < 2:
            half.train_step(make_batch(number))
    checkpoint.save_checkpoint(half, tmp_path / "half")
    checkpoint.load_checkpoint(second, tmp_path / "half")
    second.train_step(make_batch(2, absent=("a",)))
    second.train_step(make_batch(3))
    assert_same(state_of(whole), state_of(second))


@pytest.mark.parametrize(
    ("update", "lr", "n", "same_direction"),  # 2 samples span 4 of the 8 channels, 8 samples span all
    [
        ("closed_form_step", 0.02, 2, True),
        ("closed_form_step", 0.3, 8, False),
        ("sgd", 0.3, 8, True),
        ("jump", 1, 2, False),
    ],
)
def test_a_thousand_steps_in_float32_leave_a_rotation(update, lr, n, same_direction):
    torch.manual_seed(0)
    balancer = BALANCERS.build(NAME, tasks=("a",), update=update)
    balancer.setup({}, EncoderInfo((8,), (0,)))
    start = balancer.rotation["a"].detach().clone()
    for number in range(1000):
        seed = 0 if same_direction else number
        left, right = normal(n, 8, seed=seed).T.float(), normal(n, 8, seed=-1 - seed).T.float()
        step = Step(balancer, number=number, rate=lr)
        step.note(("sizes", "a"), torch.ones(2, dtype=torch.float64))
        step.note("sums", torch.ones(9))
        step.note("factors", (left[None] / left.norm(), right / right.norm()))
        balancer.after_step(step)
    assert_rotation(balancer.rotation["a"])
    assert (balancer.rotation["a"] - start).abs().max() > 0.1


def test_a_negative_loss_is_refused_by_name():
    engine = make_engine(NAME, {})
    loss = engine.tasks["b"].loss
    engine.tasks["b"].loss = lambda output, target: (-loss(output, target)[0], loss(output, target)[1])
    with pytest.raises(ValueError, match="loss of task 'b' is -"):
        engine.train_step(make_batch())


def weights_after_steps(sizes, **options):
    """Returns the weights after these steps. Each step is a dictionary task -> (norm, loss)."""
    balancer = BALANCERS.build(NAME, tasks=("a", "b", "c"), weight_lr=0.1, lr_decay=1.0, **options)
    balancer.setup({}, EncoderInfo((4,), (0,)))
    for number, found in enumerate(sizes):
        step = Step(balancer, number=number, rate=balancer.lr)
        for task, size in found.items():
            step.note(("sizes", task), torch.tensor(size, dtype=torch.float64))
        # The two gradients are equal, so the rotations do not move.
        step.note("factors", (torch.ones(3, 4, 1), torch.ones(4, 1)))
        step.note("sums", torch.ones(5))
        balancer.after_step(step)
    return [balancer.weight[task].item() for task in "abc"]


@pytest.mark.parametrize("loss", [0.0, 0.5])
def test_a_task_without_a_first_loss_is_left_out_and_the_others_are_balanced(loss):
    """By hand with alpha 1: the rates of a and b are 1/2 and 1. Relative to their mean, they are 2/3 and 4/3."""
    first = {"a": (1.0, 4.0), "b": (1.0, 1.0), "c": (0.0, 0.0)}  # all at their targets
    second = {"a": (2.0, 2.0), "b": (1.0, 1.0), "c": (0.0, 0.0)}  # mean 1.5, targets 1 and 2: a falls, b grows
    found = weights_after_steps([first, second], alpha=1.0)
    assert found == pytest.approx([0.9, 1.1, 1.0])
    # A first loss at a later step gives a rate of 1. The mean of 1/2, 1 and 1 is 5/6.
    third = {"a": (1 / 0.9, 2.0), "b": (1 / 1.1, 1.0), "c": (1.0, loss)}  # all w_k n_k are 1
    moved = [0.8, 1.1 + 0.1, 1.1]
    expected = [0.9 - 0.1, 1.2, 1.0] if loss == 0 else [w * 3 / sum(moved) for w in moved]
    assert weights_after_steps([first, second, third], alpha=1.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("alpha", "moved"),
    [
        (0.0, (1.1 / 1.2, 1.1)),  # targets 1.1: a reaches its own, b moves by 0.1
        (0.2, (1.1 * 1.5**0.2 / 1.2, 1.1 * 0.5**0.2)),  # targets 1.193 and 0.958: both are reached
        (1.5, (1.1, 0.9)),  # targets 2.02 and 0.389
    ],
)
def test_alpha_favours_the_slow_task(alpha, moved):
    """By hand: the mean of the lengths 1.2 and 1 is 1.1. Relative to their mean, the rates are 1.5 and 0.5."""
    sizes = [{"a": (1.0, 1.0), "b": (1.0, 3.0)}, {"a": (1.2, 1.0), "b": (1.0, 1.0)}]
    expected = [*(2 * w / sum(moved) for w in moved), 1.0]  # c has no values
    assert weights_after_steps(sizes, alpha=alpha) == pytest.approx(expected)


def test_a_task_whose_gradient_is_zero_keeps_its_share_of_the_weights():
    balancer = BALANCERS.build(NAME, tasks=("a", "b", "c"), weight_lr=0.1)
    sizes = {"a": (1.0, 2.0), "b": (0.0, 2.0), "c": (3.0, 2.0)}  # |G_k|, L_k
    balancer._move_weights({task: torch.tensor(size, dtype=torch.float64) for task, size in sizes.items()}, 0.1)
    # The mean length is 4/3. a's gradient is shorter, so a gains 0.1. c's is longer, so c loses 0.1. b does not change.
    torch.testing.assert_close(stack(balancer.weight, ("a", "b", "c")), torch.tensor([1.1, 1.0, 0.9]))
