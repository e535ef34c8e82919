"""Compares PCGrad, GradVac, IMTL-G, ConFIG and gradient similarity with their definitions on gradient vectors."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SINGLE, SOLVED

from mtlkit import BALANCERS
from mtlkit.engine.scalars import scalars_of
from mtlkit.testing import check_balancer

NAMES = ("pcgrad", "gradvac", "imtl_g", "config", "gradient_similarity")
OPTIONS = [
    *((name, {"space": "parameters"}) for name in NAMES),
    ("gradvac", {"beta": 0.5}),
    ("gradvac", {"beta": 1.0}),
    ("gradient_similarity", {"weighted": True, "main": "a"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_options_keep_the_promises(name, options):
    check_balancer(name, **options)


def gradients(k, *, seed=0, d=12):
    """Returns (k, d) gradients of unequal lengths with a common part: some pairs agree and others conflict."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, d, generator=g, dtype=torch.float64) + 0.5 * torch.randn(d, generator=g, dtype=torch.float64)
    return rows * 10 ** torch.randn(k, 1, generator=g, dtype=torch.float64)


def build(name, k, **options):
    return BALANCERS.build(name, tasks=tuple("abcdefghijklmnopqrstuvwxyz"[:k]), **options)


def cosine(a, b):
    return torch.dot(a, b) / a.norm() / b.norm()


# -- what they share ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_tasks_is_no_matter(name):
    balancer = build(name, 6)
    if name == "gradvac":
        balancer.target.value.copy_(torch.rand(6, 6) - 0.5)
    rows = gradients(6)
    order = [3, 5, 0, 1, 4, 2]
    permuted = BALANCERS.build(name, tasks=[balancer.tasks[i] for i in order])
    permuted.load_state_dict(balancer.state_dict())
    expected = balancer.weights(rows @ rows.T)[order]
    torch.testing.assert_close(permuted.weights(rows[order] @ rows[order].T), expected, rtol=NETWORK, atol=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_all_losses_changes_no_weight(name, scale):
    balancer, rows = build(name, 5), gradients(5)
    scaled = scale * rows
    torch.testing.assert_close(balancer.weights(scaled @ scaled.T), balancer.weights(rows @ rows.T))


@pytest.mark.parametrize("name", NAMES)
def test_zero_and_equal_gradients_and_single_tasks(name):
    rows = gradients(4)
    for degenerate in (rows * 0, rows[[0, 0, 1, 1]], rows * torch.tensor([[0], [1], [1], [0]]), rows[:1], rows[:1] * 0):
        weights = build(name, len(degenerate)).weights(degenerate @ degenerate.T)
        assert torch.isfinite(weights).all()
        assert weights.dtype == torch.float64
    assert build(name, 1).weights(rows[:1] @ rows[:1].T).item() == pytest.approx(1)
    # A task without gradient changes nothing for the others.
    with_zero = torch.cat([rows, rows[:1] * 0])
    changed = build(name, 5)
    alone = build(name, 4)
    # Their random order depends on all K names. So this compares two tasks, which have only one order.
    if name in ("pcgrad", "gradvac"):
        rows, with_zero = rows[:2], torch.cat([rows[:2], rows[:1] * 0])
        changed, alone = build(name, 3), build(name, 2)
    expected = alone.weights(rows @ rows.T) @ rows
    torch.testing.assert_close(changed.weights(with_zero @ with_zero.T) @ with_zero, expected)


@pytest.mark.parametrize("name", ["pcgrad", "gradvac", "gradient_similarity"])
def test_a_gram_matrix_of_other_tasks_is_refused(name):
    with pytest.raises(ValueError, match=r"of a, b, got the shape \(3, 3\)"):
        build(name, 2).weights(torch.eye(3, dtype=torch.float64))


# -- surgery ------------------------------------------------------------------------------------------------------


def operated(rows, i, order, targets=None):
    """Returns the vector g'_i after it has met the others in this order. `targets` are those of GradVac."""
    mine = rows[i].clone()
    for j in order:
        if targets is None:
            product = torch.dot(mine, rows[j])
            mine = mine - min(product, 0.0) / rows[j].square().sum() * rows[j]
        elif cosine(mine, rows[j]) < targets[i, j]:
            # The law of sines: in the plane of both, move towards g_j until the angle is that of the target.
            angle, wanted = torch.acos(cosine(mine, rows[j])), torch.acos(targets[i, j])
            mine = mine + mine.norm() * torch.sin(angle - wanted) / torch.sin(wanted) * rows[j] / rows[j].norm()
    return mine


def all_results(rows, targets=None):
    """Returns the sums of the g'_i for every combination of orders."""
    k = len(rows)
    per_task = [
        [operated(rows, i, order, targets) for order in itertools.permutations(set(range(k)) - {i})] for i in range(k)
    ]
    return torch.stack([sum(choice) for choice in itertools.product(*per_task)])


@pytest.mark.parametrize("name", ["pcgrad", "gradvac"])
def test_surgery_is_the_papers_under_some_order_and_orders_change_from_step_to_step(name):
    rows = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3], [-0.3, -1.0, 0.4]], dtype=torch.float64)
    balancer, targets = build(name, 3), None
    if name == "gradvac":
        targets = torch.tensor([[0.0, 0.3, -0.1], [0.2, 0.0, -0.2], [0.4, 0.1, 0.0]], dtype=torch.float64)
        balancer.target.value.copy_(targets)
        targets = balancer.target.value.double()
    possible = all_results(rows, targets)
    found = torch.stack([balancer.weights(rows @ rows.T, None, number) @ rows for number in range(60)])
    distances = torch.cdist(found, possible)
    assert (distances.min(dim=1).values < SOLVED).all()
    assert len(set(distances.argmin(dim=1).tolist())) == len(possible) == 8  # each result occurred
    torch.testing.assert_close(balancer.weights(rows @ rows.T, None, 7) @ rows, found[7], rtol=0, atol=0)


def test_pcgrad_leaves_agreeing_gradients_alone_and_sums():
    gram = torch.tensor([[1.0, 0.5, 0.0], [0.5, 4.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    assert build("pcgrad", 3).weights(gram).tolist() == [1, 1, 1]


def test_gradvac_with_targets_of_zero_is_pcgrad():
    rows = gradients(6)
    pcgrad, gradvac = build("pcgrad", 6), build("gradvac", 6)
    gradvac.seed.copy_(pcgrad.seed)
    weights = pcgrad.weights(rows @ rows.T)
    assert (weights - 1).abs().max() > 0.1
    torch.testing.assert_close(gradvac.weights(rows @ rows.T), weights)


def test_gradvac_reaches_its_targets():
    rows, balancer = gradients(2), build("gradvac", 2)
    balancer.target.value.copy_(torch.tensor([[0.0, 0.9], [0.6, 0.0]]))
    assert cosine(*rows) < 0.6
    weights = balancer.weights(rows @ rows.T)
    first, second = rows[0] + (weights[1] - 1) * rows[1], rows[1] + (weights[0] - 1) * rows[0]
    assert cosine(first, rows[1]).item() == pytest.approx(0.9, abs=SINGLE)
    assert cosine(second, rows[0]).item() == pytest.approx(0.6, abs=SINGLE)


def test_gradvac_stays_finite_where_targets_reach_one_and_gradients_cancel():
    balancer, rows = build("gradvac", 2), gradients(2)
    for target in (1.0, -1.0, 0.0):
        balancer.target.value.fill_(target)
        for pair in (rows, rows[[0, 0]], torch.stack([rows[0], -rows[0]])):
            assert torch.isfinite(balancer.weights(pair @ pair.T)).all()


def test_gradvac_knows_its_targets_by_the_tasks_names():
    """By hand, with orthogonal unit gradients: g'_b = g_b + t / sqrt(1 - t^2) g_c, which is 4/3 for t = 0.8."""
    balancer = build("gradvac", 3)
    balancer.target.value.copy_(torch.tensor([[0.0, 0.3, 0.3], [0.3, 0.0, 0.8], [0.3, 0.6, 0.0]]))
    found = balancer.weights(torch.eye(2, dtype=torch.float64), ("b", "c"))
    assert found.tolist() == pytest.approx([1 + 0.6 / 0.8, 1 + 0.8 / 0.6], rel=SINGLE)


def met(rows, number=0):
    """Returns the cosines that GradVac, with targets of 0, measures in a step with these gradients (k, d)."""
    balancer, kept = build("gradvac", len(rows)), []
    step = SimpleNamespace(gram=rows @ rows.T, tasks=balancer.tasks, number=number)
    step.keep = lambda state, values: kept.append((state, values))
    balancer.combine(step)
    ((state, values),) = kept
    assert state is balancer.target
    return values


@pytest.mark.parametrize("sign", [1, -1])
def test_gradvac_takes_a_cosine_that_rounding_put_beyond_one_for_one(sign):
    pairs = [torch.outer(torch.tensor([1, 0.3 * sign]).double(), gradients(1, seed=seed)[0]) for seed in range(50)]
    found = torch.stack([met(rows)[0, 1] for rows in pairs])
    torch.testing.assert_close(found, torch.full_like(found, sign))
    assert found.abs().max() <= 1


def test_gradvac_finds_no_cosine_with_zero_and_of_what_was_cancelled():
    """a and b cancel each other, except for one part in 10^7, which is below 10^-6."""
    rows = torch.tensor([[100.0, 0.0], [-1.0, 1e-7], [0.0, 0.0]], dtype=torch.float64)
    found = met(rows)
    assert [found[0, 1].item(), found[1, 0].item()] == pytest.approx([-1, -1])
    assert found[2].isnan().all()
    assert found[:, 2].isnan().all()
    third = torch.tensor([[100.0, 0.0], [-1.0, 1e-7], [0.6, 0.8]], dtype=torch.float64)
    cosines = torch.cat([met(third, number)[:2, 2] for number in range(20)])
    assert set(cosines[~cosines.isnan()].mul(1e6).round().tolist()) == {6e5, -6e5}  # cosines of a and b with the third
    assert cosines.isnan().any()  # where a and b met each other first


def test_gradvacs_targets_move_once_a_step_and_only_those_of_present_pairs(toys):
    beta = 0.25
    engine = toys.make_engine("gradvac", options={"beta": beta}, accumulation=2)
    balancer, names = engine.balancer, ["attributes", "depth", "segmentation"]
    balancer.target.value.fill_(-1.0)  # none is below -1, so g'_i stays g_i, and the cosines are those of the log
    for number in range(2):
        before = balancer.target.value.clone()
        absent = "attributes" if number == 0 else "depth"
        steps = [engine.train_step(toys.without(toys.make_batch(2 * number + part), absent)) for part in range(2)]
        pair = [name for name in toys.TASK_NAMES if name != absent]
        mean = sum(scalars_of(step)[f"cosine/{pair[0]}/{pair[1]}"] for step in steps) / 2
        i, j = (names.index(name) for name in pair)
        expected = before.clone()
        expected[i, j] = expected[j, i] = (1 - beta) * -1.0 + beta * mean
        torch.testing.assert_close(balancer.target.value, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", ["pcgrad", "gradvac"])
def test_all_micro_batches_of_a_step_use_one_order_and_it_is_the_steps(toys, name):
    engine = toys.make_engine(name, accumulation=2)
    weights = [engine.train_step(toys.make_batch(0)).weights for _ in range(2)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    step = engine.train_step(toys.make_batch(0))
    expected = engine.balancer.weights(step.gram, step.tasks, 1)
    torch.testing.assert_close(step.weights, expected, rtol=0, atol=0)


# -- impartial directions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 8])
def test_imtl_g_projects_equally_on_all_and_its_weights_sum_to_one(k):
    rows = gradients(k)
    weights = build("imtl_g", k).weights(rows @ rows.T)
    projections = (rows / rows.norm(dim=1, keepdim=True)) @ (weights @ rows)
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(projections, projections.mean().expand(k), rtol=NETWORK, atol=0)
    assert weights.std() > 0.01


def test_imtl_g_in_the_limit_of_opposed_gradients():
    e, f = torch.eye(2, dtype=torch.float64)
    for tilt in (1e-3, 0.0):
        rows = torch.stack([e, -3 * e + tilt * f])
        weights = build("imtl_g", 2).weights(rows @ rows.T)
        # The tilt of 1e-3 moves the weights by about its square, 1e-6.
        torch.testing.assert_close(weights, torch.tensor([0.75, 0.25], dtype=torch.float64), rtol=1e-5, atol=0)


def test_imtl_g_with_dependent_gradients_is_equal_in_least_squares():
    rows = gradients(4, d=2)  # four directions in a plane
    units = rows / rows.norm(dim=1, keepdim=True)
    weights = build("imtl_g", 4).weights(rows @ rows.T)
    found = weights @ rows
    best = torch.linalg.lstsq(units, torch.ones(4, 1, dtype=torch.float64)).solution[:, 0]
    assert cosine(found, best).abs().item() == pytest.approx(1)
    assert weights.sum().item() == pytest.approx(1)


def test_imtl_g_takes_two_gradients_for_one_that_hardly_differ():
    """If their angle of 1e-7 counted, the two would get weights of 1e7 and -1e7."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-7, 0.0], [0.0, 0.5**0.5, 0.5**0.5]], dtype=torch.float64)
    # Taken as one, the two are orthogonal to the third. So both sides get 1/2.
    expected = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(build("imtl_g", 3).weights(rows @ rows.T), expected, rtol=0, atol=SINGLE)  # angle: 1e-7


def test_imtl_g_without_any_gradient_weighs_all_alike():
    assert build("imtl_g", 4).weights(torch.zeros(4, 4)).tolist() == [0.25] * 4


@pytest.mark.parametrize("k", [2, 3, 8])
def test_config_has_one_positive_cosine_with_all_and_the_length_of_all_projections(k):
    rows = gradients(k)
    direction = build("config", k).weights(rows @ rows.T) @ rows
    cosines = torch.stack([cosine(row, direction) for row in rows])
    assert cosines.min() > 0
    torch.testing.assert_close(cosines, cosines.mean().expand(k), rtol=NETWORK, atol=0)
    assert direction.norm().item() == pytest.approx((rows @ direction / direction.norm()).sum().item())


def test_config_stands_still_between_opposed_gradients():
    e, f = torch.eye(2, dtype=torch.float64)
    for tilt in (1e-3, 0.0):
        rows = torch.stack([e, -3 * e + tilt * f])
        assert (build("config", 2).weights(rows @ rows.T) @ rows).norm() < 4 * tilt + ROUNDING


def test_config_takes_gradients_that_rounding_hardly_tells_apart_for_one():
    """By hand: x is 1/2, 1/2 and 1, and |d|^2 is 2. So the three lengths of 1 give the weights 3/2 x.

    The first two differ only by an eigenvalue of 5e-15. Its inverse would give weights of 1e7.
    """
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-7, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64)
    weights = build("config", 3).weights(rows @ rows.T)
    assert weights.tolist() == pytest.approx([0.75, 0.75, 1.5])


def test_config_weighs_nothing_where_all_cosines_vanish():
    """Three unit gradients at 120 degrees: their sum is 0, and so is every direction with equal cosines."""
    angles = torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64) + torch.arange(3) * 2 * torch.pi / 3
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert build("config", 3).weights(rows @ rows.T).tolist() == [0, 0, 0]


# -- a main task --------------------------------------------------------------------------------------------------


def test_auxiliary_gradients_count_where_they_agree_with_the_main_one():
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 5.0], [0.0, 2.0]], dtype=torch.float64)
    gram = rows @ rows.T
    for main, plain, weighted in (
        ("a", [1, 1, 0, 1], [1, 0.6, 0, 0]),
        ("d", [1, 1, 1, 1], [0, 0.8, 5 / 26**0.5, 1]),
    ):
        assert build("gradient_similarity", 4, main=main).weights(gram).tolist() == plain
        found = build("gradient_similarity", 4, main=main, weighted=True).weights(gram)
        assert found.tolist() == pytest.approx(weighted)


def test_no_weight_of_a_parallel_gradient_is_above_one():
    """Their cosine is 1, and rounding may make it larger than 1."""
    for seed in range(50):
        rows = torch.outer(torch.tensor([1.0, 0.3, 7.0], dtype=torch.float64), gradients(1, seed=seed)[0])
        weights = build("gradient_similarity", 3, weighted=True).weights(rows @ rows.T)
        torch.testing.assert_close(weights, torch.ones_like(weights))
        assert weights.max() <= 1


def test_the_main_task_is_found_by_name_among_those_present():
    balancer = build("gradient_similarity", 3, main="b")
    gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    assert balancer.weights(gram, ("b", "c")).tolist() == [1, 0]
    assert balancer.weights(gram, ("c", "b")).tolist() == [0, 1]
    assert balancer.weights(gram, ("a", "c")).tolist() == [1, 1]  # the main task is absent
    assert BALANCERS.build("gradient_similarity", tasks=("z", "b", "c")).main == "b"
    with pytest.raises(ValueError, match=r"balancer\.main names the task 'dept'\. Did you mean 'depth'"):
        BALANCERS.build("gradient_similarity", tasks=("depth", "normals"), main="dept")


def test_gradient_similarity_in_training(toys):
    engine = toys.make_engine("gradient_similarity", options={"main": "depth", "weighted": True})
    step = engine.train_step(toys.make_batch())
    scalars = scalars_of(step)
    for task in ("segmentation", "attributes"):
        pair = f"cosine/{task}/depth" if task == "segmentation" else f"cosine/depth/{task}"
        assert scalars[f"weight/{task}"] == pytest.approx(max(0.0, scalars[pair]))
    assert scalars["weight/depth"] == 1


def test_a_task_without_gradient_keeps_its_weight_in_pcgrad():
    gram = torch.tensor([[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    # Each of the first two adds -<g_i, g_j> / |g_j|^2 = 0.5 of the other's gradient. No task conflicts with zero.
    assert build("pcgrad", 3).weights(gram).tolist() == [1.5, 1.5, 1.0]
