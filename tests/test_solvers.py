"""Compares K x K solvers with optimality conditions, brute force and limits, and their balancers with definitions."""

import json
import re
from itertools import chain, combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SOLVED

from mtlkit import BALANCERS
from mtlkit.convex import nonnegative
from mtlkit.solvers import (
    SolverError,
    alignment,
    alpha_fair,
    best_worst_case,
    dual_cone_projection,
    min_norm_point,
)
from mtlkit.step import Step

GOLDEN = Path(__file__).parents[2] / "shared" / "conformance" / "gram_weights.json"
METHODS = ("mgda", "cagrad", "nash", "fairgrad", "upgrad", "dual_projection", "aligned_mtl")
KINDS = ("wide", "tight", "agreeing", "conflicting", "tiny", "huge", "mixed")


def build(name, k, **options):
    return BALANCERS.build(name, tasks=tuple(f"t{i}" for i in range(k)), **options)


def jacobian(kind, k, seed=0):
    """Returns linearly independent task gradients as rows."""
    g = torch.Generator().manual_seed(100 * k + seed)
    rows = torch.randn(k, {"wide": 4 * k, "tight": k + 1}.get(kind, 2 * k + 2), generator=g, dtype=torch.float64)
    if kind in ("agreeing", "mixed"):
        rows += torch.randn(rows.shape[1], generator=g, dtype=torch.float64)
    if kind == "conflicting":  # the mean is nearly zero
        rows = rows - 0.97 * rows.mean(dim=0)
    if kind == "mixed":
        rows *= 10 ** torch.linspace(-12, 12, k, dtype=torch.float64)[torch.randperm(k, generator=g), None]
    return rows * {"tiny": 1e-12, "huge": 1e12}.get(kind, 1.0)


def gram_of(rows):
    return rows @ rows.T


def length(w, gram):
    return (w @ gram @ w).clamp_min(0).sqrt()


def difference(found, expected, gram):
    return (length(found - expected, gram) / length(expected, gram)).item()


def subsets(k, smallest=0):
    return map(list, chain.from_iterable(combinations(range(k), n) for n in range(smallest, k + 1)))


def kinds_and_sizes(*sizes):
    return pytest.mark.parametrize(("kind", "k"), [(kind, k) for kind in KINDS for k in sizes])


# -- the shared golden values ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"{GOLDEN} does not exist")
@pytest.mark.parametrize("name", [name for name in METHODS if name != "dual_projection"])
def test_conformance(name):
    for case in json.loads(GOLDEN.read_text())["cases"]:
        gram = torch.tensor(case["gram"], dtype=torch.float64)
        expected = case["expected"][name]
        weights = build(name, len(gram), **expected["kwargs"]).weights(gram)
        assert weights.dtype == torch.float64
        # CAGrad's golden values themselves miss the optimality conditions by 4e-8.
        assert difference(weights, torch.tensor(expected["weights"], dtype=torch.float64), gram) < 3e-7


# -- optimality --------------------------------------------------------------------------------------------------------


@kinds_and_sizes(1, 2, 3, 10, 40, 100)
def test_min_norm_point_is_optimal(kind, k):
    gram = gram_of(jacobian(kind, k))
    w = min_norm_point(gram)
    norms = gram.diagonal().sqrt()
    assert (w >= 0).all()
    assert w.sum().item() == pytest.approx(1)
    # <g_i, g_w> >= |g_w|^2, with equality on the support. In cosines, because lengths differ by up to 1e24.
    slack = ((gram @ w) / length(w, gram) - length(w, gram)) / norms
    # Rounding of products of unit size, see tolerances.ROUNDING.
    assert slack.min() > -1e-12
    assert slack[w > 0].max() < ROUNDING


@kinds_and_sizes(2, 3, 5)
def test_min_norm_point_equals_brute_force(kind, k):
    gram = gram_of(jacobian(kind, k, seed=1))
    best = None
    for i in subsets(k, smallest=1):
        x = torch.linalg.solve(gram[i][:, i] / gram[i[0], i[0]], torch.ones(len(i), dtype=torch.float64))
        if (x >= 0).all():
            w = torch.zeros(k, dtype=torch.float64)
            w[i] = x / x.sum()
            best = w if best is None or length(w, gram) < length(best, gram) else best
    assert difference(min_norm_point(gram), best, gram) < SOLVED


@kinds_and_sizes(1, 2, 3, 10, 40)
def test_dual_cone_projection_is_optimal(kind, k):
    gram = gram_of(jacobian(kind, k))
    norms = gram.diagonal().sqrt()
    start = torch.cat([torch.eye(k, dtype=torch.float64), torch.full((1, k), 1 / k, dtype=torch.float64)])
    for u, w in zip(start, dual_cone_projection(gram, start), strict=True):
        assert (w >= u).all()
        cosines = gram @ w / norms / length(u, gram)
        assert cosines.min() > -1e-12  # no task is harmed
        assert cosines[w > u].abs().sum() < 1e-12 * k  # tasks that had to be changed end at a right angle


@pytest.mark.parametrize("kind", ["tight", "conflicting", "agreeing"])
def test_dual_cone_projection_equals_brute_force(kind):
    k = 4
    gram = gram_of(jacobian(kind, k, seed=2))
    for u in torch.eye(k, dtype=torch.float64):
        feasible = []
        for i in subsets(k):
            w = u.clone()
            w[i] -= torch.linalg.solve(gram[i][:, i], (gram @ u)[i])
            if (w >= u).all():
                feasible.append(w)
        best = min(feasible, key=lambda w: length(w, gram))
        assert difference(dual_cone_projection(gram, u[None])[0], best, gram) < SOLVED


@kinds_and_sizes(1, 2, 3, 10, 40, 100)
def test_nash_solves_its_equations(kind, k):
    gram = gram_of(jacobian(kind, k))
    a = build("nash", k).weights(gram)
    assert (a > 0).all()
    assert ((gram @ a) * a - 1).abs().max() < NETWORK
    assert length(a, gram).item() == pytest.approx(k**0.5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@kinds_and_sizes(1, 2, 3, 10, 40)
def test_fairgrad_solves_its_equations(kind, k, alpha):
    gram = gram_of(jacobian(kind, k))
    w = build("fairgrad", k, alpha=alpha).weights(gram)
    residual = (gram @ w) * w ** (1 / alpha) - 1
    # Here lengths matter, and the weights of the shortest gradients are below the rounding of the sum.
    if kind == "mixed" and alpha != 1:
        norms = gram.diagonal().sqrt()
        assert (w >= 0).all()
        assert ((gram @ w - w.clamp_min(1e-300) ** (-1 / alpha)) / norms).abs().max() < NETWORK * length(w, gram)
    else:
        assert (w > 0).all()
        assert residual.abs().max() < NETWORK


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9, 2.0])
@kinds_and_sizes(1, 2, 3, 10, 40)
def test_best_worst_case_is_optimal(kind, k, c):
    gram = gram_of(jacobian(kind, k))
    mean = torch.full((k,), 1 / k, dtype=torch.float64)
    push = best_worst_case(gram, c) - mean
    assert (push >= 0).all()
    assert (length(push, gram) / length(mean, gram)).item() == pytest.approx(c, rel=NETWORK)
    products = gram @ (mean + push) / length(mean, gram)
    norms = gram.diagonal().sqrt()
    share = push * norms / (push * norms).max()
    # All tasks that get a part of the push gain the same least amount. Rounding is relative to each gradient's length.
    least = (products + 1e-10 * norms).min()
    assert (products - 1e-10 * norms)[share > 1e-9].max() <= least


@pytest.mark.parametrize("kind", ["wide", "conflicting", "agreeing"])
@pytest.mark.parametrize("seed", range(4))
def test_cagrad_equals_a_fine_search(kind, seed):
    rows = jacobian(kind, 2, seed) * torch.tensor([[1.0], [3.0]])
    c, mean = 0.5, rows.mean(dim=0)

    def direction(s):
        g = s[:, None] * rows[0] + (1 - s[:, None]) * rows[1]
        return g @ mean + c * mean.norm() * g.norm(dim=1), g

    low, high = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    for _ in range(12):
        s = low + (high - low) * torch.linspace(0, 1, 101, dtype=torch.float64)
        best = direction(s)[0].argmin()
        low, high = s[max(best - 1, 0)], s[min(best + 1, 100)]
    g = direction(s[best, None])[1][0]
    expected = mean + c * mean.norm() * g / g.norm()
    found = build("cagrad", 2, c=c).weights(gram_of(rows)) @ rows
    assert (found - expected).norm() < 1e-6 * expected.norm()  # a search by values finds the position to about 1e-8


@pytest.mark.parametrize(("rescale", "factor"), [("none", 1), ("c", 1.4), ("c2", 1.16)])
def test_cagrad_rescales(rescale, factor):
    gram = gram_of(jacobian("wide", 3))
    found = build("cagrad", 3, c=0.4, rescale=rescale).weights(gram)
    torch.testing.assert_close(found * factor, best_worst_case(gram, 0.4))


@pytest.mark.parametrize("k", [1, 2, 3, 40])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mixed"])
def test_alignment_equals_the_singular_value_decomposition(kind, k):
    rows = jacobian(kind, k)
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    expected = s[-1] * (u @ v).mean(dim=0)  # all singular values are now the smallest
    assert (alignment(gram_of(rows)) @ rows - expected).norm() < SOLVED * expected.norm()


# -- what changes nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["wide", "conflicting", "agreeing"])
def test_permuting_tasks_permutes_weights(name, kind):
    gram = gram_of(jacobian(kind, 6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    balancer = build(name, 6)
    found = balancer.weights(gram[order][:, order])
    torch.testing.assert_close(found, balancer.weights(gram)[order], rtol=NETWORK, atol=ROUNDING)


@pytest.mark.parametrize("factor", [1e-12, 1e-8, 1e12])
@pytest.mark.parametrize("name", METHODS)
def test_a_common_scale_changes_only_what_the_definition_says(name, factor):
    gram = gram_of(jacobian("conflicting", 4))
    power = {"nash": -1, "fairgrad": -4 / 3}.get(name, 0)  # w scales as factor^(-2 alpha / (1 + alpha))
    balancer = build(name, 4)
    found = balancer.weights(gram * factor**2)
    torch.testing.assert_close(found / factor**power, balancer.weights(gram), rtol=NETWORK, atol=ROUNDING)


def test_nash_does_not_depend_on_the_scale_of_a_task():
    rows = jacobian("wide", 4)
    scale = torch.tensor([1e-12, 1.0, 3.0, 1e12], dtype=torch.float64)
    balancer = build("nash", 4)
    expected = balancer.weights(gram_of(rows)) @ rows
    found = (balancer.weights(gram_of(rows * scale[:, None])) * scale) @ rows
    torch.testing.assert_close(found, expected, rtol=NETWORK, atol=ROUNDING)


@pytest.mark.parametrize("name", METHODS)
def test_dtype_in_is_dtype_out_and_the_gram_is_left_alone(name):
    gram = gram_of(jacobian("wide", 3)).float().requires_grad_()
    before = gram.detach().clone()
    weights = build(name, 3).weights(gram)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    assert torch.equal(gram, before)


# -- degenerate gradients ----------------------------------------------------------------------------------------------

E1, E2, E3 = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("k", [1, 3])
def test_all_gradients_zero(name, k):
    assert torch.isfinite(build(name, k).weights(torch.zeros(k, k, dtype=torch.float64))).all()


@pytest.mark.parametrize("name", ["nash", "fairgrad"])
def test_a_zero_gradient_gets_no_vote(name):
    rows = jacobian("conflicting", 4)
    rows[2] = 0
    weights = build(name, 4).weights(gram_of(rows))
    others = [0, 1, 3]
    assert weights[2] == 0
    torch.testing.assert_close(weights[others], build(name, 3).weights(gram_of(rows[others])))


def test_a_zero_gradient_elsewhere():
    rows = jacobian("wide", 4)
    rows[2] = 0
    gram, others = gram_of(rows), [0, 1, 3]
    rest = gram_of(rows[others])
    assert min_norm_point(gram).tolist() == [0, 0, 1, 0]  # zero is the shortest gradient
    normalized = build("mgda", 4, normalization="l2").weights(gram)
    torch.testing.assert_close(normalized[others], build("mgda", 3, normalization="l2").weights(rest))
    for name in ("upgrad", "dual_projection", "aligned_mtl"):  # these take means over all four
        found, expected = build(name, 4).weights(gram), build(name, 3).weights(rest)
        torch.testing.assert_close(found[others] * 4 / 3, expected)
    d = best_worst_case(gram, 0.5) @ rows
    mean = rows.mean(dim=0)
    assert ((d - mean).norm() / mean.norm()).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["mgda", "nash", "fairgrad", "upgrad", "dual_projection", "cagrad"])
@pytest.mark.parametrize(
    "rows",
    [
        torch.stack([E1, -E1]),
        torch.stack([E1, -3 * E1]),
        torch.stack([E1, -2 * E1, 5 * E1]),
        torch.stack([E1, E2, -E1 - E2]),
        torch.stack([1e-10 * E1, -1e10 * E1]),
        torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    ],
    ids=["opposite", "unequal", "rank1", "triangle", "far apart", "K above the dimension"],
)
def test_nothing_moves_where_nothing_helps_all(name, rows):
    options = {"c": 1.5} if name == "cagrad" else {}  # below 1, CAGrad keeps a part of the mean
    weights = build(name, len(rows), **options).weights(gram_of(rows))
    parts = weights[:, None] * rows
    assert parts.sum(dim=0).norm() <= ROUNDING * max(parts.norm(dim=1).max(), rows.mean(dim=0).norm())


def test_cagrad_keeps_a_part_of_the_mean_where_nothing_helps_all():
    rows = torch.stack([E1, -3 * E1])
    torch.testing.assert_close(best_worst_case(gram_of(rows), 0.4) @ rows, 0.6 * rows.mean(dim=0))


@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-5])
def test_what_tends_to_zero_towards_opposition(angle):
    rows = torch.stack([E1, -E1 + angle * E2])
    gram = gram_of(rows)
    for name in ("mgda", "cagrad", "upgrad", "dual_projection", "aligned_mtl"):
        assert (build(name, 2).weights(gram) @ rows).norm() < 2 * angle
    a = build("nash", 2).weights(gram)  # its length does not change if the Gram matrix can hold the angle
    # The square of an angle of 1e-5 is exact to 1e-16 / 1e-10 = 1e-6. Solving loses a factor of 10 to 100.
    assert (a @ rows).norm().item() == pytest.approx(2**0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["nash", "fairgrad"])
def test_opposed_tasks_are_held_harmless_while_the_rest_bargain(name):
    rows = torch.stack([E1, -2 * E1, E1 + E2, 3 * E1 - E2 + E3])
    d = build(name, 4).weights(gram_of(rows)) @ rows
    outside = rows[2:].clone()
    outside[:, 0] = 0
    torch.testing.assert_close(d, build(name, 2).weights(gram_of(outside)) @ outside, rtol=NETWORK, atol=NETWORK)


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_duplicates(copies):
    rows = jacobian("conflicting", 3)
    many = torch.cat([rows] * copies)
    gram = gram_of(many)
    assert (min_norm_point(gram) @ many - min_norm_point(gram_of(rows)) @ rows).norm() < ROUNDING
    for name in ("dual_projection", "upgrad", "cagrad", "aligned_mtl"):  # the copies do not change the mean
        found = build(name, len(many)).weights(gram) @ many
        expected = build(name, 3).weights(gram_of(rows)) @ rows
        torch.testing.assert_close(found, expected, rtol=NETWORK, atol=ROUNDING)
    for alpha in (1.0, 2.0):
        w = alpha_fair(gram, alpha)
        assert ((gram @ w) * w ** (1 / alpha) - 1).abs().max() < NETWORK
        torch.testing.assert_close(w[:3], w[-3:])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_a_gram_summed_in_float32_is_no_reason_to_fail(name, seed):
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)) + torch.tensor([2.0, 0, 0, 0, 0])
    gram = (rows @ rows.T).double()
    assert torch.linalg.eigvalsh(gram)[0] < 0  # after rounding, it is no longer a Gram matrix
    found = build(name, 12).weights(gram) @ rows.double()
    expected = build(name, 12).weights(gram_of(rows.double())) @ rows.double()
    assert (found - expected).norm() < 1e-2 * expected.norm()


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_unsolved_problem_is_an_error_with_its_residual():
    saddle = torch.tensor([[1.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    with pytest.raises(
        SolverError, match=r"quadratic program of 2 tasks.*residual is still 1\.0e\+00.*another balancer"
    ):
        nonnegative(saddle, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_gram_matrix_is_refused(name):
    with pytest.raises(ValueError, match="not finite"):
        build(name, 2).weights(torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]))


def test_a_gram_matrix_is_square():
    with pytest.raises(ValueError, match=r"\(k, k\), got the shape \(2, 3\)"):
        min_norm_point(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mgda", {"normalization": "l1"}),
        ("mgda", {"weigh": "loss"}),
        ("cagrad", {"c": -0.1}),
        ("cagrad", {"rescale": "c3"}),
        ("nash", {"max_norm": 0}),
        ("nash", {"update_every": 0}),
        ("nash", {"update_every": 1.5}),
        ("fairgrad", {"alpha": 0.0}),
        ("fairgrad", {"alpha": float("nan")}),
        ("fairgrad", {"max_norm": -1.0}),
    ],
)
def test_options_are_checked(name, options):
    with pytest.raises(ValueError, match=rf"balancer\.{next(iter(options))}"):
        build(name, 2, **options)


# -- what the balancers add --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["l2", "loss", "loss+"])
def test_mgda_minimises_the_normalised_combination(toys, normalization):
    engine = toys.make_engine("mgda", options={"normalization": normalization})
    step = engine.train_step(toys.make_batch())
    losses = torch.tensor([step.raw_losses[task] for task in step.tasks], dtype=torch.float64)
    scale = {"l2": step.norms, "loss": losses, "loss+": losses * step.norms}[normalization]
    shares = step.weights * scale
    assert shares.sum().item() == pytest.approx(1)
    products = step.gram @ step.weights / scale  # of the normalised gradients and their shortest combination
    # The margin is tolerances.NETWORK.
    assert (products >= length(step.weights, step.gram) ** 2 * (1 - 1e-9)).all()


def test_mgda_may_weigh_the_losses_by_what_it_found_for_the_normalised_gradients():
    # Orthogonal gradients of lengths 1 and 3. Divided by their lengths, or by these losses, both have length 1.
    gram, losses = torch.diag(torch.tensor([1.0, 9.0])), torch.tensor([1.0, 3.0])
    for normalization in ("l2", "loss"):
        found = [
            build("mgda", 2, normalization=normalization, weigh=weigh).weights(gram, losses)
            for weigh in ("normalised", "losses")
        ]
        torch.testing.assert_close(found[0], torch.tensor([1 / 2, 1 / 6]))
        torch.testing.assert_close(found[1], torch.tensor([1 / 2, 1 / 2]))


@pytest.mark.parametrize("weigh", ["normalised", "losses"])
def test_mgda_gives_decoders_the_shares_of_the_losses(toys, weigh):
    engine = toys.make_engine("mgda", options={"normalization": "l2", "weigh": weigh})
    step = engine.train_step(toys.make_batch())
    assert step.decoder_weights.sum().item() == pytest.approx(1)
    shares = step.weights * (step.norms if weigh == "normalised" else 1)
    torch.testing.assert_close(step.decoder_weights, shares)
    assert shares.std() > 0.01


def test_mgda_by_losses_wants_losses():
    balancer = build("mgda", 2, normalization="loss")
    for losses in (None, torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match=r"normalization=loss.*Choose l2 or none"):
            balancer.weights(torch.eye(2), losses)


def test_nash_limits_the_length():
    gram = gram_of(jacobian("wide", 4))
    free = build("nash", 4).weights(gram)
    torch.testing.assert_close(build("nash", 4, max_norm=1.0).weights(gram), free / 2)
    torch.testing.assert_close(build("nash", 4, max_norm=2.5).weights(gram), free)


def test_nash_limits_the_encoder_alone(toys):
    step = toys.make_engine("nash", options={"max_norm": 1.0}).train_step(toys.make_batch())
    assert ((step.gram @ step.decoder_weights) * step.decoder_weights - 1).abs().max() < NETWORK
    torch.testing.assert_close(step.weights, step.decoder_weights / 3**0.5)


@pytest.mark.parametrize("name", ["cagrad", "fairgrad", "aligned_mtl"])
def test_a_mean_becomes_a_sum(name):
    gram = gram_of(jacobian("wide", 3))
    torch.testing.assert_close(build(name, 3, match_sum=True).weights(gram), 3 * build(name, 3).weights(gram))


def test_cagrad_of_radius_zero_and_aligned_gradients_of_one_length_are_plain_summing():
    gram = gram_of(jacobian("wide", 3))
    torch.testing.assert_close(build("cagrad", 3, c=0.0, match_sum=True).weights(gram), torch.ones(3).double())
    torch.testing.assert_close(build("aligned_mtl", 3, match_sum=True).weights(torch.eye(3)), torch.ones(3))


def test_fairgrad_limits_the_length_of_what_it_has_multiplied():
    # M w = 1 / w for orthogonal gradients of lengths 2 and 4: w = (1/2, 1/4). Each adds a part of length 1.
    gram = torch.diag(torch.tensor([4.0, 16.0]))
    for options, factor in (({}, 1), ({"match_sum": True}, 2), ({"match_sum": True, "max_norm": 1.0}, 2**-0.5)):
        found = build("fairgrad", 2, alpha=1.0, **options).weights(gram)
        torch.testing.assert_close(found, factor * torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(build("fairgrad", 2, alpha=1.0, max_norm=9.0).weights(gram), torch.tensor([0.5, 0.25]))


def test_nash_keeps_its_weights_between_updates(toys):
    engine = toys.make_engine("nash", options={"update_every": 3})
    steps = [engine.train_step(toys.make_batch(i)) for i in range(4)]
    for step in (steps[0], steps[3]):
        assert ((step.gram @ step.weights) * step.weights - 1).abs().max() < NETWORK
    assert torch.equal(steps[1].weights, steps[0].weights)
    assert torch.equal(steps[2].weights, steps[0].weights)
    assert not torch.equal(steps[3].weights, steps[0].weights)


def test_nash_keeps_small_weights_and_zeros_too():
    """By hand: orthogonal gradients of lengths n have the weights 1 / n, and one of length 0 has the weight 0."""

    def weights(balancer, number, *squares):
        gram = torch.diag(torch.tensor(squares, dtype=torch.float64))
        step = Step(balancer, number=number)
        step.tasks, step.losses = balancer.tasks, torch.ones(len(squares))
        step.gradients = SimpleNamespace(gram=lambda: gram)
        balancer.combine(step)
        balancer.after_step(step)
        return step.decoder_weights.tolist()

    for second, kept in ((16.0, 0.25), (0.0, 0.0)):
        balancer = build("nash", 2, update_every=2, max_norm=1.0)
        found = [weights(balancer, *given) for given in ((0, 4.0, second), (1, 1.0, 1.0), (2, 1.0, 1.0))]
        assert found == [pytest.approx(expected) for expected in ([0.5, kept], [0.5, kept], [1.0, 1.0])]


def test_nash_keeps_weights_by_task_and_solves_for_a_newcomer(toys):
    engine = toys.make_engine("nash", options={"update_every": 100})
    two = engine.train_step(toys.without(toys.make_batch(0), "depth"))
    one = engine.train_step(toys.without(toys.without(toys.make_batch(1), "depth"), "segmentation"))
    assert one.weights.tolist() == two.weights[1:].tolist()
    three = engine.train_step(toys.make_batch(2))  # depth has no weight yet
    assert ((three.gram @ three.weights) * three.weights - 1).abs().max() < NETWORK
    four = engine.train_step(toys.make_batch(3))
    assert torch.equal(four.weights, three.weights)


@pytest.mark.parametrize("normalization", ["loss", "loss+"])
def test_a_loss_of_zero_leaves_mgda_the_other_tasks(normalization):
    balancer, gram = build("mgda", 2, normalization=normalization), torch.diag(torch.tensor([4.0, 9.0]))
    weights = balancer.weights(gram, torch.tensor([2.0, 0.0]))
    assert weights[0] > 0
    assert weights[1] == 0
    with pytest.raises(ValueError, match=rf"normalization={re.escape(normalization)} divides by the losses"):
        balancer.weights(gram, torch.tensor([2.0, -0.1]))
