"""RotoGrad's geodesic update: its exponential, its direction, its arc, and its exactness over processes and resumes."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtlkit import BALANCERS, TASKS, Encoder, EncoderInfo, checkpoint, distributed
from mtlkit.balancers.rotograd import turn
from mtlkit.build import make_accelerator
from mtlkit.engine import Engine
from mtlkit.model import MultiTaskModel
from mtlkit.schema import TrainerConfig

sys.path.insert(0, str(Path(__file__).parent))
from test_distributed import launch

NAMES = ("c", "a", "b")
WORKER = {  # name -> balancer, options and width of the runs that are compared between one and two processes
    "low_rank": ("rotograd", {"lr": 0.1}, 64),
    "whole": ("rotograd", {"lr": 0.1}, 6),
    "adam": ("rotograd", {"update": "adam"}, 6),
    "procrustes_low_rank": ("rotograd_procrustes", {"lr": 0.2}, 64),
    "procrustes_low_rank_sgd": ("rotograd_procrustes", {"lr": 0.2, "update": "sgd"}, 64),
    "procrustes_undetermined": ("rotograd_procrustes", {"lr": 0.2}, 12),
    "procrustes_whole": ("rotograd_procrustes", {"lr": 0.2}, 4),
}


class VectorEncoder(Encoder):
    """(B, 3, 2, 2) images -> a vector."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, width))
        self.info = EncoderInfo(channels=(width,), strides=(0,))

    @property
    def last_layer(self):
        return self.layers[-1]

    def forward(self, image):
        return [self.layers(image)]


def make_engine(name, options, width=64, names=NAMES, accumulation=1, precision="fp64", labels=2, **trainer):
    """Three labellings of points, by linear decoders on a vector of that width; 8 samples a batch."""
    torch.manual_seed(0)
    encoder = VectorEncoder(width)
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
    """M_k = sum_n u_{n,k} v_n^T by plain autograd, a backward pass a task."""
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


def orthogonal_matrix(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q


@pytest.mark.parametrize(("d", "n"), [(8, 1), (8, 2), (60, 5), (60, 15), (128, 32)])
@pytest.mark.parametrize("arc", [1e-3, 0.3, 4.0])
def test_the_low_rank_exponential_is_the_whole_one(d, n, arc):
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, d, dtype=torch.float64, generator=generator) for _ in range(2))
    for a, b in [(left, right), (left, left + 1e-3 * right), (left[:1].repeat(n, 1), right), (left * 1e-12, right)]:
        found, whole = orthogonal_matrix(d), orthogonal_matrix(d)
        turn(found, [(a[: n // 2], b[: n // 2]), (a[n // 2 :], b[n // 2 :])], arc)
        turn(whole, [((a.T @ b).T, None)], arc)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
        torch.testing.assert_close(whole, orthogonal_matrix(d) @ arc_step(a.T @ b, arc), rtol=0, atol=1e-12)
        assert (found - orthogonal_matrix(d)).abs().max() > arc * 1e-3 / d  # it did move


def test_what_is_aligned_or_zero_stands_still():
    left = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    for factors in ((left, 3 * left), (left, 0 * left), (left, left @ (left.T @ left))):
        rotation = orthogonal_matrix(40).float()
        before = rotation.clone()
        turn(rotation, [factors], 1e-2)
        assert (rotation - before).abs().max() < 1e-5  # rounding is not blown up to an arc of 1e-2


@pytest.mark.parametrize("width", [6, 64])
def test_a_step_turns_each_rotation_by_an_arc_along_the_gradient(width):
    """6 channels take the whole matrices, 64 the factors of 8 samples."""
    engine, batch = make_engine("rotograd", {"lr": 0.05}, width), make_batch()
    engine.train_step(make_batch(1))
    expected = {
        name: engine.balancer.rotation[name] @ arc_step(total, 0.05) for name, total in products(engine, batch).items()
    }
    step = engine.train_step(batch)
    for name, rotation in expected.items():
        torch.testing.assert_close(engine.balancer.rotation[name], rotation, rtol=0, atol=1e-12)
    alignments = [step.scalars()[f"balancer/alignment/{name}"] for name in NAMES]
    assert all(-1 < value < 0.5 for value in alignments)


def test_the_geodesic_direction_is_the_gradient_of_the_lie_parameters_at_zero():
    engine, batch = make_engine("rotograd", {"update": "adam"}, 6), make_batch()
    balancer = engine.balancer
    for name in NAMES:
        balancer.generator[name].data.zero_()
        balancer.rotation[name].data.copy_(torch.eye(6))
    totals = products(engine, batch)
    engine._update = lambda step: None
    step = engine.train_step(batch)
    for name, norm in zip(step.tasks, step.norms, strict=True):
        gradient = norm * (totals[name].T - totals[name])
        torch.testing.assert_close(balancer.generator[name].grad, gradient, rtol=1e-9, atol=1e-12)


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
    assert_same(*rotations, tolerance=1e-8)


@pytest.mark.parametrize("width", [6, 64])
def test_the_alignment_falls_while_the_network_stands_still(width):
    engine, batch = make_engine("rotograd", {"lr": 0.05}, width, lr=1e-12, precision="fp32"), make_batch()
    first, *_, last = (
        sum(value for key, value in engine.train_step(batch).scalars().items() if key.startswith("balancer/alignment"))
        for _ in range(60)
    )
    assert last < first - 0.1


@pytest.mark.parametrize("n", [8, 40])
def test_thousands_of_steps_in_float32_leave_rotations(n):
    d, generator = 40, torch.Generator().manual_seed(0)
    balancer = BALANCERS.build("rotograd", tasks=("a",))
    balancer.setup({}, EncoderInfo((d,), (0,)))
    for number in range(3000):
        left, right = (torch.randn(n, d, generator=generator) for _ in range(2))
        balancer._noted = {"a": [(left, right)]}
        balancer.after_step(SimpleNamespace(number=number, rate=0.1))
    rotation = balancer.rotation["a"]
    assert (rotation @ rotation.T - torch.eye(d)).abs().max() < 1e-5
    assert torch.linalg.det(rotation) == pytest.approx(1, abs=1e-4)
    assert (rotation - torch.eye(d)).abs().max() > 0.3


@pytest.mark.parametrize("width", [6, 32, 64])
def test_micro_batches_add_up(width):
    """Of two micro-batches of 4 samples: 6 and 64 channels keep matrices and factors; 32 multiply the factors out."""
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
        torch.testing.assert_close(engine.balancer.rotation[name], expected, rtol=0, atol=1e-12)


def test_an_absent_task_keeps_its_rotation_and_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    whole, half, second = (make_engine("rotograd", {"lr": 0.05}) for _ in range(3))
    for number in range(4):
        before = whole.balancer.rotation["a"].clone()
        whole.train_step(make_batch(number, absent=("a",) if number == 2 else ()))
        assert torch.equal(before, whole.balancer.rotation["a"]) == (number == 2)
        if number < 2:
            half.train_step(make_batch(number))
    checkpoint.save(half, tmp_path / "half")
    checkpoint.load(second, tmp_path / "half")
    second.train_step(make_batch(2, absent=("a",)))
    second.train_step(make_batch(3))
    assert_same(state_of(whole), state_of(second))


def test_the_order_of_the_tasks_does_not_matter():
    one, two = (make_engine("rotograd", {"lr": 0.05}, names=names) for names in (NAMES, NAMES[::-1]))
    for number in range(3):
        for engine in (one, two):
            engine.train_step(make_batch(number))
    assert_same(state_of(one), state_of(two), tolerance=1e-12)


def test_a_level_that_no_present_task_uses_stands_still(toys):
    engine = toys.make_engine("rotograd", options={"level": 0})
    before = {name: rotation.clone() for name, rotation in engine.balancer.rotation.items()}
    batch = toys.without(toys.without(toys.make_batch(), "segmentation"), "depth")  # the attributes use level 1 only
    assert engine.train_step(batch).tasks == ("attributes",)
    assert all(torch.equal(before[name], rotation) for name, rotation in engine.balancer.rotation.items())


def test_an_unknown_update_is_refused():
    with pytest.raises(ValueError, match=r"balancer\.update must be one of geodesic, adam; got 'sgd'"):
        BALANCERS.build("rotograd", tasks=("a",), update="sgd")


def test_two_processes_equal_one(tmp_path):
    launch(2, __file__, str(tmp_path / "two.pt"))
    two = torch.load(tmp_path / "two.pt")
    for key, (state, spread) in two.items():
        assert spread == 0  # both processes hold the same
        assert_same(run(key), state, tolerance=1e-9)


def run(key):
    name, options, width = WORKER[key]
    engine = make_engine(name, options, width)  # the first one connects the processes
    share = 8 // distributed.world_size()
    rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    for number in range(8):
        engine.train_step(make_batch(number, rows, absent=("a",) if number == 3 else ()))
    return state_of(engine)


def main():
    torch.set_num_threads(1)
    found = {}
    for key in WORKER:
        state = run(key)
        means = {name: distributed.sum_over_ranks(value) / 2 for name, value in state.items()}
        spread = max(float((value - means[name]).abs().max()) for name, value in state.items())
        found[key] = (state, spread)
    if distributed.rank() == 0:
        torch.save(found, sys.argv[1])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
