"""The engine: windows, schedules, missing labels, and what stops a run."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import GradientState
from tolerances import NETWORK, ROUNDING, SINGLE_SUM
from torch import nn
from torch.utils.data import DataLoader

from mtlkit import BALANCERS, distributed
from mtlkit.balancer import Balancer
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.losses import NonFiniteError
from mtlkit.engine.optim import clip_gradients, rate_factor
from mtlkit.engine.scalars import scalars_of
from mtlkit.observer import Observer
from mtlkit.seeding import Turns
from mtlkit.state import per_task
from mtlkit.step import Step


def parameters(engine):
    return {name: p.detach().clone() for name, p in engine.network.named_parameters()}


class Broken(torch.autograd.Function):
    """An identity whose gradient is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * math.nan


def break_gradient(module):
    module.register_forward_hook(lambda module, args, output: Broken.apply(output))


class Memory(Observer):
    """Keeps everything that the engine reports."""

    def __init__(self):
        self.steps, self.evaluations = [], []

    def step(self, record):
        self.steps.append(record)

    def evaluation(self, record):
        self.evaluations.append(record)


def test_accumulation_is_the_mean_of_the_micro_batches(toys):
    first, second = toys.make_batch(0), toys.make_batch(1)
    gradients = []
    for batch in (first, second):
        single = toys.make_engine(optimizer="sgd", momentum=0.0)
        before = parameters(single)
        single.train_step(batch)
        gradients.append({name: before[name] - value for name, value in parameters(single).items()})
    # This engine is made last, because Accelerate keeps only the state of the last one.
    engine = toys.make_engine(accumulation=2, optimizer="sgd", momentum=0.0)
    before = parameters(engine)
    engine.train_step(first)
    assert engine.step == 0
    torch.testing.assert_close(parameters(engine), before, rtol=0, atol=0)  # the window is not complete
    engine.train_step(second)
    assert engine.step == 1
    for name, value in parameters(engine).items():
        mean = (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(before[name] - value, mean, rtol=NETWORK, atol=ROUNDING)


def test_another_loop_that_stopped_in_its_data_does_not_end_the_windows(toys):
    """Accelerate's state is common to a process: a loader that is at its last batch would end every window at once."""
    others = Accelerator(cpu=True).prepare(DataLoader([0, 1], batch_size=1))
    last = iter(others)
    assert [int(next(last)) for _ in range(2)] == [0, 1]
    engine = toys.make_engine(accumulation=2)
    assert GradientState().end_of_dataloader
    for number in range(4):
        engine.train_step(toys.make_batch(number))
        assert engine.step == (number + 1) // 2


@pytest.mark.parametrize("name", ["uniform", "uncertainty", "gradnorm", "rotograd", "cosreg"])
def test_a_task_without_labels_stands_still(toys, name):
    """Its decoder and its state in the balancer do not change, also with momentum and weight decay."""
    engine = toys.make_engine(name, optimizer="adamw", weight_decay=0.1)
    for i in range(3):
        engine.train_step(toys.make_batch(i))
    before = {k: v.clone() for k, v in engine.network.decoders["depth"].state_dict().items()}
    state = {k: v.clone() for k, v in engine.balancer.state_dict().items() if k.endswith(".depth")}
    encoder = engine.network.encoder.first.weight.detach().clone()
    step = engine.train_step(toys.without(toys.make_batch(3), "depth"))
    assert step.tasks == ("segmentation", "attributes")
    torch.testing.assert_close(dict(engine.network.decoders["depth"].state_dict()), before, rtol=0, atol=0)
    if name != "gradnorm":  # GradNorm scales all weights together to the sum K
        assert all(torch.equal(engine.balancer.state_dict()[k], v) for k, v in state.items())
    assert not torch.equal(engine.network.encoder.first.weight, encoder)


class NamedLikeATask(Balancer):
    """Keeps states whose names could also be names of tasks."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.depth = per_task(tasks, torch.zeros(()), learned=True)
        self.layers = nn.ModuleDict({task: nn.Linear(1, 1) for task in tasks})

    def objective(self, step):
        ones = step.losses.new_ones(1)
        layers = sum(self.layers[task](ones).sum() for task in self.tasks)
        return step.losses.sum() + sum(self.depth[task] for task in self.tasks) + layers


def test_a_state_called_like_an_absent_task_goes_on_for_the_others(toys):
    engine = toys.make_engine(NamedLikeATask(toys.TASK_NAMES))
    before = {name: value.clone() for name, value in engine.balancer.state_dict().items()}
    engine.train_step(toys.without(toys.make_batch(), "depth"))
    stood = {name for name, value in engine.balancer.state_dict().items() if torch.equal(value, before[name])}
    assert stood == {"depth.depth", "layers.depth.weight", "layers.depth.bias"}


def test_a_batch_without_any_label_moves_nothing(toys):
    engine = toys.make_engine("rotograd", optimizer="adamw", weight_decay=0.1)
    engine.train_step(toys.make_batch())
    before, state = parameters(engine), {k: v.clone() for k, v in engine.balancer.state_dict().items()}
    batch = toys.make_batch(1)
    for task in toys.TASK_NAMES:
        batch = toys.without(batch, task)
    step = engine.train_step(batch)
    assert step.tasks == ()
    assert engine.step == 2
    torch.testing.assert_close(parameters(engine), before, rtol=0, atol=0)
    assert all(torch.equal(engine.balancer.state_dict()[k], v) for k, v in state.items())
    engine.train_step(toys.make_batch(2))  # training continues


def test_a_loss_that_is_not_finite_stops_before_anything_moves(toys):
    engine = toys.make_engine("gradnorm")
    engine.train_step(toys.make_batch())
    before = parameters(engine)
    batch = toys.make_batch(1)
    batch["targets"]["depth"][0, 0, 0, 0] = math.inf
    with pytest.raises(NonFiniteError, match=r"'depth' is inf at step 1"):
        engine.train_step(batch)
    torch.testing.assert_close(parameters(engine), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["uniform", "rotograd"])
def test_a_gradient_that_is_not_finite_stops_before_anything_moves(toys, name):
    engine = toys.make_engine(name)
    break_gradient(engine.network.decoders["depth"])
    before = parameters(engine)
    state = {k: v.clone() for k, v in engine.balancer.state_dict().items()}
    with pytest.raises(NonFiniteError, match="gradient is nan at step 0"):
        engine.train_step(toys.make_batch())
    torch.testing.assert_close(parameters(engine), before, rtol=0, atol=0)
    assert all(torch.equal(engine.balancer.state_dict()[k], v) for k, v in state.items())


def test_a_task_with_a_loss_in_the_wrong_form_is_named(toys):
    engine = toys.make_engine()
    engine.tasks["depth"].loss = lambda output, target: ((output - target).abs(), torch.tensor(1.0))
    with pytest.raises(
        ValueError, match=r"loss of task .depth. must return .sum.*two scalar tensors; the sum is a tensor of shape"
    ):
        engine.train_step(toys.make_batch())


def test_clipping_bounds_the_update(toys):
    engine = toys.make_engine(clip_norm=1e-3, optimizer="sgd", momentum=0.0, lr=1.0)
    before = parameters(engine)
    engine.train_step(toys.make_batch())
    moved = torch.cat([(before[name] - value).flatten() for name, value in parameters(engine).items()])
    # clip_grad_norm_ divides by the length + 1e-6; the length is about 1.
    assert moved.norm().item() == pytest.approx(1e-3, rel=SINGLE_SUM)


def moves(engine, batch):
    """Returns how one step changes the parameters of the encoder, and those of the decoders."""
    before = parameters(engine)
    engine.train_step(batch)
    moved = {name: (before[name] - value).flatten() for name, value in parameters(engine).items()}
    return [torch.cat([m for name, m in moved.items() if name.startswith(part)]) for part in ("encoder", "decoders")]


def test_clipping_the_encoder_bounds_its_update_alone(toys):
    sgd, batch = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0}, toys.make_batch()
    encoder, decoders = moves(toys.make_engine(**sgd), batch)
    clipped, beside = moves(toys.make_engine(clip_encoder=1e-3, **sgd), batch)
    # As above: it divides by the length + 1e-6.
    expected = encoder * 1e-3 / (encoder.norm() + 1e-6)
    torch.testing.assert_close(clipped, expected, rtol=SINGLE_SUM, atol=1e-12)
    assert torch.equal(beside, decoders)
    for found, plain in zip(moves(toys.make_engine(clip_encoder=1e3, **sgd), batch), (encoder, decoders), strict=True):
        assert torch.equal(found, plain)  # a shorter update does not change


@pytest.mark.parametrize("part", ["encoder", "decoders"])
def test_clipping_the_encoder_hides_no_gradient_that_is_not_finite(toys, part):
    engine = toys.make_engine(clip_encoder=1e-3)
    for parameter in engine.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(getattr(engine.network, part).parameters()).grad[0] = math.inf
    assert not torch.isfinite(clip_gradients(engine.accelerator, engine.network, engine.config))


@pytest.mark.parametrize(
    ("balancer_schedule", "expected"), [("follow", [0.1, 0.18, 0.081]), ("constant", [0.2, 0.18, 0.162])]
)
def test_the_balancers_rate_follows_the_schedule_or_not(toys, balancer_schedule, expected):
    engine = toys.make_engine(
        "famo",
        options={"lr": 0.2, "lr_decay": 0.9},
        schedule="step",
        step_size=2,
        gamma=0.5,
        warmup_steps=2,
        balancer_schedule=balancer_schedule,
    )
    rates = []
    for number in range(3):
        rates.append(engine.train_step(toys.make_batch(number)).rate)
        assert engine.balancer_optimizer.param_groups[0]["lr"] == rates[-1]
    assert rates == pytest.approx(expected)
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 1e-2)  # the model's rate follows in both cases


def test_encoder_and_decoders_have_their_own_rates(toys):
    engine = toys.make_engine(encoder_lr=1e-12, lr=1e-2)
    before = parameters(engine)
    engine.train_step(toys.make_batch())
    moved = {name: (before[name] - value).abs().max().item() for name, value in parameters(engine).items()}
    assert max(value for name, value in moved.items() if name.startswith("encoder")) < 2e-12  # Adam's first step is lr
    assert min(value for name, value in moved.items() if name.startswith("decoders")) > 1e-4


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        ("constant", {}, [1, 1, 1]),
        ("cosine", {}, [1, 0.5, (1 + math.cos(math.pi * 0.99)) / 2]),
        ("poly", {"power": 2.0}, [1, 0.25, 0.01**2]),
        ("step", {"step_size": 40, "gamma": 0.5}, [1, 0.5, 0.25]),
    ],
)
def test_schedules(schedule, options, expected):
    config = TrainerConfig(max_steps=100, schedule=schedule, **options)
    assert [rate_factor(config, step, 100) for step in (0, 50, 99)] == pytest.approx(expected)


def test_warm_up_is_linear():
    config = TrainerConfig(max_steps=100, warmup_steps=4)
    assert [rate_factor(config, step, 100) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def fit(engine, losses, batches=None):
    """Runs `fit` with given validation losses of one task. Returns the observer and what was saved."""
    memory, saved, values = Memory(), [], iter(losses)
    engine.observer = memory
    toys_batches = batches or iter(lambda: engine.batch, None)
    engine.fit(toys_batches, lambda: {"loss/depth": next(values)}, lambda best: saved.append((engine.step, best)))
    return memory, saved


def test_fit_evaluates_marks_the_best_and_stops_early(toys):
    engine = toys.make_engine(steps=20, eval_every=2, early_stopping=2, log_every=5)
    engine.batch = toys.make_batch()
    memory, saved = fit(engine, [2.0, 1.0, 0.5, 0.6, 0.7])
    assert [(r["step"], r.get("best", False)) for r in memory.evaluations] == [
        (0, False),
        (2, True),
        (4, True),
        (6, False),
        (8, False),
    ]
    assert saved == [(0, False), (2, True), (4, True), (6, False), (8, False)]
    assert [r["step"] for r in memory.steps] == [1, 5]
    assert engine.step == 8
    record = memory.steps[-1]
    assert {"loss/depth", "weight/depth", "grad_norm/depth", "cosine/segmentation/depth", "lr/encoder"} < set(record)


def test_a_run_that_stopped_early_takes_no_further_step_when_it_goes_on(toys):
    engine = toys.make_engine(steps=20, eval_every=2, early_stopping=1)
    engine.batch = toys.make_batch()
    fit(engine, [2.0, 1.0, 1.5])
    assert engine.step == 4
    memory, saved = fit(engine, [])  # the state is that of a resumed engine
    assert (engine.step, memory.steps, saved) == (4, [], [])


def test_fit_saves_between_evaluations_and_at_the_end(toys):
    engine = toys.make_engine(steps=5, eval_every=4, save_every=2)
    engine.batch = toys.make_batch()
    _, saved = fit(engine, [2.0, 1.0, 0.5])
    assert saved == [(0, False), (2, False), (4, True), (5, True)]


def test_evaluation_every_so_many_epochs(toys):
    engine = toys.make_engine(steps=45, eval_every_epochs=2)  # an epoch has ten steps
    engine.batch = toys.make_batch()
    memory, _ = fit(engine, [2.0, 1.0, 0.5, 0.4])
    assert [record["step"] for record in memory.evaluations] == [0, 20, 40, 45]


def test_monitor_follows_the_metrics_direction(toys):
    engine = toys.make_engine(steps=3, eval_every=1, monitor="depth/delta1")
    engine.batch, memory = toys.make_batch(), Memory()
    engine.observer, values = memory, iter([0.1, 0.5, 0.4, 0.6])
    record = {"loss/depth": 1.0}
    engine.fit(iter(lambda: engine.batch, None), lambda: record | {"depth/delta1": next(values)}, lambda best: None)
    assert [r.get("best", False) for r in memory.evaluations] == [False, True, False, True]
    with pytest.raises(ValueError, match=r"no metric is 'depth/detla1'. Did you mean 'depth/delta1'"):
        toys.make_engine(monitor="depth/detla1")


def test_a_metric_without_a_direction_cannot_be_monitored(toys):
    with pytest.raises(ValueError, match=r"segmentation/classes_present it is not known whether higher or lower"):
        toys.make_engine(monitor="segmentation/classes_present")


def test_the_best_delta_m_against_single_task_runs(toys):
    """Computed by hand: the mean over tasks for two figures of one task and one of another, in both directions."""
    baseline = {"depth/rel": 0.2, "depth/delta1": 0.5, "segmentation/miou": 0.4}
    monitor = toys.make_engine(baseline=baseline).monitor
    rows = [(0.9, 0.1, 0.1), (0.2, 0.5, 0.4), (0.1, 0.5, 0.35), (0.3, 0.75, 0.45)]
    # The losses in percent: 0 for the baseline itself; (-50 + 0) / 2 and 12.5; (50 - 50) / 2 and -12.5.
    expected = [None, 0, (-0.25 + 0.125) / 2, (0 - 0.125) / 2]
    found = []
    for row in rows:
        monitor.update({"loss/depth": 1.0, **dict(zip(baseline, row, strict=True))})
        found.append(monitor.best)
    assert found[0] is None
    assert found[1:] == pytest.approx([0, expected[2], min(expected[2], expected[3])])
    assert not monitor.update({"depth/rel": 0.1, "depth/delta1": 0.9, "segmentation/miou": None})
    assert "segmentation/miou has no value at this evaluation, so delta-m against trainer.baseline" in monitor.remark


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"depth/relative": 0.2}, r"trainer\.baseline: no metric is 'depth/relative'\. Did you mean 'depth/rel'"),
        ({"*/miou": 0.2}, r"trainer\.baseline: no metric is '\*/miou'"),
        ({"depth/rel": 0.0}, "depth/rel is 0, and no gain is relative to that"),
        ({"segmentation/classes_present": 13.0}, "classes_present it is not known whether higher or lower"),
    ],
)
def test_a_baseline_that_cannot_be_compared_with(toys, baseline, message):
    with pytest.raises(ValueError, match=message):
        toys.make_engine(baseline=baseline)


def test_losses_divided_by_their_first_value(toys):
    engine = toys.make_engine("uncertainty", normalize_losses=1, optimizer="sgd", momentum=0.0)
    seen = []
    objective = engine.balancer.objective
    engine.balancer.objective = lambda step: (seen.append(step.losses.detach().clone()), objective(step))[1]
    raw = [engine.train_step(toys.make_batch(i)).raw_losses for i in range(2)]
    torch.testing.assert_close(seen[0], torch.ones(3, dtype=torch.float64))
    expected = [raw[1][name] / raw[0][name] for name in toys.TASK_NAMES]
    torch.testing.assert_close(seen[1], torch.tensor(expected, dtype=torch.float64))


def test_a_tapped_forward_pass_changes_no_output_and_evaluation_makes_no_tap(toys, monkeypatch):
    from mtlkit.engine import one_pass

    engine = toys.make_engine()
    image, _ = engine.prepare(toys.make_batch())
    plain = engine.network(image)
    turns = Turns(0)
    turns.next(0)
    one = one_pass.Pass(engine.balancer, engine.network.encoder, Step(engine.balancer), turns=turns)
    tapped = engine.network(image, one.tap)
    for name in plain:
        assert torch.equal(plain[name], tapped[name])
    monkeypatch.setattr(one_pass.Tap, "forward", None)  # a use of a tap would now fail
    engine.network.eval()
    engine.network(image, engine.balancer.adapt)


@pytest.mark.parametrize("name", BALANCERS.names())
def test_bf16_trains_and_keeps_weights_in_float32(toys, name):
    engine = toys.make_engine(name, precision="bf16")
    before = parameters(engine)
    for i in range(2):
        step = engine.train_step(toys.make_batch(i))
    assert all(math.isfinite(value) for value in scalars_of(step).values())
    assert all(p.dtype == torch.float32 for p in engine.network.parameters())
    assert all(not torch.equal(before[name], value) for name, value in parameters(engine).items())


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1e-2}, {"clip_encoder": 1e-2}], ids=str)
def test_a_loss_scaler_changes_nothing_but_skips_overflows(toys, clip):
    """The fp16 scaler, on the CPU in float32, does not change the numbers, and a skipped step moves nothing."""
    plain, scaled = (toys.make_engine("rotograd", precision="fp32", **clip) for _ in range(2))
    scaler = scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    scaled.optimizer = AcceleratedOptimizer(scaled.optimizer.optimizer, device_placement=False, scaler=scaler)
    scaled.accelerator.unscale_gradients = lambda: scaler.unscale_(scaled.optimizer.optimizer)  # as with fp16
    for i in range(4):
        plain.train_step(toys.make_batch(i))
        scaled.train_step(toys.make_batch(i))
    for name, value in parameters(plain).items():
        # A scale that is a power of two changes only exponents, so the results are exactly equal.
        torch.testing.assert_close(parameters(scaled)[name], value, rtol=0, atol=0)
    for name, value in plain.balancer.state_dict().items():
        torch.testing.assert_close(scaled.balancer.state_dict()[name], value, rtol=0, atol=0)
    before, scale = parameters(scaled), scaled.accelerator.scaler.get_scale()
    state = {k: v.clone() for k, v in scaled.balancer.state_dict().items()}
    break_gradient(scaled.network.decoders["depth"])
    step = scaled.train_step(toys.make_batch(5))
    assert not step.finite
    assert scaled.accelerator.scaler.get_scale() == scale / 2
    torch.testing.assert_close(parameters(scaled), before, rtol=0, atol=0)
    assert all(torch.equal(scaled.balancer.state_dict()[k], v) for k, v in state.items())


def test_records_say_where_they_are_from_and_what_was_left_out(toys):
    """An epoch has 10 steps. One sample of the second batch cannot be read."""
    engine = toys.make_engine(steps=12, log_every=2, eval_every=12)
    fine, damaged = ({"error": texts} | toys.make_batch() for texts in ([""] * 8, ["", "b.png is damaged", *[""] * 6]))
    memory, _ = fit(engine, [2.0, 1.0], batches=iter([fine, damaged, *[fine] * 10]))
    assert [(r["split"], r["step"], r["epoch"]) for r in memory.evaluations] == [("val", 0, 0), ("val", 12, 1)]
    where = [("train", 1, 0), *(("train", step, 0) for step in (2, 4, 6, 8, 10)), ("train", 12, 1)]
    assert [(r["split"], r["step"], r["epoch"]) for r in memory.steps] == where
    assert [r.get("left_out", 0) for r in memory.steps] == [0, 1, 0, 0, 0, 0, 0]
    assert memory.steps[1]["incident"] == "1 sample left out: b.png is damaged"


def test_epochs_are_counted_in_steps(toys):
    engine = toys.make_engine(steps=None, max_epochs=4, schedule="step", step_size_epochs=2)
    assert (engine.total_steps, engine.config.step_size) == (40, 20)


def test_the_balancer_begins_alike_on_all_processes(toys, monkeypatch):
    sent = []
    monkeypatch.setattr(distributed, "broadcast_state", sent.append)
    engine = toys.make_engine("gradnorm")
    assert sent == [engine.balancer]


def test_outputs_have_the_size_of_their_targets(toys):
    batch = toys.make_batch()
    batch["targets"]["depth"] = batch["targets"]["depth"][..., ::2, ::2].contiguous()
    step = toys.make_engine().train_step(batch)
    assert step.tasks == toys.TASK_NAMES


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_optimizer_has_the_weight_decay(toys, optimizer):
    engine = toys.make_engine(optimizer=optimizer, weight_decay=0.25)
    assert [group["weight_decay"] for group in engine.optimizer.param_groups] == [0.25, 0.25]


def test_a_level_that_a_task_does_not_use_has_no_gradient_for_it(toys):
    """It is None, because zeros would take as much memory as the level. `attributes` uses only the deeper level."""
    seen = {}

    class Reader(Balancer):
        def combine(self, step):
            rows = zip(step.tasks, step.local_gradients, strict=True)
            seen.update({task: [level is None for level in row] for task, row in rows})
            return super().combine(step)

    toys.make_engine(Reader(toys.TASK_NAMES)).train_step(toys.make_batch())
    assert seen == {"attributes": [True, False], "depth": [False, False], "segmentation": [False, False]}


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_halves_of_a_batch_have_products_of_their_true_size(toys, scale):
    """The loss scale does not matter. Plain autograd gives the products of the gradients on even and on odd samples."""
    seen = []

    class Reader(Balancer):
        needs, spaces = frozenset({"second_batch"}), ("parameters",)

        def combine(self, step):
            seen.append(step.cross_gram)
            return super().combine(step)

    engine, batch = toys.make_engine(Reader(toys.TASK_NAMES, space="parameters")), toys.make_batch()
    image, targets = engine.prepare(batch)
    halves = []
    for half in (0, 1):
        own = (torch.arange(8) % 2 == half).double().view(8, 1, 1, 1)  # the other samples get no gradient

        def share(levels, own=own):
            cut = [x * own + (x * (1 - own)).detach() for x in levels]
            return dict.fromkeys(engine.tasks, cut)

        outputs, rows = engine.network(image, share), []
        for name, task in engine.tasks.items():
            total, count = task.loss(outputs[name], targets[name])
            shared = list(engine.network.encoder.parameters())
            found = torch.autograd.grad(2 * total / count, shared, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in found]))
        halves.append(torch.stack(rows))
    backward = engine.accelerator.backward
    engine.accelerator.backward = lambda loss: backward(loss * scale)
    engine.train_step(batch)
    torch.testing.assert_close(seen[0], halves[0] @ halves[1].T, rtol=NETWORK, atol=0)


def test_the_second_forward_pass_goes_through_the_balancers_adapters(toys):
    """With a rate of 0 the model does not move, so the losses after the step equal those before it."""
    seen = []

    class Scaled(Balancer):
        needs = frozenset({"second_forward"})

        def adapter(self, task, features):
            return [2 * level for level in features]

        def after_model(self, step):
            seen.append((step.losses_after, step.losses))

    toys.make_engine(Scaled(toys.TASK_NAMES), lr=1e-300).train_step(toys.make_batch())
    ((after, before),) = seen
    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=0)


def test_beginning_and_end_of_a_run_are_told(toys):
    told = []
    engine = toys.make_engine(steps=7, normalize_losses=2, normalize_again=5)
    engine.observer = SimpleNamespace(start=lambda *a: told.append(a), note=told.append, finish=told.append)
    engine.step = 3
    engine.start({"seed": 4})
    engine.finish("stopped")
    assert told == [(7, 3), {"step": 3, "split": "info", "seed": 4}, {"status": "stopped"}]
    assert (engine.first_losses.steps, engine.first_losses.again) == (2, 5)


def test_the_log_has_the_balancers_own_rate(toys):
    engine = toys.make_engine("gradnorm", options={"lr": 0.25}, steps=1)
    memory, _ = fit(engine, [2.0, 1.0], batches=iter([toys.make_batch()]))
    assert memory.steps[0]["lr/balancer"] == 0.25
