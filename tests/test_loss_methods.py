"""Compares methods that use only losses, and d-grad, with their published formulas, computed by plain autograd."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SOLVED
from torch import nn

from mtlkit import BALANCERS, EncoderInfo
from mtlkit.engine.evaluation import output_sizes
from mtlkit.run import checkpoint
from mtlkit.state import stack

NAMES = ("segmentation", "depth", "attributes")
METHODS = [
    ("rlw", {}),
    ("dwa", {"temperature": 0.5}),
    ("gls", {}),
    ("imtl_l", {}),
    ("stch", {"mu": 0.1, "preference": {"depth": 3.0}, "ideal": {"attributes": 0.2}, "warmup_epochs": None}),
    ("stch", {"mu": 0.5, "warmup_epochs": 1}),
    ("famo", {"min_losses": {"segmentation": 0.1}}),
    ("dtp", {"gamma": 2.0}),
    ("d_grad", {}),
    ("d_grad", {"level": 0}),
]
methods = pytest.mark.parametrize(("name", "options"), METHODS, ids=lambda v: v if isinstance(v, str) else str(v))


def build(name, tasks=("a", "b"), **options):
    return BALANCERS.build(name, tasks=tasks, **options)


def fake_step(tasks, losses, epoch=0, **more):
    """Returns what a loss method sees of a step with given losses."""
    losses = torch.tensor(losses, dtype=torch.float64)
    return SimpleNamespace(tasks=tasks, losses=losses, epoch=epoch, number=0, extras={}, **more)


def weights_of(balancer, step):
    """Returns the derivatives of the objective by the losses."""
    losses = step.losses
    step.losses = losses.clone().requires_grad_()
    (found,) = torch.autograd.grad(balancer.objective(step), step.losses)
    step.losses = losses
    return found


def plain_forward(engine, batch):
    """Returns a copy of the network, and its outputs and losses (k,) with a graph, without mtlkit's step."""
    image, targets = engine.prepare(batch)
    network = copy.deepcopy(engine.network)
    levels, outputs, losses = network.encoder(image), {}, []
    for name, task in engine.tasks.items():
        outputs[name] = network.decoders[name](engine.balancer.adapter(name, levels))
        if task.dense:
            outputs[name] = nn.functional.interpolate(
                outputs[name], output_sizes(engine.tasks, targets)[name], mode="bilinear"
            )
        total, count = task.loss(outputs[name], targets[name])
        losses.append(total / count)
    return network, outputs, torch.stack(losses)


def some_depths_right(engine):
    """Returns the engine with a depth decoder that starts within the range of the data."""
    engine.network.decoders["depth"].coarse.bias.data.fill_(2.0)
    return engine


def step_gradients(engine, batch):
    """Returns one step and its gradients. No parameter moves."""
    engine._update = lambda *_: None
    step = engine.train_step(batch)
    return step, {name: p.grad for name, p in engine.network.named_parameters()}


XI, S, BOUND = (0.3, -0.2, 0.5), (0.3, -0.2, 0.1), 0.1


def published_objective(name, options, losses, right):
    """Returns the scalar whose gradient the encoder must get. Values that the papers hold constant are detached."""
    constant = losses.detach()
    if name == "gls":
        return losses.prod() ** (1 / 3)
    if name == "imtl_l":
        return sum(math.exp(s) * loss - s for s, loss in zip(S, losses, strict=True))
    if name == "stch" and options["warmup_epochs"] is not None:
        return losses[0].log() + losses[1].log() + losses[2].log()
    if name == "stch":
        mu, shares, ideal = options["mu"], (0.2, 0.6, 0.2), (0.0, 0.0, 0.2)
        terms = (torch.exp(p * (loss - z) / mu) for p, loss, z in zip(shares, losses, ideal, strict=True))
        return mu * torch.log(sum(terms))
    if name == "famo":
        exp = torch.tensor(XI, dtype=torch.float64).exp()
        z, bounds = exp / exp.sum(), torch.tensor([BOUND, 0, 0], dtype=torch.float64)
        c = 1 / (z / (constant - bounds)).sum()
        return (c * z * (losses - bounds).log()).sum()
    assert name == "dtp"
    return (-((1 - right) ** 2) * right.log() * losses).sum()


@pytest.mark.parametrize(
    ("name", "options"), [m for m in METHODS if m[0] in ("gls", "imtl_l", "stch", "famo", "dtp")], ids=str
)
def test_encoder_and_decoders_descend_on_the_published_objective(toys, name, options):
    engine, batch = some_depths_right(toys.make_engine(name, options=options)), toys.make_batch()
    for state, values in (("xi", XI), ("log_scale", S)):
        if hasattr(engine.balancer, state):
            for task, value in zip(NAMES, values, strict=True):
                getattr(engine.balancer, state)[task].data.fill_(value)
    network, outputs, losses = plain_forward(engine, batch)
    _, targets = engine.prepare(batch)
    depth, valid = targets["depth"], targets["depth"] > 0
    ratio = torch.maximum(outputs["depth"] / depth, depth / outputs["depth"])[valid]
    labelled, known = targets["segmentation"] != -1, ~targets["attributes"].isnan()
    right = [
        (outputs["segmentation"].argmax(1) == targets["segmentation"])[labelled].double().mean(),
        ((ratio > 0) & (ratio < 1.25)).double().mean(),
        ((outputs["attributes"].sigmoid() > 0.5).double() == targets["attributes"])[known].double().mean(),
    ]
    objective = published_objective(name, options, losses, torch.stack(right))
    parameters = dict(network.named_parameters())
    expected = torch.autograd.grad(objective, list(parameters.values()))
    step, found = step_gradients(engine, batch)
    for key, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[key], gradient, rtol=SOLVED, atol=ROUNDING)
    assert step.weights.std() > 1e-3  # the weights differ


@methods
def test_a_resume_across_epochs_with_absent_tasks_changes_nothing(toys, tmp_path, name, options):
    def engine():
        made = toys.make_engine(name, options=options)
        made.steps_per_epoch = 2
        return made

    def train(engine, steps):
        for number in range(engine.step, engine.step + steps):
            batch = toys.make_batch(number)
            for task in {1: ("depth",), 2: ("attributes",), 3: ("attributes", "depth")}.get(number, ()):
                batch = toys.without(batch, task)
            engine.train_step(batch)

    whole, half, second = engine(), engine(), engine()
    train(whole, 8)
    train(half, 5)
    checkpoint.save_checkpoint(half, tmp_path / "half")
    checkpoint.load_checkpoint(second, tmp_path / "half")
    train(second, 3)
    for one, two in ((whole.network, second.network), (whole.balancer, second.balancer)):
        assert one.state_dict().keys() == two.state_dict().keys()
        for key, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[key]), key


@pytest.mark.parametrize(("name", "options"), [m for m in METHODS if m[0] not in ("rlw", "gls")], ids=str)
def test_an_absent_task_keeps_its_state(toys, name, options):
    engine = toys.make_engine(name, options=options)
    engine.steps_per_epoch = 2
    for number in range(5):
        engine.train_step(toys.make_batch(number))

    def state():
        return {k: v.clone() for k, v in engine.balancer.state_dict().items() if "depth" in k.split(".")}

    before = state()
    assert before
    step = engine.train_step(toys.without(toys.make_batch(5), "depth"))
    assert step.tasks == ("segmentation", "attributes")
    assert all(torch.equal(before[key], value) for key, value in state().items())


@pytest.mark.parametrize("name", ["gls", "famo"])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_weights_of_geometric_methods_do_not_depend_on_a_common_scale(name, scale):
    balancer, losses = build(name, tasks=NAMES), torch.tensor([0.5, 2.0, 30.0])
    torch.testing.assert_close(balancer.weights(scale * losses), balancer.weights(losses))


# -- losses of zero and below --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [("gls", {}), ("imtl_l", {}), ("stch", {"warmup_epochs": 0}), ("famo", {})], ids=str
)
def test_a_loss_of_zero_leaves_the_other_tasks_as_if_it_were_absent(name, options):
    balancer = build(name, tasks=("a", "b", "c"), **options)
    with_zero = weights_of(balancer, fake_step(("a", "b", "c"), (0.5, 0.0, 3.0)))
    without = weights_of(balancer, fake_step(("a", "c"), (0.5, 3.0)))
    torch.testing.assert_close(with_zero[[0, 2]], without)
    assert with_zero[1] == 0
    assert weights_of(balancer, fake_step(("a", "b"), (0.0, 0.0))).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "options"), [("gls", {}), ("imtl_l", {}), ("stch", {"warmup_epochs": 0}), ("famo", {})], ids=str
)
def test_a_negative_loss_has_no_logarithm(name, options):
    with pytest.raises(ValueError, match=r"(?s)loss of task 'b' is -0.25"):
        weights_of(build(name, **options), fake_step(("a", "b"), (0.5, -0.25)))


def test_smooth_tchebycheff_takes_negative_losses_in_its_plain_form():
    found = weights_of(build("stch", warmup_epochs=None), fake_step(("a", "b"), (0.5, -0.25)))
    torch.testing.assert_close(found, 0.5 * torch.tensor([0.25, -0.125], dtype=torch.float64).softmax(0))


# -- rlw -----------------------------------------------------------------------------------------------------------


def test_random_weights_are_a_softmax_of_normal_draws():
    balancer = build("rlw", tasks=("a", "b", "c"))
    drawn = torch.stack([balancer.draw(number) for number in range(4000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000, dtype=torch.float64))
    for i, j in ((0, 1), (1, 2)):
        difference = (drawn[:, i] / drawn[:, j]).log()  # the difference of two standard normal numbers
        assert difference.mean().abs() < 0.1
        # The variance of 4,000 draws is exact to sqrt(2 / 4000) = 2.2 %. The tolerance is about four times that.
        assert difference.var().item() == pytest.approx(2, rel=0.1)
        assert (difference.abs() < 0.9539).double().mean().item() == pytest.approx(0.5, abs=0.03)  # the quartiles


def test_random_weights_belong_to_names_and_steps():
    balancer, permuted = build("rlw", tasks=("a", "b", "c")), build("rlw", tasks=("c", "a", "b"))
    permuted.load_state_dict(balancer.state_dict())
    a, b, c = balancer.draw(3).tolist()
    assert permuted.draw(3).tolist() == pytest.approx([c, a, b], rel=ROUNDING)
    assert balancer.draw(3, ("c", "a")).tolist() == pytest.approx([c / (a + c), a / (a + c)], rel=ROUNDING)
    assert balancer.draw(4)[0] != a
    assert build("rlw", tasks=("a", "b", "c")).draw(3)[0] != a  # another run has other draws


def test_all_micro_batches_of_a_step_have_one_draw(toys):
    engine = toys.make_engine("rlw", accumulation=2)
    steps = [engine.train_step(toys.make_batch(number)) for number in range(4)]
    assert torch.equal(steps[0].weights, steps[1].weights)
    assert not torch.equal(steps[1].weights, steps[2].weights)
    torch.testing.assert_close(steps[2].weights, engine.balancer.draw(1))


# -- uncertainty -----------------------------------------------------------------------------------------------------


def test_uncertainty_decays_as_an_adam_that_has_the_noise_levels_among_its_weights(toys):
    decay, options = 0.3, {"likelihood": "gaussian", "initial": -0.5, "lr": 1e-2}
    engine = toys.make_engine("uncertainty", options=options | {"weight_decay": decay})
    logs = torch.full((3,), -0.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logs], lr=1e-2, eps=1e-16, weight_decay=decay)
    for number in range(5):
        batch = toys.make_batch(number)
        *_, losses = plain_forward(engine, batch)
        adam.zero_grad()
        (0.5 * torch.exp(-logs) * losses.detach() + logs / 2).sum().backward()
        adam.step()
        engine.train_step(batch)
        found = torch.stack([engine.balancer.log_variance[task] for task in engine.tasks])
        torch.testing.assert_close(found, logs, rtol=NETWORK, atol=0)


# -- dwa -----------------------------------------------------------------------------------------------------------


def test_dwa_compares_the_last_two_epochs(toys):
    engine = toys.make_engine("dwa", options={"temperature": 2.0})
    engine.steps_per_epoch = 3
    steps = [engine.train_step(toys.make_batch(number)) for number in range(12)]
    losses = torch.tensor([list(step.raw_losses.values()) for step in steps], dtype=torch.float64)
    means = losses.reshape(4, 3, 3).mean(1)
    for number, step in enumerate(steps):
        epoch, expected = number // 3, torch.ones(3, dtype=torch.float64)
        if epoch >= 2:
            exp = (means[epoch - 1] / means[epoch - 2] / 2.0).exp()
            expected = 3 * exp / exp.sum()
            assert expected.std() > 1e-4
        torch.testing.assert_close(step.weights, expected, rtol=NETWORK, atol=0)


def test_dwa_counts_a_step_once_whatever_the_accumulation(toys):
    engine = toys.make_engine("dwa", accumulation=2)
    for number in range(4):
        engine.train_step(toys.make_batch(number))
    assert [int(count) for count in engine.balancer.loss_count.values()] == [2, 2, 2]


def test_dwa_keeps_the_means_of_a_task_that_is_absent_for_an_epoch():
    balancer = build("dwa", temperature=1.0)
    for epoch, tasks, losses in (
        (0, ("a", "b"), (4.0, 1.0)),
        (0, ("a", "b"), (2.0, 3.0)),
        (1, ("a", "b"), (6.0, 1.0)),
        (1, ("a",), (3.0,)),
        (2, ("b", "a"), (2.0, 9.0)),
        (2, ("b",), (4.0,)),
        (3, ("a",), (3.0,)),
    ):
        balancer.after_step(fake_step(tasks, losses, epoch))
    ratios = torch.tensor([3.0 / 9.0, 3.0 / 1.0], dtype=torch.float64)  # b: its epochs 2 and 1
    torch.testing.assert_close(balancer.weights(4), 2 * ratios.softmax(0))
    torch.testing.assert_close(balancer.weights(4, ("b", "a")), 2 * ratios.flip(0).softmax(0))
    assert balancer.weights(4, ("b",)).tolist() == [1]
    assert torch.equal(balancer.weights(4), balancer.weights(4))  # reading the weights changes nothing


def test_dwa_by_windows_is_the_rule_of_nash_mtls_code(toys):
    n, temperature = 3, 0.5
    engine = toys.make_engine("dwa", options={"temperature": temperature, "window": n})
    steps = [engine.train_step(toys.make_batch(number)) for number in range(10)]
    costs = [[1.0] * (2 * n) for _ in NAMES]  # a queue: the oldest loss leaves first
    for number, step in enumerate(steps):
        costs = [[*old[1:], loss] for old, loss in zip(costs, step.raw_losses.values(), strict=True)]
        ratios = [sum(row[n:]) / sum(row[:n]) if number > n else 1.0 for row in costs]
        exp = [math.exp(ratio / temperature) for ratio in ratios]
        assert step.weights.tolist() == pytest.approx([3 * e / sum(exp) for e in exp], rel=NETWORK)
        assert (max(exp) > 1.01 * min(exp)) == (number > n)


def test_dwa_by_windows_counts_a_tasks_own_steps():
    balancer = build("dwa", temperature=1.0, window=1)
    for tasks, losses in ((("a", "b"), (4.0, 2.0)), (("a",), (2.0,)), (("a",), (1.0,))):
        balancer.after_step(fake_step(tasks, losses))
    # a has the losses 1 and then 3. b has had only one step, so its ratio is still 1.
    expected = 2 * torch.tensor([3.0, 1.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(balancer.weights_by_window(torch.tensor([3.0, 8.0])), expected)


@pytest.mark.parametrize("losses", [(0.0, 1.0), (0.0, 0.0), (1e-300, 1e300)], ids=str)
def test_dwa_is_finite_for_losses_that_vanish(losses):
    balancer = build("dwa", temperature=0.1).double()
    for epoch, loss in enumerate(losses):
        balancer.after_step(fake_step(("a", "b"), (loss, 1.0), epoch))
    found = balancer.weights(2)
    expected = [2, 0] if losses[0] else [1, 1]  # a loss of 0 gives no ratio
    assert found.tolist() == pytest.approx(expected)


# -- imtl_l --------------------------------------------------------------------------------------------------------


def test_imtl_l_moves_its_factors_down_their_gradient(toys):
    engine, batch = toys.make_engine("imtl_l"), toys.make_batch()
    for task, value in zip(NAMES, S, strict=True):
        engine.balancer.log_scale[task].data.fill_(value)
    *_, losses = plain_forward(engine, batch)
    step_gradients(engine, batch)
    for task, s, loss in zip(NAMES, S, losses.tolist(), strict=True):
        assert engine.balancer.log_scale[task].grad.item() == pytest.approx(math.exp(s) * loss - 1, rel=NETWORK)


def test_imtl_l_brings_all_weighted_losses_to_one(toys):
    engine, batch = toys.make_engine("imtl_l", lr=1e-12, steps=200), toys.make_batch()  # the network does not move
    for _ in range(200):
        step = engine.train_step(batch)
    # Adam still moves a little after 200 steps.
    torch.testing.assert_close(step.weights * step.losses, torch.ones(3, dtype=torch.float64), rtol=1e-2, atol=0)


# -- stch ----------------------------------------------------------------------------------------------------------


def test_a_small_mu_sees_the_largest_weighted_loss_only():
    options = {"preference": {"a": 2.0, "b": 2.0}, "ideal": {"b": 3.0}, "warmup_epochs": None}
    balancer = build("stch", tasks=("a", "b", "c"), mu=1e-3, **options)
    losses = (2.0, 4.0, 3.0)  # 2/5 (2 - 0), 2/5 (4 - 3), 1/5 (3 - 0)
    found = weights_of(balancer, fake_step(("a", "b", "c"), losses))
    assert found.tolist() == pytest.approx([0.4, 0, 0], abs=ROUNDING)
    assert balancer.scalarise(torch.tensor(losses), ("a", "b", "c")).item() == pytest.approx(0.8)
    found = weights_of(balancer, fake_step(("b", "c"), losses[1:]))  # the shares of the present tasks
    assert found.tolist() == pytest.approx([0, 1 / 3], abs=ROUNDING)


def test_warm_up_by_hand(toys):
    engine = toys.make_engine("stch", options={"mu": 0.5, "warmup_epochs": 1})
    engine.steps_per_epoch = 2
    steps = [engine.train_step(toys.make_batch(number)) for number in range(6)]
    losses = [torch.tensor(list(step.raw_losses.values()), dtype=torch.float64) for step in steps]
    nadir = (losses[2] + losses[3]) / 2
    for number, (step, loss) in enumerate(zip(steps, losses, strict=True)):
        x = loss.clone().requires_grad_()
        objective = x.log().sum() if number < 4 else 3 * 0.5 * ((x / nadir).log() / 0.5).exp().sum().log()
        (expected,) = torch.autograd.grad(objective, x)
        torch.testing.assert_close(step.weights, expected, rtol=NETWORK, atol=0)


def test_a_task_absent_in_the_nadir_epoch_has_its_nadir_from_its_next_one():
    balancer = build("stch", warmup_epochs=0)
    balancer.after_step(fake_step(("a",), (2.0,), 0))
    mixed = fake_step(("a", "b"), (3.0, 5.0), 1)
    torch.testing.assert_close(weights_of(balancer, mixed), torch.tensor([1 / 3, 1 / 5], dtype=torch.float64))
    for losses in ((3.0, 4.0), (3.0, 8.0)):
        balancer.after_step(fake_step(("a", "b"), losses, 1))
    balancer.after_step(fake_step(("a", "b"), (9.0, 9.0), 2))  # this step does not count for the nadir
    ratios = torch.tensor([3.0 / 2.0, 5.0 / 6.0], dtype=torch.float64)
    expected = 2 * ratios / ratios.sum() / torch.tensor([3.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(weights_of(balancer, fake_step(("a", "b"), (3.0, 5.0), 2)), expected)


# -- famo ----------------------------------------------------------------------------------------------------------


def test_famo_equals_two_hand_worked_steps(toys):
    gamma, rate = 0.1, 0.025
    engine = toys.make_engine("famo", options={"gamma": gamma, "min_losses": {"segmentation": BOUND}})
    xi = torch.zeros(3, dtype=torch.float64)
    m, v, bounds = torch.zeros_like(xi), torch.zeros_like(xi), torch.tensor([BOUND, 0, 0], dtype=torch.float64)
    for t in (1, 2):
        batch = toys.make_batch(t)
        before = plain_forward(engine, batch)[2].detach() - bounds
        step = engine.train_step(batch)
        after = plain_forward(engine, batch)[2].detach() - bounds
        z = xi.exp() / xi.exp().sum()
        torch.testing.assert_close(step.weights, z / before / (z / before).sum(), rtol=SOLVED, atol=0)
        jacobian = torch.diag(z) - z[:, None] * z[None, :]
        gradient = jacobian @ (before.log() - after.log()) + gamma * xi
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        xi = xi - rate * (m / (1 - 0.9**t)) / (v / (1 - 0.999**t)).sqrt()
        torch.testing.assert_close(stack(engine.balancer.xi, NAMES).detach(), xi, rtol=SOLVED, atol=NETWORK)
    assert xi.std() > 1e-3


def test_famo_gives_weight_to_the_task_that_falls_slowest():
    balancer = build("famo", tasks=("a", "b", "c"), gamma=0.0)
    losses_after = torch.tensor([0.5, 0.9, 2.7], dtype=torch.float64)
    balancer.after_model(fake_step(("a", "b", "c"), (1.0, 1.0, 3.0), losses_after=losses_after))
    a, b, c = (balancer.xi[task].grad.item() for task in ("a", "b", "c"))
    assert a > 0 > b
    assert b == pytest.approx(c)  # both are 0.9: the scale of a loss does not matter


def test_famo_does_not_learn_from_a_loss_of_zero():
    whole, part = build("famo", tasks=("a", "b", "c")), build("famo", tasks=("a", "b", "c"))
    after = torch.tensor([0.5, 0.0, 2.9], dtype=torch.float64)
    whole.after_model(fake_step(("a", "b", "c"), (1.0, 1.0, 3.0), losses_after=after))
    part.after_model(fake_step(("a", "c"), (1.0, 3.0), losses_after=after[[0, 2]]))
    before = build("famo", tasks=("a", "b", "c"))
    before.after_model(fake_step(("a", "b", "c"), (1.0, 0.0, 3.0), losses_after=after + torch.tensor([0.0, 1.0, 0.0])))
    for balancer in (whole, before):
        assert balancer.xi["b"].grad is None
        for task in ("a", "c"):
            assert balancer.xi[task].grad == part.xi[task].grad != 0
    for tasks, losses in (((), ()), (("b",), (0.0,))):
        none = build("famo", tasks=("a", "b"))
        none.after_model(fake_step(tasks, losses, losses_after=torch.tensor(losses, dtype=torch.float64)))
        assert all(xi.grad is None for xi in none.xi.values())


def test_famo_names_a_bound_that_is_none():
    balancer = build("famo", min_losses={"b": 0.5})
    with pytest.raises(ValueError, match=r"balancer.min_losses.b is 0.5, but the loss of task 'b' is 0.25"):
        balancer.weights(torch.tensor([1.0, 0.25]))


# -- dtp -----------------------------------------------------------------------------------------------------------


def test_dtp_averages_the_indicators(toys):
    alpha, gamma = 0.3, 2.0
    engine = some_depths_right(toys.make_engine("dtp", options={"alpha": alpha, "gamma": gamma}, lr=0.1))
    average = None
    for number in range(3):
        step = engine.train_step(toys.make_batch(number))
        new = step.indicators.double()
        average = new if average is None else alpha * new + (1 - alpha) * average
        torch.testing.assert_close(step.weights, -((1 - average) ** gamma) * average.log(), rtol=NETWORK, atol=ROUNDING)
        torch.testing.assert_close(stack(engine.balancer.average, NAMES).detach(), average)
    assert (average - new).abs().max() > 1e-3


def test_dtp_prefers_the_task_that_does_worst_and_is_finite_at_the_ends():
    found = build("dtp").weights(torch.tensor([0.0, 1e-9, 0.2, 0.6, 0.99, 1.0]))
    assert found.isfinite().all()
    assert found[0] == found[1]
    assert (found[1:].diff() < 0).all()
    assert found[-1] == 0


def test_dtp_by_hand_from_an_indicator_of_zero():
    """alpha is 1/4: a's average goes from 0 to 1/4 and b's from 1 to 3/4."""
    balancer = build("dtp", alpha=0.25)
    for right, average in (((0.0, 1.0), (0.0, 1.0)), ((1.0, 0.0), (0.25, 0.75))):
        step = fake_step(("a", "b"), (1.0, 1.0), indicators=torch.tensor(right))
        balancer.objective(step)
        assert {key: value.item() for key, value in step.extras.items()} == {
            "indicator/a": average[0],
            "indicator/b": average[1],
        }
        balancer.after_step(step)
    balancer.after_step(fake_step((), ()))  # a batch without labels
    assert stack(balancer.average, ("a", "b")).tolist() == [0.25, 0.75]


def test_dtp_takes_an_average_that_rounding_put_above_one_for_one():
    assert build("dtp", gamma=0.5).weights(torch.tensor([1 + 1e-15], dtype=torch.float64)).tolist() == [0.0]


def test_dtp_takes_the_likelihood_where_a_task_has_no_indicator(toys):
    engine = toys.make_engine("dtp")
    engine.tasks["depth"].indicator = lambda output, target: None
    step = engine.train_step(toys.make_batch())
    likelihood = torch.exp(-step.losses[1])
    torch.testing.assert_close(step.indicators[1], likelihood)
    torch.testing.assert_close(step.weights[1], (1 - likelihood) * step.losses[1])


# -- d_grad --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, -1])
def test_d_grad_maps_features_and_learns_by_the_same_backward_pass(toys, level):
    engine, batch = toys.make_engine("d_grad", options={"level": level}), toys.make_batch()
    maps = dict(engine.balancer.named_parameters())
    channels = (4, 6)[level]
    assert {tuple(p.shape) for p in maps.values()} == {(channels, channels), (channels,)}
    for parameter in maps.values():
        parameter.data += 0.1 * torch.randn_like(parameter)

    image, targets = engine.prepare(batch)
    network = copy.deepcopy(engine.network)
    levels, losses = network.encoder(image), []
    for name, task in engine.tasks.items():
        mapped, a, b = list(levels), maps[f"weight.{name}"], maps[f"bias.{name}"]
        mapped[level] = (levels[level].movedim(1, -1) @ a.T + b).movedim(-1, 1)
        output = network.decoders[name](mapped)
        if task.dense:
            output = nn.functional.interpolate(output, output_sizes(engine.tasks, targets)[name], mode="bilinear")
        total, count = task.loss(output, targets[name])
        losses.append(total / count)
    parameters = dict(network.named_parameters()) | maps
    gradients = torch.autograd.grad(sum(losses), list(parameters.values()), allow_unused=True)
    _, found = step_gradients(engine, batch)
    found |= {name: parameter.grad for name, parameter in maps.items()}
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:  # the attributes do not use level 0
            assert found[name] is None or not found[name].any()
        else:
            torch.testing.assert_close(found[name], gradient, rtol=NETWORK, atol=ROUNDING)


def test_d_grad_on_vectors():
    balancer = build("d_grad")
    balancer.setup({}, EncoderInfo(channels=(3,), strides=(0,)))
    a, b, z = torch.randn(3, 3), torch.randn(3), torch.randn(5, 3)
    balancer.weight["b"].data.copy_(a)
    balancer.bias["b"].data.copy_(b)
    torch.testing.assert_close(balancer.adapter("b", [z])[0], z @ a.T + b)
    assert torch.equal(balancer.adapter("a", [z])[0], z)


def test_d_grad_refuses_a_level_that_there_is_not():
    with pytest.raises(ValueError, match=r"balancer.level is 2, but the encoder shares 2 levels"):
        build("d_grad", level=2).setup({}, EncoderInfo(channels=(3, 4), strides=(2, 4)))
