"""RotoGrad: its rotations, their exponential, direction and arc, its options, its exactness over processes and resumes.

Tolerances: 1e-12 is the error of float64 (2e-16 per operation) after thousands of operations on numbers of size 1.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtlkit import BALANCERS, DECODERS, TASKS, Decoder, Encoder, EncoderInfo, distributed
from mtlkit.balancers.rotograd import turn
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.scalars import scalars_of
from mtlkit.rotations import move_rotations, set_rotation
from mtlkit.run import checkpoint
from mtlkit.run.build import make_accelerator
from mtlkit.sample_group import SampleGroup
from mtlkit.step import Step

sys.path.insert(0, str(Path(__file__).parent))
from test_distributed import launch
from tolerances import NETWORK, ROUNDING, SINGLE, SOLVED

NAMES = ("c", "a", "b")
FLAT = EncoderInfo(channels=(12,), strides=(0,))
WORKER = {  # name -> balancer, options and width of the runs that are compared between one and two processes
    "low_rank": ("rotograd", {"lr": 0.1}, 64),
    "uneven": ("rotograd", {"lr": 0.1}, 64),  # the first process has 6 of 8 samples
    "maps": ("rotograd", {"lr": 0.1}, 512),  # 128 channels at 4 positions, over which the decoders average
    "whole": ("rotograd", {"lr": 0.1}, 6),
    "adam": ("rotograd", {"update": "adam"}, 6),
    "procrustes_low_rank": ("rotograd_procrustes", {"lr": 0.2}, 64),
    "procrustes_low_rank_sgd": ("rotograd_procrustes", {"lr": 0.2, "update": "sgd"}, 64),
    "procrustes_undetermined": ("rotograd_procrustes", {"lr": 0.2}, 12),
    "procrustes_whole": ("rotograd_procrustes", {"lr": 0.2}, 4),
}


class VectorEncoder(Encoder):
    """Turns (B, 3, 2, 2) images into a vector."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, width))
        self.info = EncoderInfo(channels=(width,), strides=(0,))

    @property
    def last_layer(self):
        return self.layers[-1]

    def forward(self, image):
        return [self.layers(image)]


def make_engine(
    name, options, width=64, names=NAMES, accumulation=1, precision="fp64", labels=2, maps=False, **trainer
):
    """Returns an engine for three labellings of points, with linear decoders on a vector of that width."""
    torch.manual_seed(0)
    encoder = MapEncoder(width) if maps else VectorEncoder(width)
    tasks = {name: TASKS.build("multilabel", name, tuple("vwxyz"[:labels]), decoder="linear") for name in sorted(names)}
    decoders = {name: task.decoder(encoder.info) for name, task in tasks.items()}
    model = MultiTaskModel(encoder, {name: decoders[name] for name in names})
    balancer = BALANCERS.build(name, tasks=names, **options)
    balancer.setup({name: tasks[name] for name in names}, encoder.info)
    config = TrainerConfig(max_steps=100, precision=precision, accumulation=accumulation, **({"lr": 1e-2} | trainer))
    accelerator = make_accelerator(config)
    return Engine(model, [tasks[n] for n in names], balancer, config, accelerator=accelerator, steps_per_epoch=10)


def make_batch(number=0, rows=slice(None), absent=(), labels=2):
    generator = torch.Generator().manual_seed(number)
    image = torch.rand(8, 3, 2, 2, generator=generator)
    targets = {name: torch.randint(0, 2, (8, labels), generator=generator).float()[rows] for name in sorted(NAMES)}
    return {"image": image[rows], "targets": {n: t * torch.nan if n in absent else t for n, t in targets.items()}}


def state_of(engine):
    state = {f"model.{key}": value.clone() for key, value in engine.network.state_dict().items()}
    return state | {f"balancer.{key}": value.clone() for key, value in engine.balancer.state_dict().items()}


def assert_same(one, two, tolerance=0.0):
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")


def products(engine, batch):
    """Returns M_k = sum_n u_{n,k} v_n^T by plain autograd, with one backward pass per task."""
    image, targets = engine.prepare(batch)
    (z,) = engine.network.encoder(image)
    units = {}
    for name, task in engine.tasks.items():
        total, count = task.loss(engine.network.decoders[name](engine.balancer.adapter(name, [z])), targets[name])
        (gradient,) = torch.autograd.grad(total / count, z, retain_graph=True)
        units[name] = gradient / gradient.norm()
    mean = sum(units.values()) / len(units)
    return {name: unit.T @ mean for name, unit in units.items()}


def arc_step(total, arc):
    skew = total - total.T
    return torch.linalg.matrix_exp(skew * (arc * 2**0.5 / skew.norm()))


def product(factors):
    return factors[0] @ factors[1]


def assert_rotation(rotation):
    """Checks a rotation. The promise is 1e-5 in float32, for entries and determinant. Here it must hold to 1e-6.

    Both are computed in float64, so that only the error of the matrix itself counts. An exact rotation R that is stored
    in float32 has errors of up to u |R_ij| with u = 6e-8. By Cauchy and Schwarz, an entry of R^T R has errors of up to
    2 u = 1.2e-7. In the determinant, d^2 errors of either sign add up to u sqrt(d) / 2 (4e-7 for d = 200). The rest of
    1e-6 is for errors that add up.
    """
    assert rotation.dtype == torch.float32
    rotation = rotation.detach().double()
    one = torch.eye(len(rotation), dtype=torch.float64)
    assert (rotation.T @ rotation - one).abs().max() < SINGLE
    assert torch.linalg.det(rotation) == pytest.approx(1, abs=SINGLE)


def orthogonal_matrix(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q


@pytest.mark.parametrize(("d", "n"), [(8, 1), (8, 2), (60, 5), (60, 15), (128, 32)])
@pytest.mark.parametrize("arc", [1e-3, 0.3, 4.0])
def test_the_low_rank_exponential_is_the_whole_one(d, n, arc):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(d, n, dtype=torch.float64, generator=generator) for _ in range(2))
    # Four tasks with the same right: as they come, almost symmetric, with equal columns, and tiny.
    left = torch.stack([a, b + 1e-2 * a, a[:, :1].expand(d, n), a * 1e-12])
    start = orthogonal_matrix(d).expand(4, d, d)
    halves = [(left[:, :, : n // 2], b[:, : n // 2]), (left[:, :, n // 2 :], b[:, n // 2 :])]
    found, whole = (start + product(turn(start, pairs, arc)) for pairs in (halves, [(left @ b.T, None)]))
    torch.testing.assert_close(found, whole, rtol=0, atol=ROUNDING)
    for result, own in zip(whole, left, strict=True):
        torch.testing.assert_close(result, start[0] @ arc_step(own @ b.T, arc), rtol=0, atol=ROUNDING)
        assert (result - start[0]).abs().max() > arc * 1e-3 / d  # the rotation has moved


def test_what_is_aligned_or_zero_stands_still():
    left = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    for right in (3 * left, 0 * left, left @ (left.T @ left)):
        for pair in ((left[None], right), ((left @ right.T)[None], None)):
            change = product(turn(orthogonal_matrix(40).float()[None], [pair], 1e-2))
            # M - M^T is a rounding error of 1e-7 |M|, divided by |M| / 1000: 1e-4 of the arc of 1e-2, and a margin of
            # ten.
            assert change.abs().max() < 1e-5


@pytest.mark.parametrize("width", [6, 64])
def test_a_step_turns_each_rotation_by_an_arc_along_the_gradient(width):
    """6 channels use the whole matrices, and 64 channels use the factors of 8 samples."""
    engine, batch = make_engine("rotograd", {"lr": 0.05}, width), make_batch()
    engine.train_step(make_batch(1))
    expected = {
        name: engine.balancer.rotation[name] @ arc_step(total, 0.05) for name, total in products(engine, batch).items()
    }
    step = engine.train_step(batch)
    for name, rotation in expected.items():
        torch.testing.assert_close(engine.balancer.rotation[name], rotation, rtol=0, atol=ROUNDING)
    alignments = [scalars_of(step)[f"balancer/alignment/{name}"] for name in NAMES]
    assert all(-1 < value < 0.5 for value in alignments)


def test_the_geodesic_direction_is_the_gradient_of_the_lie_parameters_at_zero():
    engine, batch = make_engine("rotograd", {"update": "adam"}, 6), make_batch()
    balancer = engine.balancer
    for name in NAMES:
        balancer.base[name].data.copy_(orthogonal_matrix(6))
        balancer.rotation[name].data.copy_(orthogonal_matrix(6))
    totals = products(engine, batch)
    engine._update = lambda *_: None
    step = engine.train_step(batch)
    for name, norm in zip(step.tasks, step.norms, strict=True):
        gradient = norm * (totals[name].T - totals[name]).tril(-1)  # only the entries of S below the diagonal are free
        torch.testing.assert_close(balancer.generator[name].grad, gradient, rtol=NETWORK, atol=ROUNDING)


@pytest.mark.parametrize("width", [6, 64])
def test_the_scale_of_the_losses_does_not_matter(width):
    rotations = []
    for factor in (1.0, 1e-8):
        engine = make_engine("rotograd", {"lr": 0.05}, width, lr=1e-12)
        for task in engine.tasks.values():
            loss = task.loss
            task.loss = lambda output, target, loss=loss, f=factor: (
                loss(output, target)[0] * f,
                loss(output, target)[1],
            )
        for number in range(3):
            engine.train_step(make_batch(number))
        rotations.append({name: value.detach().clone() for name, value in engine.balancer.rotation.items()})
    assert_same(*rotations, tolerance=SOLVED)


@pytest.mark.parametrize("width", [6, 64])
def test_the_alignment_falls_while_the_network_stands_still(width):
    engine, batch = make_engine("rotograd", {"lr": 0.05}, width, lr=1e-12, precision="fp32"), make_batch()
    first, *_, last = (
        sum(value for key, value in engine.train_step(batch).extras.items() if key.startswith("alignment"))
        for _ in range(60)
    )
    assert last < first - 0.1


def end_step(balancer, number, rate, pair):
    """Makes the end of a step with the only task `a`, whose M is left right^T."""
    step = Step(balancer, number=number, rate=rate)
    step.window.tasks.add("a")
    step.note("factors", pair)
    balancer.after_step(step)


def turned(d, n, lr, steps, same_direction):
    """Returns the rotation after `steps` steps of `geodesic`, with n samples and positions per step."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    balancer = BALANCERS.build("rotograd", tasks=("a",))
    balancer.setup({}, EncoderInfo((d,), (0,)))
    pair = torch.randn(2, n, d, generator=generator)
    for number in range(steps):
        left, right = pair if same_direction else torch.randn(2, n, d, generator=generator)
        end_step(balancer, number, lr, (left.T[None], right.T))
    return balancer.rotation["a"]


@pytest.mark.parametrize(
    ("d", "n", "lr", "same_direction"),  # in the same direction, all steps round in the same way: the worst case
    [
        (6, 8, 1e-2, True),
        (6, 1, 0.1, True),
        (40, 40, 2e-3, True),
        (40, 8, 2e-3, True),
        (40, 8, 0.1, False),
        (6, 8, 3, False),
    ],
)
def test_rotations_stay_rotations_for_a_thousand_steps(d, n, lr, same_direction):
    assert_rotation(turned(d, n, lr, 1000, same_direction))


@pytest.mark.parametrize(("update", "steps"), [("geodesic", 1000), ("adam", 200)])  # with `adam`, errors do not add up
def test_rotations_stay_rotations_and_the_alignment_loss_falls(toys, update, steps):
    # The network does not move, so the test shows only what the leader (the rotations) does.
    options = {"lr": 1e-2, "update": update}
    engine = toys.make_engine("rotograd", options=options, lr=1e-12, steps=steps, precision="fp32")
    batch = toys.make_batch()
    first, *_, last = (
        sum(value for key, value in engine.train_step(batch).extras.items() if key.startswith("alignment"))
        for _ in range(steps)
    )
    assert last < first - 0.1
    for rotation in engine.balancer.rotation.values():
        assert_rotation(rotation)
        assert (rotation - torch.eye(6)).abs().max() > 0.1  # the rotation has moved


@pytest.mark.parametrize("lr", [2e-3, 0.1])
@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_rotations_stay_rotations_where_they_are_almost_aligned(lr, size):
    """They turn until M is symmetric. Then M - M^T is a difference of almost equal numbers."""
    torch.manual_seed(0)
    balancer = BALANCERS.build("rotograd", tasks=("a",))
    balancer.setup({}, EncoderInfo((40,), (0,)))
    right, mixing = torch.randn(40, 8), torch.randn(8, 8)
    left = right @ (mixing + mixing.T) + size * torch.randn(40, 8)
    for number in range(300):
        end_step(balancer, number, lr, (left[None], right))
        if number % 50 == 49:
            assert_rotation(balancer.rotation["a"])


def test_a_thousand_steps_one_way_are_one_long_arc():
    """Steps that are smaller than the rounding of the entries are not lost."""
    generator = torch.Generator().manual_seed(1)
    total, start = torch.randn(6, 6, generator=generator, dtype=torch.float64), orthogonal_matrix(6)
    balancer = BALANCERS.build("rotograd", tasks=("a",))
    balancer.setup({}, EncoderInfo((6,), (0,)))
    balancer.rotation["a"].data.copy_(start)
    balancer.remainder["a"].data.copy_(start - balancer.rotation["a"])
    for number in range(1000):
        end_step(balancer, number, 1e-6, (total.float()[None], None))
    # Rounding errors (6e-8) of the direction, relative to the arc of 1e-3, and of the stored entries.
    torch.testing.assert_close(
        balancer.rotation["a"].double(), start @ arc_step(total, 1e-3), rtol=0, atol=6e-8 + 1e-3 * 1e-6
    )


def stand_still(rotation, remainder, number, rate):
    none = (torch.zeros(1, len(rotation), 1), torch.zeros(1, 1, len(rotation)))
    move_rotations(rotation[None], remainder[None], none, number=number, rate=rate)


def test_a_rotation_and_its_remainder_keep_what_float32_cannot():
    value, pair = orthogonal_matrix(5), (torch.zeros(5, 5), torch.ones(5, 5))
    set_rotation(*pair, value)
    for number in (1, 0):  # errors are removed in step 0 only
        # The remainder is below 6e-8, with a relative error of 6e-8.
        torch.testing.assert_close(pair[0].double() + pair[1].double(), value, rtol=0, atol=1e-14)
        stand_still(*pair, number, 1e-3)
    torch.testing.assert_close(pair[0].double() + pair[1].double(), value, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("rate", "every"), [(1e-4, 100), (0.01, 100), (0.25, 4), (3.0, 1)])
def test_errors_are_taken_out_once_the_turns_have_added_up_to_one(rate, every):
    corrected = []
    for number in range(1, 2 * every + 1):
        # A step of Newton's method reduces the error of 1e-3 to about its square.
        rotation = 1.001 * torch.eye(3)
        stand_still(rotation, torch.zeros(3, 3), number, rate)
        if (rotation - torch.eye(3)).abs().max() < 1e-5:
            corrected.append(number)
    assert corrected == [every, 2 * every]


@pytest.mark.parametrize("size", [1e-2, 1.0, 10.0])
def test_adams_rotations_are_rotations(size):
    balancer = BALANCERS.build("rotograd", tasks=("a",), update="adam", start="random")
    balancer.setup({}, EncoderInfo((64,), (0,)))
    balancer.generator["a"].data.normal_(std=size, generator=torch.Generator().manual_seed(0))
    balancer.after_step(Step(balancer, rate=1e-3))
    assert_rotation(balancer.rotation["a"])
    assert (balancer.rotation["a"] - balancer.base["a"]).abs().max() > 1e-3  # the rotation has moved


@pytest.mark.parametrize("start", ["small", "random"])
@pytest.mark.parametrize("update", ["geodesic", "adam"])
def test_rotations_start_as_the_option_says(start, update):
    torch.manual_seed(0)
    balancer = BALANCERS.build("rotograd", tasks=("a", "b"), start=start, update=update)
    balancer.setup({}, EncoderInfo((50,), (0,)))
    for rotation in balancer.rotation.values():
        assert_rotation(rotation)
    a, b = (rotation.detach() for rotation in balancer.rotation.values())
    assert not torch.equal(a, b)
    # 5 standard errors of the deviation of 1225 entries, which is 1e-2, are 5 / sqrt(2 * 1225) = 10 %.
    if start == "small":
        entries = ((a - a.T) / 2).tril(-1)
        # Five standard errors, as above.
        assert (entries.square().sum() / 1225).sqrt() == pytest.approx(1e-2, rel=0.1)
    else:  # the trace of Haar's rotations has mean 0 and variance 1 (Diaconis and Shahshahani, 1994)
        assert abs(a.trace()) < 5
        assert abs(b.trace()) < 5


@pytest.mark.parametrize("width", [6, 32])
def test_adam_moves_each_entry_of_the_skew_matrix_by_lr(width):
    """Adam's first step is lr times the sign of the gradient, to 1e-16, so R_1 is known except for signs."""
    engine, batch = make_engine("rotograd", {"update": "adam", "lr": 0.02, "start": "random"}, width), make_batch()
    balancer = engine.balancer
    start = {name: rotation.detach().clone() for name, rotation in balancer.rotation.items()}
    totals = products(engine, batch)
    engine.train_step(batch)
    for name, total in totals.items():
        # Down the slope of -<M, exp(S)>, whose derivative at S = 0 by the skew entry below the diagonal is M^T - M.
        expected = start[name] @ torch.linalg.matrix_exp(0.02 * torch.sign(total - total.T))
        torch.testing.assert_close(balancer.rotation[name], expected, rtol=0, atol=1e-6)  # B_k is exact to 1e-7


@pytest.mark.parametrize("width", [6, 32, 64])
def test_micro_batches_add_up(width):
    """With two micro-batches of 4 samples, 6 channels keep matrices, 64 keep factors, and 32 multiply the factors."""
    engine = make_engine("rotograd", {"lr": 0.05}, width, accumulation=2)
    halves = [make_batch(rows=rows) for rows in (slice(0, 4), slice(4, 8))]
    for half in halves:
        engine.train_step(half)
    first, second = (products(engine, half) for half in halves)
    before = {name: rotation.detach().clone() for name, rotation in engine.balancer.rotation.items()}
    for half in halves:
        engine.train_step(half)
    assert engine.step == 2
    for name in NAMES:
        expected = before[name] @ arc_step(first[name] + second[name], 0.05)
        torch.testing.assert_close(engine.balancer.rotation[name], expected, rtol=0, atol=ROUNDING)


def test_an_absent_task_keeps_its_rotation_and_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    whole, half, second = (make_engine("rotograd", {"lr": 0.05}) for _ in range(3))
    for number in range(4):
        before = whole.balancer.rotation["a"].clone()
        whole.train_step(make_batch(number, absent=("a",) if number == 2 else ()))
        assert torch.equal(before, whole.balancer.rotation["a"]) == (number == 2)
        if number < 2:
            half.train_step(make_batch(number))
    checkpoint.save_checkpoint(half, tmp_path / "half")
    checkpoint.load_checkpoint(second, tmp_path / "half")
    second.train_step(make_batch(2, absent=("a",)))
    second.train_step(make_batch(3))
    assert_same(state_of(whole), state_of(second))


def test_a_run_goes_on_with_its_tasks_in_another_order_and_from_a_checkpoint_with_a_tensor_per_task():
    one, two = (make_engine("rotograd", {"lr": 0.05}, names=names) for names in (NAMES, NAMES[::-1]))
    one.train_step(make_batch(1))
    saved = one.balancer.state_dict()
    assert {"rotation.a", "rotation.b", "rotation.c", "remainder.a"} <= saved.keys()
    two.balancer.load_state_dict({key: value.clone() for key, value in reversed(saved.items())})
    for name in NAMES:
        assert torch.equal(two.balancer.rotation[name], one.balancer.rotation[name])
    assert not torch.equal(one.balancer.rotation["a"], one.balancer.rotation["b"])
    with pytest.raises(RuntimeError, match=r"rotation\.a: the checkpoint has \(3, 3\), here it is \(64, 64\)"):
        two.balancer.load_state_dict(saved | {"rotation.a": torch.eye(3)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*rotation\.d"):
        two.balancer.load_state_dict(saved | {"rotation.d": torch.eye(64)})
    with pytest.raises(RuntimeError, match=r"Missing key.*remainder\.b"):
        two.balancer.load_state_dict({key: value for key, value in saved.items() if key != "remainder.b"})


def test_the_order_of_the_tasks_does_not_matter():
    one, two = (make_engine("rotograd", {"lr": 0.05}, names=names) for names in (NAMES, NAMES[::-1]))
    for number in range(3):
        for engine in (one, two):
            engine.train_step(make_batch(number))
    assert_same(state_of(one), state_of(two), tolerance=ROUNDING)


def test_a_level_that_no_present_task_uses_stands_still(toys):
    engine = toys.make_engine("rotograd", options={"level": 0})
    before = {name: rotation.clone() for name, rotation in engine.balancer.rotation.items()}
    batch = toys.without(toys.without(toys.make_batch(), "segmentation"), "depth")  # the attributes use level 1 only
    assert engine.train_step(batch).tasks == ("attributes",)
    assert all(torch.equal(before[name], rotation) for name, rotation in engine.balancer.rotation.items())


def weights_after(burn_in, *steps):
    """Returns the weights of the last step, with `scale_only`. Each step is a dictionary of norms."""
    balancer = BALANCERS.build("rotograd", tasks=("a", "b"), scale_only=True, burn_in=burn_in)
    for number, norms in enumerate(steps):
        step = Step(balancer, number=number)
        gram = torch.tensor(list(norms.values()), dtype=torch.float64).square().diag()
        step.tasks, step.gradients = tuple(norms), SimpleNamespace(gram=lambda gram=gram: gram)
        weights = balancer.combine(step)
        balancer.after_step(step)
    return weights.tolist()


def test_lengths_are_relative_to_those_at_the_first_step_or_at_burn_in():
    """By hand: alpha_k = (n_k / n_k^0) / sum, C = sum alpha_k n_k, weights C / n_k."""
    steps = [{"a": 1.0, "b": 4.0}, {"a": 4.0, "b": 2.0}, {"a": 2.0, "b": 1.0}]
    # From the first step: ratios 2 and 1/4, alpha 8/9 and 1/9, C = 17/9.
    assert weights_after(0, *steps) == pytest.approx([17 / 18, 17 / 9])
    assert weights_after(20, *steps) == pytest.approx([17 / 18, 17 / 9])  # step 20 has not come yet
    # From step 1: ratios 1/2 and 1/2, C = 3/2.
    assert weights_after(1, *steps) == pytest.approx([3 / 4, 3 / 2])
    # From step 2, this one: ratios 1 and 1, C = 3/2.
    assert weights_after(2, {"a": 1.0, "b": 1.0}, steps[1], {"a": 2.0, "b": 1.0}) == pytest.approx([3 / 4, 3 / 2])
    default = BALANCERS.build("rotograd", tasks=("a",)).burn_in
    assert default == 20  # as in the authors' package


def test_a_task_that_is_absent_at_burn_in_is_measured_when_it_comes_back():
    steps = [{"a": 1.0, "b": 4.0}, {"a": 4.0}, {"a": 4.0, "b": 1.0}, {"a": 2.0, "b": 0.5}]
    # Both are half of what they were, a at step 1 and b at step 2: C = (2 + 0.5) / 2.
    assert weights_after(1, *steps) == pytest.approx([1.25 / 2, 1.25 / 0.5])


def test_a_length_of_zero_is_none_to_compare_with():
    steps = [{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 4.0}, {"a": 1.0, "b": 2.0}]
    assert weights_after(0, steps[0]) == pytest.approx([1.0, 0.0])  # b has no gradient: a alone decides on C
    # Ratios 1 and 1/2, alpha 2/3 and 1/3, C = 4/3.
    assert weights_after(0, *steps) == pytest.approx([4 / 3, 2 / 3])
    # From step 1 on, b's length is measured at step 2: ratios 1 and 1/2, C = 2/3 + 1/3.
    steps = [{"a": 1.0, "b": 4.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}]
    assert weights_after(1, *steps) == pytest.approx([1.0, 1.0])


def test_lengths_alone_leave_the_features_as_they_are():
    engine, features = make_engine("rotograd", {"scale_only": True}), [torch.randn(3, 64)]
    engine.train_step(make_batch())
    assert engine.balancer.adapter("a", features) is features


def arc_between(one, two):
    """Returns the angle of the rotation from one to the other: |log(A^T B)| / sqrt(2), by its angles."""
    angles = torch.linalg.eigvals(one.T @ two).angle()
    return float((angles.square().sum() / 2).sqrt())


def test_lr_decays_and_only_the_first_dim_channels_of_the_level_turn():
    engine = make_engine("rotograd", {"lr": 0.4, "lr_decay": 0.5, "dim": 5}, width=8)
    arcs = []
    for number in range(3):
        before = engine.balancer.rotation["a"].detach().clone()
        engine.train_step(make_batch(number))
        arcs.append(arc_between(before, engine.balancer.rotation["a"].detach()))
    assert arcs == pytest.approx([0.4, 0.2, 0.1], abs=1e-6)  # the start is exact to 1e-7
    z = torch.randn(3, 8, dtype=torch.float64)
    (found,) = engine.balancer.adapter("a", [z])
    torch.testing.assert_close(found[:, :5], z[:, :5] @ engine.balancer.rotation["a"].T, rtol=0, atol=ROUNDING)
    assert torch.equal(found[:, 5:], z[:, 5:])


class MapEncoder(VectorEncoder):
    """Returns the same numbers as a map (B, C, 2, 2)."""

    def __init__(self, width):
        super().__init__(width)
        self.info = EncoderInfo(channels=(width // 4,), strides=(1,))

    def forward(self, image):
        return [self.layers(image).unflatten(1, (-1, 2, 2))]


class FlatHead(Decoder):
    """A decoder of vectors on flattened maps."""

    dense = False

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, features):
        return self.decoder([level.flatten(1) for level in features])


@pytest.mark.parametrize("update", ["geodesic", "adam"])
def test_a_flattened_map_turns_as_the_vector_of_its_numbers(update, monkeypatch):
    """Here n counts samples, because the positions of one sample are entries of one vector."""
    options = {"update": update, "dim": 6}
    vector = make_engine("rotograd", options, width=12)
    monkeypatch.setattr(sys.modules[__name__], "VectorEncoder", MapEncoder)
    monkeypatch.setattr(
        TASKS.get("multilabel"), "decoder", lambda self, info: FlatHead(DECODERS.build("linear", FLAT, 2))
    )
    flat = make_engine("rotograd", options | {"flatten": True}, width=12)
    for number in range(3):
        for engine in (vector, flat):
            engine.train_step(make_batch(number))
    one, two = state_of(vector), {key.replace(".decoder.", "."): value for key, value in state_of(flat).items()}
    assert_same(one, two, tolerance=ROUNDING)


@pytest.mark.parametrize("name", ["rotograd", "rotograd_procrustes"])
@pytest.mark.parametrize("level", [0, 1, -1])
def test_the_level_is_the_one_that_is_turned(name, level):
    balancer = BALANCERS.build(name, tasks=("a",), level=level)
    balancer.setup({}, EncoderInfo((3, 4), (4, 8)))
    features = [torch.randn(2, 3, 5, 5), torch.randn(2, 4, 3, 3)]
    moved = [not torch.equal(*pair) for pair in zip(features, balancer.adapter("a", features), strict=True)]
    assert moved == [level == 0, level != 0]


def test_two_processes_equal_one(tmp_path):
    launch(2, __file__, str(tmp_path / "two.pt"))
    two = torch.load(tmp_path / "two.pt")
    for key, (state, spread) in two.items():
        assert spread == 0  # both processes have equal values
        assert_same(run(key), state, tolerance=NETWORK)


def run(key):
    name, options, width = WORKER[key]
    engine = make_engine(name, options, width, maps=key == "maps")  # the first one connects the processes
    ends = [0, 8] if distributed.world_size() == 1 else [0, 6 if key == "uneven" else 4, 8]
    rows = slice(*ends[distributed.rank() : distributed.rank() + 2])
    for number in range(8):
        engine.train_step(make_batch(number, rows, absent=("a",) if number == 3 else ()))
    return state_of(engine)


def main():
    torch.set_num_threads(1)
    found = {}
    for key in WORKER:
        state = run(key)
        means = {name: SampleGroup().sum(value) / 2 for name, value in state.items()}
        spread = max(float((value - means[name]).abs().max()) for name, value in state.items())
        found[key] = (state, spread)
    if distributed.rank() == 0:
        torch.save(found, sys.argv[1])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
