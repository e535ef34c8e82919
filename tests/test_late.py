"""Late parameters, which tasks share after the features: their task gradients, their weights, and their owner."""

import copy
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from late_worker import RUNS, run
from test_distributed import launch
from tolerances import NETWORK, ROUNDING
from torch import nn
from torch.nn import functional as F

from mtlkit import BALANCERS, DECODERS, Decoder, EncoderInfo
from mtlkit.balancer import Balancer
from mtlkit.engine import shared
from mtlkit.engine.evaluation import evaluate_model
from mtlkit.engine.model import MultiTaskModel
from mtlkit.run import checkpoint

EXACT = {"rtol": NETWORK, "atol": ROUNDING}  # through a network, with gradients of size one
SETTINGS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]


def late_engine(toys, balancer="uniform", *, batch_norm=False, **options):
    return toys.make_engine(balancer, encoder=partial(toys.ToyLateEncoder, batch_norm), **options)


def losses_of(engine, batch, network, copies=None):
    """Yields the tasks' mean losses. It calls the decoders itself, on the one late module.

    `copies` are each task's own features. Without them, all tasks get the encoder's features.
    """
    image, targets = engine.prepare(batch)
    levels = network.encoder(image)
    for name, task in engine.tasks.items():
        given = engine.balancer.adapter(name, copies[name] if copies else levels)
        late = () if name == "attributes" else (network.encoder.late,)
        output = network.decoders[name](given, *late)
        if output.ndim == 4:
            output = F.interpolate(output, size=targets[name].shape[-2:], mode="bilinear")
        total, count = task.loss(output, targets[name])
        if count > 0:
            yield total / count


def gradient_of(value, over):
    found = torch.autograd.grad(value, list(over), retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def late_rows(engine, batch):
    """Returns one row per task with labels: its gradient over the late parameters, by plain autograd."""
    network = copy.deepcopy(engine.network)
    losses = losses_of(engine, batch, network)
    return torch.stack([gradient_of(loss, network.encoder.late.parameters()) for loss in losses])


def late_gradient(engine):
    return torch.cat([p.grad.flatten() for p in engine.network.encoder.late.parameters()])


def train(engine, *batches):
    """Runs the steps and leaves the gradients in place."""
    engine._update = lambda *_: None
    return [engine.train_step(batch) for batch in batches]


class Halves(Balancer):
    """Gives the encoder half of the sum, without weights. Its objective weighs the losses."""

    def objective(self, step):
        return (step.losses * step.losses.new_tensor([1.0, 2.0, 3.0])).sum()

    def combine(self, step):
        levels = zip(*step.local_gradients, strict=True)
        return [sum(g for g in level if g is not None) / 2 for level in levels]


class Penalised(Balancer):
    """Adds the squared length of the summed gradient at the features to plain summing. This needs a double backward."""

    needs = frozenset({"create_graph"})

    def objective(self, step):
        return step.losses.sum() + 5 * step.gram.sum()


# -- what the late parameters get ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space"), SETTINGS)
def test_late_gradients_get_the_weights_of_the_others_or_are_summed(toys, name, space):
    options = {"space": space} if len(BALANCERS.get(name).spaces) > 1 else {}
    engine, batch = late_engine(toys, name, options=options), toys.make_batch()
    rows = late_rows(engine, batch)
    assert (rows.norm(dim=1) > 0).tolist() == [True, True, False]  # `attributes` does not use the late module
    (step,) = train(engine, batch)
    if "create_graph" in engine.balancer.needs:
        # The method's penalty reaches them. See `test_a_double_backward_reaches_the_late_parameters`.
        assert torch.isfinite(late_gradient(engine)).all()
        return
    weights = torch.ones(3, dtype=torch.float64) if step.weights is None else step.weights.double()
    torch.testing.assert_close(late_gradient(engine), weights @ rows, **EXACT)


@pytest.mark.parametrize(("name", "space"), SETTINGS)
def test_every_method_trains_a_late_encoder(toys, name, space):
    options = {"space": space} if len(BALANCERS.get(name).spaces) > 1 else {}
    engine = late_engine(toys, name, options=options, batch_norm=True)
    before = copy.deepcopy(engine.network.encoder.late)
    for number in range(2):
        engine.train_step(toys.make_batch(number))
    late = engine.network.encoder.late
    assert not torch.equal(late.mix.weight, before.mix.weight)
    assert all(torch.isfinite(value).all() for value in late.state_dict().values())
    assert late.norm.num_batches_tracked == 4  # two tasks in two steps; reading the losses again changes nothing


@pytest.mark.parametrize("space", ["features", "parameters"])
def test_late_gradients_do_not_vote_and_are_not_counted_twice(toys, space):
    engine, batch = late_engine(toys, "mgda", options={"space": space}), toys.make_batch()
    network = copy.deepcopy(engine.network)
    levels = network.encoder(engine.prepare(batch)[0])
    over = [*network.encoder.first.parameters(), *network.encoder.second.parameters()]
    if space == "features":
        levels = over = [level.detach().requires_grad_() for level in levels]
    network.encoder.forward = lambda image: levels
    gradients = torch.stack([gradient_of(loss, over) for loss in losses_of(engine, batch, network)])
    (step,) = train(engine, batch)
    torch.testing.assert_close(step.gram, gradients @ gradients.T, **EXACT)
    assert engine.network.encoder_info.parameters == 4 * (3 * 9 + 1) + 6 * (4 * 9 + 1)
    if space == "parameters":
        encoder = torch.cat([p.grad.flatten() for n, p in engine.network.encoder.named_parameters() if "late" not in n])
        torch.testing.assert_close(encoder, step.weights @ gradients, **EXACT)


def test_an_own_gradient_leaves_the_late_ones_to_the_objective(toys):
    engine, batch = late_engine(toys, Halves(toys.TASK_NAMES)), toys.make_batch()
    rows = late_rows(engine, batch)
    train(engine, batch)
    expected = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) @ rows
    torch.testing.assert_close(late_gradient(engine), expected, **EXACT)


def test_a_double_backward_reaches_the_late_parameters(toys):
    engine, batch = late_engine(toys, Penalised(toys.TASK_NAMES)), toys.make_batch()
    network = copy.deepcopy(engine.network)
    levels = network.encoder(engine.prepare(batch)[0])
    copies = {name: [level.clone() for level in levels] for name in engine.tasks}
    losses = dict(zip(engine.tasks, losses_of(engine, batch, network, copies), strict=True))
    rows = [
        torch.autograd.grad(loss, copies[name], create_graph=True, allow_unused=True, materialize_grads=True)
        for name, loss in losses.items()
    ]
    penalty = sum(sum(parts).square().sum() for parts in zip(*rows, strict=True))
    late = network.encoder.late.parameters
    plain = gradient_of(sum(losses.values()), late())
    expected = gradient_of(sum(losses.values()) + 5 * penalty, late())
    train(engine, batch)
    torch.testing.assert_close(late_gradient(engine), expected, **EXACT)
    assert (expected - plain).norm() > 0.01 * plain.norm()


@pytest.mark.parametrize("setting", ["published", "plain", "weighted"])
def test_what_decoders_get_changes_no_late_gradient(toys, setting):
    engine, batch = late_engine(toys, "imtl_g", decoder_gradients=setting), toys.make_batch()
    rows = late_rows(engine, batch)
    (step,) = train(engine, batch)
    assert step.weights.std() > 0.1
    torch.testing.assert_close(late_gradient(engine), step.weights @ rows, **EXACT)


@pytest.mark.parametrize("setting", ["plain", "weighted"])
def test_every_micro_batch_has_weights_of_its_own(toys, setting):
    """The result is the mean over the micro-batches. The second one has no label of one task."""
    engine = late_engine(toys, "imtl_g", accumulation=2, decoder_gradients=setting)
    batches = [toys.make_batch(0), toys.without(toys.make_batch(1), "depth")]
    rows = [late_rows(engine, batch) for batch in batches]
    steps = train(engine, *batches)
    assert [len(row) for row in rows] == [3, 2]
    expected = sum(step.weights @ row for step, row in zip(steps, rows, strict=True)) / 2
    torch.testing.assert_close(late_gradient(engine), expected, **EXACT)


def test_normalised_losses_have_normalised_late_gradients(toys):
    engine, batch = late_engine(toys, "uniform", normalize_losses=1), toys.make_batch()
    rows = late_rows(engine, batch)
    (step,) = train(engine, batch)
    losses = torch.tensor([step.raw_losses[task] for task in step.tasks], dtype=torch.float64)
    torch.testing.assert_close(late_gradient(engine), (1 / losses) @ rows, **EXACT)


@pytest.mark.parametrize("space", ["features", "parameters"])
def test_the_loss_scale_of_fp16_leaves_the_late_parameters_where_they_would_be(toys, space):
    plain, scaled = (late_engine(toys, "cagrad", options={"space": space}) for _ in range(2))
    scaler = scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled.optimizer = AcceleratedOptimizer(scaled.optimizer.optimizer, device_placement=False, scaler=scaler)
    start = copy.deepcopy(plain.network.state_dict())
    for number in range(3):
        for engine in (plain, scaled):
            engine.train_step(toys.make_batch(number))
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(scaled.network.state_dict()[name], value, **EXACT, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.equal(start["encoder.late.mix.weight"], plain.network.encoder.late.mix.weight)


def test_mixed_precision_keeps_the_tasks_late_gradients_apart(toys):
    """Autocast keeps a parameter's bfloat16 copy for its next use, which would be by another task."""
    engine, batch = late_engine(toys, "fixed", options={"weights": {"depth": 9.0}}, precision="bf16"), toys.make_batch()
    rows = late_rows(engine, batch)
    (step,) = train(engine, batch)
    assert step.weights.tolist() == [1.0, 9.0, 1.0]
    expected = step.weights @ rows
    # Numbers in bfloat16 are exact to 0.4 %, and a gradient passes through ten layers.
    assert (late_gradient(engine) - expected).norm() < 0.04 * expected.norm()


def test_an_absent_task_has_no_late_gradient_and_nothing_moves_without_labels(toys):
    engine = late_engine(toys, "imtl_g")
    batch = toys.without(toys.make_batch(), "depth")
    rows = late_rows(engine, batch)
    update = engine._update
    (step,) = train(engine, batch)
    assert step.tasks == ("segmentation", "attributes")
    torch.testing.assert_close(late_gradient(engine), step.weights @ rows, **EXACT)
    engine._update = update
    engine.train_step(batch)
    before = copy.deepcopy(engine.network.state_dict())
    nothing = toys.make_batch(1)
    for task in toys.TASK_NAMES:
        nothing = toys.without(nothing, task)
    engine.train_step(nothing)
    assert all(torch.equal(value, before[name]) for name, value in engine.network.state_dict().items())


def test_a_frozen_late_parameter_stays_and_the_others_learn(toys):
    engine, batch = late_engine(toys, "cagrad"), toys.make_batch()
    late = engine.network.encoder.late
    late.last.requires_grad_(False)
    mix, last = (copy.deepcopy(part.state_dict()) for part in (late.mix, late.last))
    engine.train_step(batch)
    assert all(torch.equal(value, last[name]) for name, value in late.last.state_dict().items())
    assert not any(torch.equal(value, mix[name]) for name, value in late.mix.state_dict().items())


# -- batch norm ---------------------------------------------------------------------------------------------------


def test_each_task_in_turn_moves_the_statistics_of_late_batch_norms(toys):
    engine, batch = late_engine(toys, "cagrad", batch_norm=True), toys.make_batch()
    network = copy.deepcopy(engine.network)
    levels = network.encoder(engine.prepare(batch)[0])
    mean, variance = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for name in ("segmentation", "depth"):  # in the order of the tasks
        mask = torch.sigmoid(network.decoders[name].mask(levels[0]))
        x = network.encoder.late.mix(mask * levels[0])
        mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * x.var((0, 2, 3))
    engine.train_step(batch)
    norm = engine.network.encoder.late.norm
    torch.testing.assert_close(norm.running_mean, mean, **EXACT)
    torch.testing.assert_close(norm.running_var, variance, **EXACT)

    # An evaluation normalises with these statistics for all tasks, and does not change them.
    found = evaluate_model([batch], engine.predictor)
    assert norm.num_batches_tracked == 2
    engine.network.eval()
    losses = dict(zip(engine.tasks, losses_of(engine, batch, engine.network), strict=True))
    engine.network.train()
    for name, loss in losses.items():
        assert found[f"loss/{name}"] == pytest.approx(loss.item(), rel=NETWORK)


# -- who owns them ------------------------------------------------------------------------------------------------


def test_the_late_module_belongs_to_the_encoder_once(toys, tmp_path):
    engine, batch = late_engine(toys, "cagrad", batch_norm=True, encoder_lr=1e-3, lr=1e-2), toys.make_batch()
    late = {id(p) for p in engine.network.encoder.late.parameters()}
    groups = {group["name"]: [id(p) for p in group["params"]] for group in engine.optimizer.param_groups}
    assert late < set(groups["encoder"])
    assert not late & set(groups["decoders"])
    assert len(groups["encoder"]) == len(set(groups["encoder"]))

    for number in range(2):
        engine.train_step(toys.make_batch(number))
    checkpoint.save_checkpoint(engine, tmp_path / "last")
    names = load_file(tmp_path / "last" / "model.safetensors")
    assert {n for n in names if "late" in n} == {f"encoder.late.{n}" for n in engine.network.encoder.late.state_dict()}
    resumed = late_engine(toys, "cagrad", batch_norm=True, encoder_lr=1e-3, lr=1e-2)
    checkpoint.load_checkpoint(resumed, tmp_path / "last")
    for one in (engine, resumed):
        one.train_step(batch)
    for name, value in engine.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], value, rtol=0, atol=0)


def test_the_clip_counts_the_late_gradients_once(toys):
    trainer = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    free, clipped = (late_engine(toys, clip_norm=most, **trainer) for most in (None, 0.01))
    start = copy.deepcopy(free.network.state_dict())
    moved = []
    for engine in (free, clipped):
        engine.train_step(toys.make_batch())
        moved.append({name: value - start[name] for name, value in engine.network.state_dict().items()})
    length = torch.cat([change.flatten() for change in moved[0].values()]).norm()
    assert length > 0.1
    for name, change in moved[0].items():
        # torch adds 1e-6 to the length before it divides
        torch.testing.assert_close(moved[1][name], change * 0.01 / length, rtol=1e-5, atol=ROUNDING)


class GuidedLate(Decoder):
    """Is called with features, guides and the late module, in this order."""

    dense, guided, late = False, True, True

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__()

    def forward(self, features, guides, late):
        return late(features[0]) + guides[0]


def test_a_decoder_may_be_called_with_guides_and_the_late_module(toys):
    class Guiding(toys.ToyLateEncoder):
        """Returns one vector as the level and one as the guide."""

        def __init__(self):
            super().__init__()
            self.info, self.late = EncoderInfo((3,), (0,), guides=1), nn.Linear(3, 3)

        def forward(self, image):
            return [image.mean((2, 3)), 10 * image.mean((2, 3))]

    encoder = Guiding()
    model = MultiTaskModel(encoder, {"a": GuidedLate(encoder.info, 3)})
    image = torch.rand(2, 3, 4, 4)
    mean = image.mean((2, 3))
    torch.testing.assert_close(model(image)["a"], encoder.late(mean) + 10 * mean)
    own = {"weight": torch.eye(3), "bias": torch.ones(3)}
    outputs = model(image, late=lambda task: own if task == "a" else {})
    torch.testing.assert_close(outputs["a"], mean + 1 + 10 * mean)
    assert encoder.late.weight.requires_grad  # the module has its own parameters back


# -- what does not fit --------------------------------------------------------------------------------------------


def test_decoders_and_encoders_that_do_not_fit_are_refused(toys):
    plain, late = toys.ToyEncoder(), toys.ToyLateEncoder()
    with pytest.raises(ValueError, match=r"ToyLateMap of task 'seg' is called with the late module .* ToyEncoder has"):
        MultiTaskModel(plain, {"seg": DECODERS.build("toy_late_map", plain.info, 3)})
    with pytest.raises(
        ValueError, match=r"ToyLateEncoder shares a late module .* none of the decoders ToyMap is called"
    ):
        MultiTaskModel(late, {"seg": DECODERS.build("toy_map", late.info, 3)})
    plain.late = "tail"
    with pytest.raises(ValueError, match=r"ToyEncoder\.late must be a module or None, got str 'tail'"):
        MultiTaskModel(plain, {"seg": DECODERS.build("toy_late_map", plain.info, 3)})


def test_a_last_layer_behind_the_features_is_refused_at_set_up(toys):
    class Behind(toys.ToyLateEncoder):
        """Names a late layer as its last layer."""

        @property
        def last_layer(self):
            return self.late.mix

    assert toys.make_engine("gradnorm", encoder=Behind, options={"space": "features"})
    with pytest.raises(
        ValueError, match=r"GradNorm with the late parameters of Behind: .*Take another space \(features"
    ):
        toys.make_engine("gradnorm", encoder=Behind, options={"space": "last_layer"})


@pytest.mark.parametrize(
    ("kind", "version_2", "refused"),
    [("DEEPSPEED", False, True), ("FSDP", False, True), ("FSDP", True, False), ("MULTI_GPU", False, False)],
)
def test_launchers_that_free_parameters_are_refused(toys, kind, version_2, refused):
    launcher = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=version_2)
    balancer = BALANCERS.build("nash", tasks=toys.TASK_NAMES)
    shared.set_up_late(toys.ToyEncoder(), balancer, launcher)
    if refused:
        with pytest.raises(ValueError, match=rf"Nash\w* with the late parameters of ToyLateEncoder: .* {kind} "):
            shared.set_up_late(toys.ToyLateEncoder(), balancer, launcher)
    else:
        shared.set_up_late(toys.ToyLateEncoder(), balancer, launcher)


# -- several processes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(once):
    worker = str(Path(__file__).parent / "late_worker.py")
    folder = once("late", lambda folder: launch(2, worker, str(folder / "2.pt")))
    return torch.load(folder / "2.pt")


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_two_processes_equal_one(toys, results, key):
    one, two = run(toys, *key), results[key]
    assert two["spread"] == 0  # both processes have equal values
    assert two["losses"] == [pytest.approx(found, rel=NETWORK, abs=NETWORK) for found in one["losses"]]
    for name, value in one["state"].items():
        # For small gradients, Adam's steps make rounding differences larger.
        torch.testing.assert_close(
            two["state"][name], value, rtol=NETWORK, atol=NETWORK, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_late_part_that_fsdp_wraps_by_itself_is_refused(results):
    assert re.match(r"CAGrad with the late parameters of FSDPWrapped: FSDP wraps mix as a unit", results["refusal"])
