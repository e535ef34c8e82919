"""Compares methods that need more than the Gram matrix with their formulas, computed by plain autograd."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SOLVED
from torch.nn import functional as F

from mtlkit import BALANCERS, EncoderInfo, solvers
from mtlkit.balancer import generator
from mtlkit.engine.evaluation import output_sizes
from mtlkit.run import checkpoint
from mtlkit.state import stack
from mtlkit.step import Step

TRACKING = ("moco", "db_mtl", "excess_mtl")  # they have a state over all shared parameters
WEIGHING = ("moco", "modo", "sdmgrad")  # they have weights on the simplex


def textbook(engine, batch, rows=slice(None)):
    """Returns features, decoder inputs and losses (by the whole batch's count) for some rows of a batch."""
    image, targets = engine.prepare(batch)
    network = copy.deepcopy(engine.network)
    levels = network.encoder(image[rows])
    seen = [level.view_as(level) for level in levels]  # a finer level's gradient does not go through a deeper one
    losses = []
    for name, task in engine.tasks.items():
        output = network.decoders[name](seen)
        if task.dense:
            output = F.interpolate(output, output_sizes(engine.tasks, targets)[name], mode="bilinear")
        losses.append(task.loss(output, targets[name][rows])[0] / task.loss(network(image)[name], targets[name])[1])
    return network, levels, seen, losses


def jacobian(engine, batch, rows=slice(None)):
    """Returns the gradients (K, P), by one backward pass per task, and the losses (K,)."""
    network, _, _, losses = textbook(engine, batch, rows)
    found = [gradients(loss, network.encoder.parameters()) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in found]), torch.stack(losses).detach()


def gradients(value, inputs, **options):
    inputs = list(inputs)
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True, **options)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def step_of(engine, batch):
    """Runs one step. Returns it, and the gradients of network and balancer before the update."""
    seen, update = {}, engine._update

    def look(*given):
        modules = {"": engine.network, "balancer.": engine.balancer}
        for prefix, module in modules.items():
            seen.update({prefix + n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
        update(*given)

    engine._update = look
    step = engine.train_step(batch)
    engine._update = update
    return step, seen


def encoder_gradient(seen):
    return torch.cat([g.flatten() for name, g in seen.items() if name.startswith("encoder.")])


def nearest_on_simplex(point):
    """Returns the projection, by bisection of the amount that is subtracted from every entry."""
    low, high = point.min() - 1, point.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (point - middle).clamp_min(0).sum() > 1 else (low, middle)
    return (point - low).clamp_min(0)


def given_step(balancer, losses, **rows):
    """Returns a step of all tasks with these losses. `rows` gives its task gradients, by their properties."""
    step = Step(balancer)
    step.tasks, step.losses = balancer.tasks, torch.tensor(losses, dtype=torch.float64)
    step.gradients = SimpleNamespace(**{name: lambda value=value: value for name, value in rows.items()})
    return step


# -- GradDrop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leak", [0.0, 0.25])
def test_graddrop_passes_one_sign_at_every_position(toys, leak):
    engine = toys.make_engine("graddrop", options={"leak": leak})
    network, levels, decoded, losses = textbook(engine, toys.make_batch())
    rows = [gradients(loss, decoded) for loss in losses]
    random, combined, dropped = generator(engine.balancer.seed, 0), [], 0
    for level, z in enumerate(levels):
        draws = torch.rand(z.shape[1:], generator=random, dtype=torch.float64)
        total = torch.zeros_like(z)
        for position in torch.cartesian_prod(*(torch.arange(size) for size in z.shape[1:])).tolist():
            at = (slice(None), *position)
            votes = [float((row[level][at] * z[at].detach().sign()).sum()) for row in rows]
            share = sum(max(v, 0) for v in votes) / sum(abs(v) for v in votes)  # the share of positive votes
            positive = float(draws[tuple(position)]) < share
            for row, vote in zip(rows, votes, strict=True):
                keep = vote == 0 or (vote > 0) == positive
                dropped += not keep
                total[at] += row[level][at] * (1 if keep else leak)
        combined.append(total)
    assert dropped > 20
    expected = gradients(levels, network.encoder.parameters(), grad_outputs=combined)
    _, seen = step_of(engine, toys.make_batch())
    torch.testing.assert_close(encoder_gradient(seen), torch.cat([g.flatten() for g in expected]))
    for k, task in enumerate(engine.tasks):  # decoders get plain gradients
        for (name, _), g in zip(
            network.decoders[task].named_parameters(),
            gradients(losses[k], network.decoders[task].parameters()),
            strict=True,
        ):
            torch.testing.assert_close(seen[f"decoders.{task}.{name}"], g)


@pytest.mark.parametrize("leak", [0.0, 0.25])
def test_graddrop_over_parameters_passes_one_sign_at_every_entry(toys, leak):
    """As in CAGrad's code: P = (1 + sum of the gradients / sum of their absolute values) / 2 at every entry."""
    engine, batch = toys.make_engine("graddrop", options={"leak": leak, "space": "parameters"}), toys.make_batch()
    rows, _ = jacobian(engine, batch)
    draws = torch.rand(rows.shape[1], generator=generator(engine.balancer.seed, 0)).tolist()
    combined, dropped = [], 0
    for entries, draw in zip(rows.T.tolist(), draws, strict=True):
        total = sum(abs(g) for g in entries)
        positive = draw < (1 + sum(entries) / total) / 2
        keeps = [(g > 0) == positive for g in entries]
        dropped += keeps.count(False)
        combined.append(sum(g if keep else leak * g for g, keep in zip(entries, keeps, strict=True)))
    assert dropped > 100
    _, seen = step_of(engine, batch)
    torch.testing.assert_close(encoder_gradient(seen), torch.tensor(combined, dtype=torch.float64))


def test_graddrop_draws_signs_in_proportion_and_anew_in_every_step():
    balancer = BALANCERS.build("graddrop", tasks=("a", "b", "c"))
    sums = torch.tensor([3.0, -1.0, 1.0], dtype=torch.float64)[:, None].expand(3, 1000)
    kept = balancer.factors(sums, torch.arange(1000) / 1000).mean(dim=1)
    torch.testing.assert_close(kept, torch.tensor([0.8, 0.2, 0.8], dtype=torch.float64))
    agreeing = balancer.factors(sums.abs(), torch.rand(1000))
    assert (agreeing == 1).all()
    assert (balancer.factors(sums * 0, torch.rand(1000)) == 1).all()
    assert (balancer.factors(-sums.abs(), torch.zeros(1000)) == 1).all()  # no positive sign, even with the least draw
    draws = [torch.rand(1000, generator=generator(balancer.seed, number)) for number in (0, 0, 1)]
    masks = [balancer.factors(sums, d) for d in draws]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_graddrop_with_full_leak_is_plain_summing_and_without_it_is_not(toys):
    _, plain = step_of(toys.make_engine("uniform"), toys.make_batch())
    for leak, same in ((1.0, True), (0.0, False)):
        _, seen = step_of(toys.make_engine("graddrop", options={"leak": leak}), toys.make_batch())
        assert torch.allclose(encoder_gradient(seen), encoder_gradient(plain), rtol=NETWORK) == same


# -- trackers over the shared parameters -----------------------------------------------------------------------------


def test_moco_equals_its_formulas_over_three_steps(toys):
    engine = toys.make_engine("moco", options={"beta": 0.3, "gamma": 0.7, "rho": 0.1})
    weights, trackers = torch.full((3,), 1 / 3, dtype=torch.float64), None
    for number in range(3):
        h, _ = jacobian(engine, toys.make_batch(number))
        trackers = h if trackers is None else trackers + 0.3 * (h - trackers)
        mean = trackers.square().sum(dim=1).mean()
        weights = nearest_on_simplex(weights - 0.7 * (trackers @ (weights @ trackers) / mean + 0.1 * weights))
        step, seen = step_of(engine, toys.make_batch(number))
        torch.testing.assert_close(encoder_gradient(seen), weights @ trackers)
        torch.testing.assert_close(torch.stack([step.extras[f"weight/{task}"] for task in engine.tasks]), weights)
    assert weights.std() > 0.05
    torch.testing.assert_close(stack(engine.balancer.weight, engine.tasks), weights)
    torch.testing.assert_close(stack(engine.balancer.tracker, engine.tasks), trackers)


def test_moco_takes_a_newcomers_first_gradient_whole(toys):
    engine = toys.make_engine("moco", options={"beta": 0.25})
    engine.train_step(toys.without(toys.make_batch(0), "depth"))
    before, (h, _) = engine.balancer.tracker["segmentation"].clone(), jacobian(engine, toys.make_batch(1))
    engine.train_step(toys.make_batch(1))
    torch.testing.assert_close(engine.balancer.tracker["depth"].data, h[1])
    torch.testing.assert_close(engine.balancer.tracker["segmentation"].data, before + 0.25 * (h[0] - before))


def test_moco_as_published_equals_its_formulas_over_three_steps(toys):
    engine = toys.make_engine("moco", options={"beta": 0.6, "gamma": 0.7, "rho": 0.1, "published": True})
    weights, trackers = torch.full((3,), 1 / 3, dtype=torch.float64), 0.0
    for number, root in enumerate((1, 2**0.5, 3**0.5)):
        h, losses = jacobian(engine, toys.make_batch(number))
        h = losses[:, None] * h / h.norm(dim=1, keepdim=True)
        trackers = trackers + 0.6 / root * (h - trackers)
        scores = weights - 0.7 / root * (trackers @ (weights @ trackers) + 0.1 * weights)
        weights = scores.exp() / scores.exp().sum()
        _, seen = step_of(engine, toys.make_batch(number))
        torch.testing.assert_close(encoder_gradient(seen), weights @ trackers)
    assert weights.std() > 0.05
    torch.testing.assert_close(stack(engine.balancer.weight, engine.tasks), weights)
    torch.testing.assert_close(stack(engine.balancer.tracker, engine.tasks), trackers)


def test_moco_as_published_with_a_gradient_of_zero_is_finite(toys):
    engine = toys.make_engine("moco", options={"published": True})
    depth = engine.tasks["depth"].loss
    engine.tasks["depth"].loss = lambda output, target: (0.0 * depth(output, target)[0], depth(output, target)[1])
    _, seen = step_of(engine, toys.make_batch())
    assert encoder_gradient(seen).isfinite().all()
    assert not engine.balancer.tracker["depth"].any()


@pytest.mark.parametrize("name", WEIGHING)
def test_all_tasks_start_with_one_weight_which_they_keep_while_absent(name):
    assert [w.item() for w in BALANCERS.build(name, tasks=("a", "b", "c", "d")).weight.values()] == [0.25] * 4


@pytest.mark.parametrize(("name", "options"), [("modo", {}), ("sdmgrad", {}), ("sdmgrad", {"divide_by": "lengths"})])
def test_without_any_gradient_the_weights_stay(name, options):
    weights, zero = torch.tensor([0.25, 0.75], dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    found = BALANCERS.build(name, tasks=("a", "b"), **options).moved(weights, zero, torch.tensor(0.0))
    torch.testing.assert_close(found, weights)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_db_mtl_equals_its_formulas_over_three_steps(toys, decay):
    engine, average = toys.make_engine("db_mtl", options={"beta": 0.8, "decay": decay}), 0.0
    for number in range(3):
        h, losses = jacobian(engine, toys.make_batch(number))
        beta = (0.8, 0.8 / 2**decay, 0.8 / 3**decay)[number]
        average = beta * average + (1 - beta) * h / losses[:, None]
        norms = average.norm(dim=1)
        step, seen = step_of(engine, toys.make_batch(number))
        torch.testing.assert_close(encoder_gradient(seen), norms.max() * sum(g / g.norm() for g in average))
        torch.testing.assert_close(step.decoder_weights, 1 / losses)  # from the gradients of the logarithms
    torch.testing.assert_close(stack(engine.balancer.average, engine.tasks), average)


def test_db_mtl_names_a_negative_loss(toys):
    engine = toys.make_engine("db_mtl")
    loss = engine.tasks["depth"].loss
    engine.tasks["depth"].loss = lambda output, target: (-loss(output, target)[0], loss(output, target)[1])
    with pytest.raises(ValueError, match=r"'depth'.*another balancer"):
        engine.train_step(toys.make_batch())


def test_db_mtl_by_hand_with_a_loss_of_zero():
    """b has a loss of 0 and counts as learnt. a's average is half of (6, 8) / 2. It is the longest."""
    balancer = BALANCERS.build("db_mtl", tasks=("a", "b"), beta=0.5).double()
    balancer.setup({}, EncoderInfo(channels=(1,), strides=(1,), parameters=2))
    step = given_step(balancer, [2.0, 0.0], jacobian=torch.tensor([[6.0, 8.0], [0.0, 1.0]], dtype=torch.float64))
    (combined,) = balancer.combine(step)
    assert combined.tolist() == pytest.approx([1.5, 2.0])
    assert step.decoder_weights.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("warmup", "match_sum"), [(1, False), (2, True)])
def test_excess_mtl_equals_its_formulas_over_four_steps(toys, warmup, match_sum):
    engine = toys.make_engine("excess_mtl", options={"eta": 0.8, "warmup_steps": warmup, "match_sum": match_sum})
    weights, squares, first = torch.full((3,), 1 / 3, dtype=torch.float64), 0.0, 0.0
    for number in range(4):
        h, _ = jacobian(engine, toys.make_batch(number))
        squares = squares + h**2
        risk = torch.where(h == 0, 0.0, h**2 / squares.sqrt()).sum(dim=1)
        if number < warmup:
            first = first + risk / warmup
        else:
            weights = weights * torch.exp(0.8 * risk / first)
            weights = weights / weights.sum()
        step, seen = step_of(engine, toys.make_batch(number))
        torch.testing.assert_close(step.weights, weights * (3 if match_sum else 1))
        torch.testing.assert_close(encoder_gradient(seen), step.weights @ h)
    assert weights.std() > 0.01
    torch.testing.assert_close(stack(engine.balancer.log_weight, engine.tasks).exp(), weights)


def test_excess_mtl_raises_the_weight_of_the_task_that_does_not_improve():
    balancer = BALANCERS.build("excess_mtl", tasks=("a", "b"), eta=0.1)
    log_weights = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    for _ in range(100):
        log_weights = balancer.moved(log_weights, torch.tensor([1.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(log_weights[0] - log_weights[1], torch.tensor(5.0, dtype=torch.float64))
    torch.testing.assert_close(log_weights.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_excess_mtl_by_hand_with_a_task_that_has_no_gradient_yet():
    """a's risk is 3^2 / 3 = 3, which is 1.5 times its first risk. b has no gradient yet and counts as 1."""
    balancer = BALANCERS.build("excess_mtl", tasks=("a", "b"), eta=1.0).double()
    balancer.setup({}, EncoderInfo(channels=(1,), strides=(1,), parameters=2))
    balancer.warmed_up["a"].fill_(1)
    balancer.first_risk["a"].fill_(2.0)
    step = given_step(balancer, [1.0, 1.0], jacobian=torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    total = math.exp(1.5) + math.exp(1.0)
    assert balancer.combine(step).tolist() == pytest.approx([math.exp(1.5) / total, math.exp(1.0) / total])
    assert {key: value.item() for key, value in step.extras.items()} == {"excess_risk/a": 3.0, "excess_risk/b": 0.0}
    balancer.after_step(step)
    assert [int(count) for count in balancer.warmed_up.values()] == [1, 0]


def test_excess_mtl_leaves_the_present_tasks_the_weight_that_they_hold_together():
    balancer = BALANCERS.build("excess_mtl", tasks=("a", "b", "c"), eta=1.0)
    moved = balancer.moved(torch.tensor([0.2, 0.3]).log(), torch.tensor([2.0, 1.0])).exp()
    assert moved.sum().item() == pytest.approx(0.5)
    assert (moved[0] / moved[1]).item() == pytest.approx(2 / 3 * math.e)


@pytest.mark.parametrize("name", TRACKING)
def test_the_state_moves_by_the_mean_of_the_micro_batches(toys, name):
    state = {"moco": "tracker", "db_mtl": "average", "excess_mtl": "root"}[name]
    found = []
    for numbers in ((0,), (1,), (0, 1)):
        engine = toys.make_engine(name, accumulation=len(numbers))
        for number in numbers:
            engine.train_step(toys.make_batch(number))
        assert engine.step == 1
        found.append(stack(getattr(engine.balancer, state), engine.tasks))
    torch.testing.assert_close(found[2], (found[0] + found[1]) / 2)
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("name", [*TRACKING, "modo", "sdmgrad", "adversarial", "graddrop"])
def test_an_absent_task_keeps_its_state(toys, name):
    engine = toys.make_engine(name)
    for number in range(2):
        engine.train_step(toys.make_batch(number))
    before = {key: value.clone() for key, value in engine.balancer.state_dict().items()}
    step = engine.train_step(toys.without(toys.make_batch(2), "depth"))
    assert step.tasks == ("segmentation", "attributes")
    for key, value in engine.balancer.state_dict().items():
        if "depth" in key.split("."):
            assert torch.equal(value, before[key]), key
        elif "segmentation" in key.split(".") and "warm" not in key and "first" not in key:
            assert not torch.equal(value, before[key]), key
    engine.train_step(toys.make_batch(3))
    if name in WEIGHING:
        weights = stack(engine.balancer.weight, engine.tasks)
        assert weights.min() >= 0
        assert weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["graddrop", "sdmgrad", "modo", *TRACKING])
def test_the_scale_of_all_losses_changes_no_decision(toys, name):
    """Runs two steps of a model that does not move, with losses that are 1e8 times smaller."""
    found = []
    for factor in (1.0, 1e-8):
        engine = toys.make_engine(name)
        for group in engine.optimizer.param_groups:
            group["initial_lr"] = 0.0
        for task in engine.tasks.values():
            task.loss = lambda *args, loss=task.loss, f=factor: (f * loss(*args)[0], loss(*args)[1])
        for number in range(2):
            step, seen = step_of(engine, toys.make_batch(number))
        gradient = encoder_gradient(seen) / (1.0 if name == "db_mtl" else factor)
        found.append((gradient, torch.zeros(3) if step.weights is None else step.weights))
    torch.testing.assert_close(found[0], found[1], rtol=NETWORK, atol=ROUNDING)


@pytest.mark.parametrize("name", [*TRACKING, "modo", "sdmgrad", "adversarial", "graddrop"])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(toys, name, tmp_path):
    whole, half, second = (toys.make_engine(name) for _ in range(3))
    for number in range(4):
        whole.train_step(toys.make_batch(number))
    for number in range(2):
        half.train_step(toys.make_batch(number))
    checkpoint.save_checkpoint(half, tmp_path / "half")
    checkpoint.load_checkpoint(second, tmp_path / "half")
    for number in range(2, 4):
        second.train_step(toys.make_batch(number))
    for module in ("network", "balancer"):
        expected = getattr(whole, module).state_dict()
        for key, value in getattr(second, module).state_dict().items():
            assert torch.equal(value, expected[key]), key


# -- weights from two halves of a batch ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("modo", {"gamma": 0.5}),
        ("modo", {"gamma": 0.5, "rho": 0.3}),
        ("modo", {"gamma": 0.05, "rho": 0.1, "relative": False}),
        ("sdmgrad", {"lam": 0.6, "iterations": 3, "beta": 0.2}),
        ("sdmgrad", {"lam": 0.6, "iterations": 3, "beta": 0.2, "momentum": 0.5, "divide_by": "lengths"}),
        ("sdmgrad", {"lam": 0.6, "iterations": 3, "beta": 0.2, "match_sum": True, "max_norm": 0.4}),
    ],
    ids=str,
)
def test_weights_from_two_halves_equal_their_formulas_over_three_steps(toys, name, options):
    engine = toys.make_engine(name, options=options)
    w = torch.full((3,), 1 / 3, dtype=torch.float64)
    for number in range(3):
        batch = toys.make_batch(number)
        even, odd, whole = (jacobian(engine, batch, rows)[0] for rows in (slice(0, 8, 2), slice(1, 8, 2), slice(8)))
        mean = whole.square().sum(dim=1).mean()
        even, odd = 2 * even, 2 * odd  # each half estimates the whole
        if name == "modo":
            mean = mean if options.get("relative", True) else 1
            slope = even @ (w @ odd) / mean + options.get("rho", 0) * w
            expected = w = nearest_on_simplex(w - options["gamma"] * slope)
        else:
            if "divide_by" in options:
                mean = ((even * odd).sum(dim=1).clamp_min(0).sqrt().mean()) ** 2
            velocity = 0
            for _ in range(3):
                slope = even @ (w @ odd + 0.6 * odd.mean(dim=0)) / mean
                velocity = options.get("momentum", 0) * velocity + slope
                w = nearest_on_simplex(w - 0.2 * velocity)
            expected = (w + 0.6 / 3) / 1.6 * (3 if "match_sum" in options else 1)
            if "max_norm" in options:
                assert (expected @ whole).norm() > options["max_norm"]  # the limit is active
                expected = expected * options["max_norm"] / (expected @ whole).norm()
        step, seen = step_of(engine, batch)
        torch.testing.assert_close(step.weights, expected)
        torch.testing.assert_close(encoder_gradient(seen), expected @ whole)
    assert w.std() > 0.02
    torch.testing.assert_close(stack(engine.balancer.weight, engine.tasks), w)


@pytest.mark.parametrize(
    ("name", "options"),
    [("moco", {"gamma": 0.5}), ("modo", {"gamma": 0.5}), ("sdmgrad", {"lam": 0.0, "beta": 0.5})],
    ids=WEIGHING,
)
def test_without_noise_the_weights_reach_the_shortest_combination(name, options):
    g = torch.Generator().manual_seed(0)
    for k in (2, 6):
        rows = (
            torch.randn(k, 4, generator=g, dtype=torch.float64)
            * torch.logspace(0, 0.5, k, dtype=torch.float64)[:, None]
        )
        gram, weights = rows @ rows.T, torch.full((k,), 1 / k, dtype=torch.float64)
        balancer = BALANCERS.build(name, tasks=tuple("abcdef"[:k]), **options)
        for _ in range(2000 if name != "sdmgrad" else 100):  # a step of SDMGrad has 20 iterations
            given = (weights, gram) if name == "moco" else (weights, gram, gram.diagonal().mean())
            weights = balancer.moved(*given)
        shortest = solvers.min_norm_point(gram)
        assert weights.sum().item() == pytest.approx(1)
        torch.testing.assert_close(weights @ rows, shortest @ rows, rtol=SOLVED, atol=SOLVED)


def test_sdmgrad_with_a_large_lambda_follows_the_mean_gradient(toys):
    engine = toys.make_engine("sdmgrad", options={"lam": 1e6})
    step = engine.train_step(toys.make_batch())
    # With lambda 1e6 the gradients still move the weights by about 1 / lambda.
    torch.testing.assert_close(step.weights, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=1e-5, atol=0)


# -- the discriminator of gradients ----------------------------------------------------------------------------------


def cross_entropy_of(engine, levels, losses, level):
    """Returns the discriminator's mean cross-entropy, computed sample by sample and position by position."""
    balancer, values = engine.balancer, []
    outputs = torch.stack([balancer.output[task] for task in engine.tasks])
    biases = torch.cat([balancer.output_bias[task] for task in engine.tasks])
    for k, loss in enumerate(losses):
        for sample in gradients(loss, levels, create_graph=True)[level]:
            if sample.eq(0).all():
                continue
            vectors = sample.flatten(1).T
            vectors = vectors / vectors.norm(dim=1).square().mean().sqrt()
            hidden = (vectors @ balancer.first.weight.T + balancer.first.bias).clamp_min(0)
            values += [-F.log_softmax(logits, dim=0)[k] for logits in hidden @ outputs.T + biases]
    return torch.stack(values).mean()


@pytest.mark.parametrize(("level", "ramp"), [(0, 0), (-1, 3)])
def test_adversarial_gradients_equal_plain_double_backward(toys, level, ramp):
    engine = toys.make_engine("adversarial", options={"alpha": 0.7, "hidden": 5, "level": level, "ramp_epochs": ramp})
    alpha = 0.7 * (2 / (1 + math.exp(-10 / 3)) - 1) if ramp else 0.7  # the first epoch of three
    batch = toys.without(toys.make_batch(), "attributes", slice(2, 5))  # some samples have no gradient of this task
    network, _, levels, losses = textbook(engine, batch)
    entropy = cross_entropy_of(engine, levels, losses, level)
    expected = gradients(sum(losses) - alpha * entropy, network.parameters())
    learned = [n for n, _ in engine.balancer.named_parameters()]
    expected_learned = gradients(entropy, engine.balancer.parameters())
    penalty = gradients(entropy, network.encoder.parameters())
    assert max(g.abs().max() for g in penalty) > 1e-3  # the penalty is not zero
    step, seen = step_of(engine, batch)
    for (name, _), gradient in zip(network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(seen.get(name, 0 * gradient), gradient, rtol=SOLVED, atol=ROUNDING)
    for name, gradient in zip(learned, expected_learned, strict=True):
        torch.testing.assert_close(seen[f"balancer.{name}"], gradient, rtol=SOLVED, atol=ROUNDING)
    assert step.extras["cross_entropy"].item() == pytest.approx(entropy.item())


def test_adversarial_strength_grows_to_alpha_and_stays():
    balancer = BALANCERS.build("adversarial", tasks=("a", "b"), alpha=0.5, ramp_epochs=2)
    expected = [0.5 * math.tanh(2.5), 0.5 * math.tanh(5.0), 0.5 * math.tanh(5.0)]  # 2 / (1 + exp(-x)) - 1 = tanh(x / 2)
    assert [balancer.strength(epoch) for epoch in (0, 1, 7)] == pytest.approx(expected)


def test_adversarial_discriminator_learns_to_tell_gradients_and_the_model_to_hide_them(toys):
    last = {}
    for alpha in (0.0, 3.0):
        engine = toys.make_engine("adversarial", options={"alpha": alpha, "lr": 1e-2}, steps=80, lr=3e-3)
        entropies = [engine.train_step(toys.make_batch()).extras["cross_entropy"].item() for _ in range(80)]
        last[alpha] = entropies[-1]
        assert 0.9 < entropies[0] < 1.3  # log 3 = 1.1: it has learnt nothing yet
    assert last[0.0] < 0.5
    assert last[3.0] > last[0.0] + 0.1


def test_adversarial_tells_only_the_present_tasks_apart(toys):
    engine = toys.make_engine("adversarial")
    batch = toys.make_batch()
    step = engine.train_step(toys.without(toys.without(batch, "segmentation"), "attributes"))
    assert step.extras["cross_entropy"].item() == 0  # there is only one task, so nothing to tell apart
    engine = toys.make_engine("adversarial")
    _, _, levels, losses = textbook(engine, batch)
    depth = engine.tasks.pop("depth")
    entropy = cross_entropy_of(engine, levels, [losses[0], losses[2]], -1)
    engine.tasks = {"segmentation": engine.tasks["segmentation"], "depth": depth} | engine.tasks
    step = engine.train_step(toys.without(batch, "depth"))
    assert step.extras["cross_entropy"].item() == pytest.approx(entropy.item())


def test_adversarial_by_hand_with_few_vectors_and_none():
    """The discriminator always gives 3/4 for a. b has no gradient, so there is only a's vector."""
    balancer = BALANCERS.build("adversarial", tasks=("a", "b"), hidden=4)
    balancer.setup({}, EncoderInfo(channels=(3,), strides=(0,)))
    for task, bias in (("a", math.log(3.0)), ("b", 0.0)):
        balancer.output[task].data.zero_()
        balancer.output_bias[task].data.fill_(bias)
    for row, entropy in ((torch.tensor([[1.0, 2.0, 2.0]]), math.log(4 / 3)), (torch.zeros(1, 3), 0.0)):
        step = given_step(balancer, [2.0, 5.0], local_gradients=[[row], [torch.zeros(1, 3)]])
        assert balancer.objective(step).item() == pytest.approx(7 + entropy)
        assert step.extras["cross_entropy"].item() == pytest.approx(entropy)


# -- options ---------------------------------------------------------------------------------------------------------


def test_adversarial_names_a_level_that_there_is_not(toys):
    with pytest.raises(ValueError, match=r"balancer\.level is 2, but the encoder shares 2"):
        toys.make_engine("adversarial", options={"level": 2})


def test_adversarial_starts_its_outputs_as_torchs_linear_layers_start():
    balancer = BALANCERS.build("adversarial", tasks=("a", "b"), hidden=400)
    balancer.setup({}, EncoderInfo(channels=(6,), strides=(4,), parameters=1))
    for task in ("a", "b"):  # uniform in [-1/sqrt(400), 1/sqrt(400)]; some of 400 draws are near each end
        drawn = balancer.output[task]
        assert 0.045 < drawn.max() <= 0.05
        assert -0.05 <= drawn.min() < -0.045
