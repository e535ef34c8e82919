"""The balancer `torchjd`, and TorchJD as the reference for the methods that both have."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from mtlkit import BALANCERS
from mtlkit.step import Step
from mtlkit.testing import check_balancer

pytest.importorskip("torchjd")
from tolerances import NETWORK, ROUNDING, SOLVED
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

TASKS = ("a", "b", "c", "d", "e", "f", "g", "h")


def jacobian(k, kind="random"):
    """Returns gradients (k, d). `kind` says how their lengths and directions are related."""
    g = torch.Generator().manual_seed(k)
    rows = torch.randn(k, 40, generator=g, dtype=torch.float64) - 0.3 * torch.randn(
        40, generator=g, dtype=torch.float64
    )
    if kind == "scaled":
        rows *= torch.logspace(-2, 2, k, dtype=torch.float64)[:, None]
    if kind == "conflict":
        rows[-1] = -rows[0] + 0.1 * rows[-1]
    if kind == "nearly":
        rows[-1] = rows[0] + 1e-3 * rows[-1]
    if kind == "twins":
        rows[-1] = rows[0]
    if kind == "deficient":  # rank k - 1, except for k = 2
        rows = rows[:, : max(k - 1, 2)]
    return rows


COUNTS = (2, 3, 5, 8)
KINDS = ("random", "scaled", "conflict", "nearly", "twins", "deficient")


def ours(name, rows, **options):
    return BALANCERS.build(name, tasks=TASKS[: len(rows)], **options).weights(rows @ rows.T) @ rows


# -- the oracle -----------------------------------------------------------------------------------------------------

# QuadprogProjector adds reg_eps to the diagonal of M / tr M. A comparison would mainly measure its default of 1e-4.
# quadprog needs a small value for a singular M.
PROJECTOR = QuadprogProjector(norm_eps=0, reg_eps=1e-14)

# name: our options, TorchJD's aggregator, the tolerance (with its reason), the kinds left out (with the reason)
ORACLES = {
    # Both are closed forms over a pseudo-inverse: the error is the rounding times a condition number of 1e6 in M.
    # "deficient" is left out: TorchJD inverts M and mtlkit inverts U, so their least squares differ.
    "imtl_g": ({}, lambda: aggregation.IMTLG(), 1e-8, {"deficient"}),
    "config": ({}, lambda: aggregation.ConFIG(), 1e-8, set()),
    "aligned_mtl": ({}, lambda: aggregation.AlignedMTL(), 1e-8, set()),
    # reg_eps is 1e-14 of the trace, and squared lengths are as small as 1e-8 of it.
    "upgrad": ({}, lambda: aggregation.UPGrad(projector=PROJECTOR), 1e-6, set()),
    "dual_projection": ({}, lambda: aggregation.DualProj(projector=PROJECTOR), 1e-6, set()),
    # Clarabel stops at a duality gap of 1e-8, which is the square of the error in the gradient.
    "cagrad": ({"c": 0.5}, lambda: aggregation.CAGrad(c=0.5, norm_eps=0), 3e-4, set()),
    # scipy's least_squares stops at 1e-8.
    "fairgrad": ({"alpha": 2.0}, lambda: aggregation.FairGrad(alpha=2.0, max_iters=10**4), 1e-6, set()),
}


@pytest.mark.parametrize(("name", "kind"), [(n, kind) for n in ORACLES for kind in KINDS if kind not in ORACLES[n][3]])
def test_the_combined_gradient_is_torchjds(name, kind):
    options, oracle, tolerance, _ = ORACLES[name]
    if name == "cagrad":
        pytest.importorskip("cvxpy")
    for k in COUNTS:
        rows = jacobian(k, kind)
        found, expected = ours(name, rows, **options), oracle()(rows)
        # If the combined gradient is nearly 0, the error is relative to the size of the task gradients.
        assert (found - expected).norm() <= tolerance * max(expected.norm(), 1e-3 * rows.norm()), k


@pytest.mark.parametrize("k", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_mgda_is_at_least_as_short_as_torchjds(kind, k):
    """TorchJD makes steps by Frank and Wolfe. The error after t steps is at most 4 diam^2 / (t + 2)."""
    steps, rows = 2000, jacobian(k, kind)
    found, walked = ours("mgda", rows), aggregation.MGDA(epsilon=1e-15, max_iters=steps)(rows)
    excess = walked @ walked - found @ found
    rounding = 1e-12 * (walked @ walked)
    assert excess <= 4 * torch.cdist(rows, rows).max() ** 2 / (steps + 2)
    # The shortest point g has <g, x> >= |g|^2 for every x in the hull, so |x - g|^2 <= |x|^2 - |g|^2.
    assert (walked - found).square().sum() <= excess + rounding
    if (kind, k) in {("random", 2), ("random", 3), ("random", 5), ("twins", 3)}:  # TorchJD converges
        torch.testing.assert_close(found, walked, rtol=NETWORK, atol=ROUNDING)


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")  # cvxpy warns about TorchJD's problem
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "scaled"])
def test_nash_is_torchjds(kind):
    """The results agree, except where TorchJD's solver gives up (uneven lengths, two similar gradients)."""
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    for k in COUNTS[1:] if kind in ("nearly", "twins") else COUNTS:
        rows = jacobian(k, kind)
        expected = aggregation.NashMTL(n_tasks=k, max_norm=0, optim_niter=100)(rows)
        # TorchJD stops where |M a - 1 / a| < 1e-3 or a moves by less than 1e-6, with M divided by its norm.
        assert (ours("nash", rows) - expected).norm() <= 1e-5 * expected.norm(), k


@pytest.mark.parametrize("kind", KINDS)
def test_pcgrad_of_two_tasks_is_torchjds(kind):
    rows = jacobian(2, kind)  # two tasks have only one order
    torch.testing.assert_close(ours("pcgrad", rows), aggregation.PCGrad()(rows), rtol=ROUNDING, atol=ROUNDING)


def test_pcgrad_of_three_tasks_has_torchjds_distribution():
    rows = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3], [-0.3, -1.0, 0.4]], dtype=torch.float64)
    gram, balancer, oracle = rows @ rows.T, BALANCERS.build("pcgrad", tasks=TASKS[:3]), aggregation.PCGrad()
    found = torch.stack([balancer.weights(gram, None, number) @ rows for number in range(80)])
    expected = torch.stack([oracle(rows) for _ in range(80)])
    distances = torch.cdist(found, expected)  # 8 equally likely results are possible
    assert distances.min(dim=0).values.max() < SOLVED
    assert distances.min(dim=1).values.max() < SOLVED
    assert distances.max() > 0.1


@pytest.mark.parametrize("kind", ["random", "conflict", "scaled"])
def test_gradvac_of_two_tasks_is_torchjds_over_many_steps(kind):
    balancer = BALANCERS.build("gradvac", tasks=TASKS[:2], beta=0.3).double()
    oracle = aggregation.GradVac(beta=0.3, eps=0)
    rows = jacobian(2, kind)
    for number in range(10):
        turned = rows + 0.5 * torch.randn(rows.shape, dtype=torch.float64) * rows.norm(dim=1, keepdim=True) / 6
        step = Step(balancer, number=number)
        step.tasks, step.gradients = TASKS[:2], SimpleNamespace(gram=lambda turned=turned: turned @ turned.T)
        found = balancer.combine(step) @ turned
        balancer.target.settle(step.noted(balancer.target))
        torch.testing.assert_close(found, oracle(turned), rtol=NETWORK, atol=ROUNDING)


# -- the adapter ----------------------------------------------------------------------------------------------------

WEIGHTINGS = {
    "AlignedMTL": {"scale_mode": "median"},
    "CAGrad": {"c": 0.4},
    "DualProj": {},
    "FairGrad": {"alpha": 1.5},
    "IMTLG": {},
    "Krum": {"n_byzantine": 1, "n_selected": 2},
    "MGDA": {"max_iters": 10},
    "Mean": {},
    "Sum": {},
    "UPGrad": {},
}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_gives_what_torchjd_gives_for_the_jacobian(name):
    if name == "CAGrad":
        pytest.importorskip("cvxpy")
    rows = jacobian(5, "conflict")
    found = ours("torchjd", rows, weighting=name, options=WEIGHTINGS[name])
    expected = getattr(aggregation, name)(**WEIGHTINGS[name])(rows)
    torch.testing.assert_close(found, expected, rtol=NETWORK, atol=NETWORK)


def test_a_random_weighting_keeps_the_promises():
    check_balancer("torchjd", weighting="PCGrad")


def test_names_in_any_case_with_and_without_the_suffix():
    gram = torch.tensor([[1.0, -0.5], [-0.5, 4.0]], dtype=torch.float64)
    found = [
        BALANCERS.build("torchjd", tasks=TASKS[:2], weighting=name).weights(gram)
        for name in ("MGDA", "mgda", "MGDAWeighting", "mgdaweighting")
    ]
    assert all(torch.equal(found[0], other) for other in found)
    assert found[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("weighting", "error", "message"),
    [
        ("upgard", LookupError, "TorchJD has no weighting 'upgard'. Did you mean 'upgrad'"),
        ("Weighting", LookupError, "TorchJD has no weighting 'Weighting'. Known: alignedmtl"),
        ("NashMTL", ValueError, "NashMTL keeps a state that no checkpoint would hold"),
        ("crmogm", ValueError, "CRMOGMWeighting keeps a state that no checkpoint would hold"),
        (
            "GradDrop",
            ValueError,
            "gives no weights of the gradients. See whether mtlkit has the method itself: mtlkit list",
        ),
    ],
)
def test_what_cannot_be_a_balancer_is_refused(weighting, error, message):
    with pytest.raises(error, match=re.escape(message)):
        BALANCERS.build("torchjd", tasks=TASKS[:2], weighting=weighting)


@pytest.mark.parametrize(
    ("weighting", "options", "message"),
    [
        ("MGDA", {"max_iter": 3}, "The weighting 'MGDA' has no option 'max_iter'. Did you mean 'max_iters'"),
        ("Krum", {}, "balancer.options for TorchJD's Krum: missing a required argument: 'n_byzantine'"),
        ("Krum", {"n_byzantine": 1}, "balancer.options for TorchJD's Krum: Parameter `gramian` should have at least 4"),
        ("MGDA", {"epsilon": -1}, "balancer.options for TorchJD's MGDA: epsilon must be positive, but got -1"),
        ("Constant", {"weights": [1, 2]}, "weights must be given by name, as task: number"),
        ("Constant", {"weights": {"a": 1}}, "weights must have a number for each task. Look at 'b'"),
        ("UPGrad", {"pref_vector": 3.0}, "balancer.options for TorchJD's UPGrad: "),
        ("UPGrad", {"projector": {"eps": 3.0}}, "balancer.options for TorchJD's UPGrad: "),
    ],
)
def test_wrong_options_are_a_users_mistake(weighting, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BALANCERS.build("torchjd", tasks=TASKS[:2], weighting=weighting, options=options)


def test_vectors_go_by_the_names_of_the_present_tasks():
    options = {"weights": {"c": 3.0, "a": 1.0, "b": 2.0}}
    balancer = BALANCERS.build("torchjd", tasks=("b", "c", "a"), weighting="constant", options=options)
    assert balancer.weights(torch.eye(3, dtype=torch.float64)).tolist() == [2, 3, 1]
    assert balancer.weights(torch.eye(2, dtype=torch.float64), ("c", "a")).tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"of b, c, a, got the shape \(2, 2\)"):
        balancer.weights(torch.eye(2, dtype=torch.float64))


def test_the_projectors_thresholds_can_be_lowered():
    rows = 1e-3 * jacobian(2, "conflict")
    projector = {"norm_eps": 0.0, "reg_eps": 1e-14}
    sharp = ours("torchjd", rows, options={"projector": projector})
    blunt = ours("torchjd", rows)  # TorchJD's default treats such short gradients as zero
    # Rounding of products of 1e-6, see tolerances.ROUNDING.
    assert (rows @ sharp).min() > -1e-12
    torch.testing.assert_close(blunt, rows.mean(dim=0))


def test_random_weightings_draw_from_the_seed_and_leave_torchs_generator_alone():
    balancer, gram = BALANCERS.build("torchjd", tasks=TASKS[:3], weighting="random"), torch.eye(3, dtype=torch.float64)
    before = torch.get_rng_state()
    first, second = balancer.weights(gram), balancer.weights(gram, None, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(balancer.weights(gram), first)
    assert not torch.equal(first, second)
    permuted = BALANCERS.build("torchjd", tasks=("c", "a", "b"), weighting="random")
    permuted.load_state_dict(balancer.state_dict())
    assert torch.equal(permuted.weights(gram), first[[2, 0, 1]])


def test_matrix_weightings_get_a_root_of_the_gram_matrix(monkeypatch):
    class Norms(aggregation.Weighting):
        def forward(self, matrix):
            assert matrix.shape == (3, 3)
            return matrix.norm(dim=1)

    def init(self):
        aggregation.WeightedAggregator.__init__(self, Norms())

    monkeypatch.setattr(aggregation.Mean, "__init__", init)
    rows = 0.1 * jacobian(3)
    weights = BALANCERS.build("torchjd", tasks=TASKS[:3], weighting="mean").weights(rows @ rows.T)
    torch.testing.assert_close(weights, rows.norm(dim=1))


@pytest.mark.parametrize("missing", ["torchjd", "quadprog"])
def test_a_missing_package_is_a_users_mistake_with_the_command_that_installs_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r'pip install "torchjd\[(full|quadprog_projector)\]'):
        BALANCERS.build("torchjd", tasks=TASKS[:2])


def test_the_list_of_weightings_has_no_name_that_would_be_refused():
    with pytest.raises(LookupError) as error:
        BALANCERS.build("torchjd", tasks=TASKS[:2], weighting="Weighting")
    listed = str(error.value).partition("Known: ")[2].rstrip(".").split(", ")
    assert "upgrad" in listed
    for refused in ("nashmtl", "crmogm", "graddrop"):
        assert refused not in listed
