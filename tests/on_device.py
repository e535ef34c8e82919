"""Checks on a second device, which `device_worker.py` runs: pytest collects this file only there.

The device computes on the CPU, but torch divides some operations into others on it. So results equal those of the CPU
up to rounding.
"""

import copy
import json

import numpy as np
import pytest
import torch
import toys
from loops import Loop
from mock_device import COUNTS, DEVICE, no_device
from PIL import Image
from tolerances import NETWORK, SINGLE, SINGLE_SUM

import mtlkit
from mtlkit import BALANCERS, DECODERS, ENCODERS, TASKS, Experiment
from mtlkit.config.schema import TrainerConfig
from mtlkit.data.finish import Finish
from mtlkit.data.transforms import Augment
from mtlkit.engine.engine import Engine
from mtlkit.engine.feed import feed
from mtlkit.engine.losses import NonFiniteError
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.observer import Observer
from mtlkit.run import inference, predicting
from mtlkit.run.build import make_accelerator
from mtlkit.target import Target, kinds_of
from mtlkit.testing import check_balancer, check_task
from mtlkit.testing import processes as testing_processes
from mtlkit.testing.kit import PROMISES
from mtlkit.waits import TIMES

OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}
PAIRS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]
#: One method of each kind, for what takes longer. All others run there with `-m long`.
SOME = {"cosreg", "gradnorm", "mgda", "moco", "rotograd", "uncertainty", "uniform"}
ALL = [pytest.param(name, marks=() if name in SOME else pytest.mark.long) for name in BALANCERS.names()]


def options_of(name, space):
    return OPTIONS.get(name, {}) | ({"space": space} if len(BALANCERS.get(name).spaces) > 1 else {})


def on_device(value):
    if isinstance(value, dict):
        return {key: on_device(part) for key, part in value.items()}
    return value.to(DEVICE)


def assert_equal(found, expected, rtol=NETWORK, atol=NETWORK, on=(DEVICE,)):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].device.type in on, f"{key} is on {found[key].device}"
        torch.testing.assert_close(found[key].cpu(), value.cpu(), rtol=rtol, atol=atol, equal_nan=True, msg=key)


# -- the device itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meet",
    [
        lambda here, there: there + here,
        lambda here, there: here.add_(there.sum()),
        lambda here, there: here[there > 0],
        lambda here, there: torch.stack([there.sum(), here.sum()]),
        lambda here, there: there.index_select(0, here.long()),
        lambda here, there: torch.rand(2, device=DEVICE, generator=torch.Generator()),
        lambda here, there: there.numpy(),
    ],
)
def test_the_device_refuses_what_a_gpu_refuses(meet):
    with pytest.raises(RuntimeError):
        meet(torch.ones(3), torch.ones(3).to(DEVICE))


def test_the_device_takes_what_a_gpu_takes_and_counts_what_it_waits_for():
    there = torch.arange(3.0).to(DEVICE)
    assert (there * torch.tensor(2.0) + there[torch.tensor([0, 1, 2])]).tolist() == [0, 3, 6]
    COUNTS.clear()
    there.sum().item()
    there.cpu()
    bool(there.any())
    assert (COUNTS["reads"], COUNTS["sizes"]) == (3, 0)
    there[there > 1]
    assert (COUNTS["reads"], COUNTS["sizes"]) == (3, 1)
    with torch.autocast(DEVICE, torch.bfloat16):
        product = torch.ones(2, 2).to(DEVICE) @ torch.ones(2, 2).to(DEVICE)
        assert (product.dtype, product.exp().dtype) == (torch.bfloat16, torch.float32)


# -- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_training_steps_equal_those_of_the_cpu(name, space):
    def train():
        engine = toys.make_engine(name, options=options_of(name, space), log_every=1)
        steps = [engine.train_step(toys.make_batch(number)) for number in range(2)]
        steps.append(engine.train_step(toys.without(toys.make_batch(2), "depth")))
        return [step.raw_losses for step in steps], engine.network.state_dict(), engine.balancer.state_dict()

    with no_device():
        losses, *expected = train()
    COUNTS.clear()
    found, *states = train()
    assert COUNTS["operations"] > 300
    for one, other in zip(found, losses, strict=True):
        assert one == pytest.approx(other, rel=NETWORK)
    network, balancer = states
    assert_equal(network, expected[0])
    assert_equal(balancer, expected[1], on=(DEVICE, "cpu"))  # numbers per task are on the host


@pytest.mark.parametrize(
    "more",
    [
        {"precision": "bf16"},
        {
            "precision": "fp32",
            "accumulation": 2,
            "clip_norm": 0.1,
            "ema": 0.5,
            "schedule": "cosine",
            "optimizer": "sgd",
        },
        {"precision": "fp32", "encoder": toys.ToyLateEncoder, "normalize_losses": True},
    ],
    ids=lambda more: "-".join(map(str, more)),
)
def test_other_ways_of_training(more):
    def train():
        engine = toys.make_engine("rotograd", **more)
        return engine, [engine.train_step(toys.make_batch(number)) for number in range(4)]

    with no_device():
        _, expected = train()
    engine, steps = train()
    # Autocast on a GPU and on the CPU round other operations: three digits of bfloat16 are 4e-3.
    error = 2e-2 if more["precision"] == "bf16" else SINGLE
    for step, one in zip(steps, expected, strict=True):
        assert step.raw_losses == pytest.approx(one.raw_losses, rel=error)
    assert engine.accelerator.device.type == DEVICE


def test_a_loss_scaler_skips_a_step_and_lowers_its_scale(monkeypatch):
    def with_scaler(config):
        accelerator = make_accelerator(config)
        accelerator.scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**16)
        return accelerator

    monkeypatch.setattr(toys, "make_accelerator", with_scaler)
    engine = toys.make_engine("gradnorm", precision="bf16")
    engine.train_step(toys.make_batch(0))
    before = copy.deepcopy(engine.network.state_dict())
    engine.network.encoder.first.weight.register_hook(lambda gradient: gradient * torch.inf)
    engine.train_step(toys.make_batch(1))
    assert engine.optimizer.step_was_skipped
    assert engine.accelerator.scaler.get_scale() == 2.0**15
    assert_equal(before, engine.network.state_dict(), 0, 0)


def waits(name, space, count, way="engine"):
    """Returns how often a step waits for the device: for values, and for sizes. It trains `count` alike tasks.

    The step is the engine's, or that of a loop with `mtlkit.Balanced`.
    """
    torch.manual_seed(0)
    tasks = {f"t{i}": TASKS.build("multilabel", f"t{i}", ("x",), decoder="toy_vector") for i in range(count)}
    encoder = toys.ToyEncoder()
    model = MultiTaskModel(encoder, {key: task.decoder(encoder.info) for key, task in tasks.items()})
    balancer = BALANCERS.build(name, tasks=tuple(tasks), **options_of(name, space))
    balancer.setup(tasks, model.encoder_info)
    config = TrainerConfig(max_steps=9, log_every=10**6)
    engine = Engine(
        model, list(tasks.values()), balancer, config, accelerator=make_accelerator(config), steps_per_epoch=2
    )
    step = engine.train_step
    if way == "loop":
        loop = Loop(engine, name, options_of(name, space))
        step = lambda batch: loop.step(on_device(batch))  # noqa: E731
    for number in range(4):  # some methods keep numbers of their first steps
        COUNTS.clear()
        draw = torch.Generator().manual_seed(number)
        targets = {key: torch.randint(0, 2, (4, 1), generator=draw).float() for key in tasks}
        step({"image": torch.rand(4, 3, 8, 12, generator=draw), "targets": targets})
    return COUNTS["reads"], COUNTS["sizes"]


@pytest.mark.parametrize("way", ["engine", "loop"])
@pytest.mark.parametrize("name", [name for name, space in PAIRS if space == "features"])
def test_a_step_waits_for_the_device_twice_whatever_the_number_of_tasks(name, way):
    # Once for the losses (with the length of the last gradient), and once for the Gram matrix where it is needed.
    needs = BALANCERS.get(name).needs
    most = 1 + (not needs.isdisjoint({"gram", "create_graph"})) + ("second_forward" in needs)
    for count in (2, 10, 40):
        reads, sizes = waits(name, "features", count, way)
        assert (reads <= most, sizes) == (True, 0), (count, reads, sizes)


@pytest.mark.parametrize("name", ["gradnorm", "mgda", "cosreg", "moco", "excess_mtl", "db_mtl"])
def test_the_waits_of_other_spaces_do_not_grow_with_the_number_of_tasks(name):
    space = BALANCERS.get(name).spaces[-1] if name != "cosreg" else "last_layer"
    few, many = waits(name, space, 3), waits(name, space, 6)
    assert many == few
    assert sum(many) <= 4


@pytest.mark.parametrize("name", ["rotograd_procrustes", "rotograd", "d_grad"])
def test_as_many_channels_as_tasks(name):
    """What a method keeps for channels is on the device, although it has the shape of a number per task."""
    width = toys.ToyEncoder().info.channels[-1]
    assert waits(name, "features", width)[1] == 0


def test_a_gradient_that_is_not_finite_leaves_the_model_as_it_was():
    engine = toys.make_engine("uniform")
    engine.train_step(toys.make_batch(0))
    before = copy.deepcopy(engine.network.state_dict())
    handle = engine.network.encoder.first.weight.register_hook(lambda gradient: gradient * torch.inf)
    engine.train_step(toys.make_batch(1))  # the host does not know yet
    handle.remove()
    assert_equal(before, engine.network.state_dict(), 0, 0)
    with pytest.raises(NonFiniteError, match="at step 1, although the losses"):
        engine.train_step(toys.make_batch(2))
    assert_equal(before, engine.network.state_dict(), 0, 0)


# -- the way of the batches ------------------------------------------------------------------------------------------


def test_the_next_batch_is_on_its_way_before_the_present_one_is_used_and_an_error_waits_for_its_turn():
    events, engine = [], toys.make_engine()

    def loaded():
        for number in range(3):
            events.append(f"load {number}")
            yield toys.make_batch(number)
        raise ValueError("a.png is damaged")

    batches = feed(loaded(), engine.predictor)
    for number in range(3):
        batch = next(batches)
        events.append(f"use {number}")
        assert_equal({"image": batch["image"]}, {"image": toys.make_batch(number)["image"]}, 0, 0)
        assert {target.device.type for target in batch["targets"].values()} == {DEVICE}
    assert events == ["load 0", "load 1", "use 0", "load 2", "use 1", "use 2"]
    with pytest.raises(ValueError, match="is damaged"):
        next(batches)


def test_a_fit_is_that_of_the_cpu_and_no_later_batch_matters():
    """The loader fails at the batch after the last one, which is fetched and not used."""

    class Lines(Observer):
        def __init__(self):
            self.found = []

        def step(self, record):
            self.found.append({key: value for key, value in record.items() if key not in TIMES})

    def loaded():
        for number in range(3):
            parts = [toys.make_batch(2 * number + i) for i in range(2)]
            targets = {key: torch.cat([part["targets"][key] for part in parts]) for key in parts[0]["targets"]}
            errors = [f"{number}.png is damaged", *[""] * (len(parts[0]["image"]) * 2 - 1)]
            yield {"image": torch.cat([part["image"] for part in parts]), "targets": targets, "error": errors}
        raise ValueError("nobody asks for this one")

    def train():
        engine = toys.make_engine("gradnorm", steps=3, accumulation=2, log_every=1)
        engine.observer = lines = Lines()
        engine.fit(loaded(), lambda: {"loss/depth": 1.0}, lambda best: None)
        return engine.step, lines.found

    with no_device():
        steps, expected = train()
    found = train()
    assert steps == found[0] == 3
    assert [line["left_out"] for line in expected] == [1, 1, 1]
    for line, other in zip(found[1], expected, strict=True):
        assert line.keys() == other.keys()
        for key, value in other.items():
            assert line[key] == (pytest.approx(value, rel=NETWORK) if isinstance(value, float) else value), key


# -- the contract --------------------------------------------------------------------------------------------------


#: The promises that are quick to check; `two_ranks` needs two devices.
QUICK = ("one_task", "absent_task", "no_labels", "skipped_step", "accumulation", "resume")
LONG = tuple(p.__name__ for p in PROMISES if p.__name__ not in (*QUICK, "two_ranks"))


def promises_of(name, promises):
    # A resume to the last bit is not among those of a method with a double backward. On a device, torch makes the graph
    # of gradients in a thread of its own, and adds up in an order that depends on how much that thread did before.
    without = "resume" if "create_graph" in BALANCERS.get(name).needs else None
    return tuple(promise for promise in promises if promise != without)


ROWS = [pytest.param(name, promises_of(name, QUICK)) for name in ("cosreg", "rotograd", "uncertainty")]
ROWS += [pytest.param(name, promises_of(name, QUICK + LONG), marks=pytest.mark.long) for name in BALANCERS.names()]


@pytest.mark.parametrize(("name", "promises"), ROWS)
def test_balancers_keep_their_promises(name, promises, monkeypatch):
    def run_here(_, *calls):  # a second process has no such device
        for function, arguments in calls:
            function(*arguments)

    monkeypatch.setattr(testing_processes, "run", run_here)
    check_balancer(name, device=DEVICE, only=promises)


@pytest.mark.parametrize("name", TASKS.names())
def test_tasks_keep_their_promises(name):
    check_task(name, device=DEVICE)


@pytest.mark.parametrize("name", ALL)
def test_balanced_follows_the_features_to_their_device(name):
    engine = toys.make_engine(name, options=OPTIONS.get(name), precision="fp32")
    for part in (engine.network, engine.balancer):
        part.to("cpu")
    here, there = Loop(engine, name, OPTIONS.get(name)), Loop(engine, name, OPTIONS.get(name))
    there.net.encoder.to(DEVICE)  # `balanced` itself is not moved
    there.net.heads.to(DEVICE)
    for number in range(3):
        batch = toys.make_batch(number)
        here.step(batch)
        there.step(on_device(batch))
    assert_equal(there.state(), here.state(), SINGLE_SUM, SINGLE, on=(DEVICE, "cpu"))


# -- networks ------------------------------------------------------------------------------------------------------

SLIM = {"width": 16}
# encoder and (width, height), its options, decoders and their options
NETWORKS = [
    ("test_resnet", (64, 64), {}, {"conv": SLIM, "unet": {}, "fpn": {"width": 64}, "segformer": SLIM, "linear": {}}),
    ("test_resnet", (64, 64), {"output_stride": 16}, {"deeplabv3plus": SLIM}),
    ("test_vit", (48, 64), {}, {"dpt": SLIM, "conv": SLIM}),
    ("lenet", (28, 28), {}, {"linear": {}, "mlp": {}, "image": {}}),
    ("strided", (64, 64), {}, {"strided": {}}),
    ("celeba_cnn", (64, 64), {}, {"linear": {}}),
    ("segnet", (32, 32), {"channels": [4, 6, 8, 10, 12]}, {"head": {}}),
    ("segnet", (32, 32), {"channels": [4, 6, 8, 10, 12], "levels": "all"}, {"mtan": {}}),
]
LARGE = [("resnet18", (64, 64), {"levels": [-1]}, {"deeplabv3": {}}), ("segnet_vgg16", (32, 32), {}, {"segnet": {}})]


@pytest.mark.parametrize(
    ("name", "size", "options", "decoders"), [*NETWORKS, *(pytest.param(*row, marks=pytest.mark.long) for row in LARGE)]
)
def test_networks_compute_what_they_compute_on_the_cpu(name, size, options, decoders):
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=size, **options)
    heads = {key: DECODERS.build(key, encoder.info, 2, **more) for key, more in decoders.items()}
    model, image = MultiTaskModel(encoder, heads).double(), torch.rand(2, 3, size[1], size[0]).double()
    sizes = {key: size[::-1] for key, head in heads.items() if head.dense}
    other = copy.deepcopy(model).to(DEVICE)
    outputs = []
    for one, value in ((model, image), (other, image.to(DEVICE))):
        torch.manual_seed(1)  # for dropout
        outputs.append(one(value, None, sizes))
        torch.stack([output.square().mean() for output in outputs[-1].values()]).sum().backward()
    assert_equal(outputs[1], outputs[0])
    gradients = [{key: p.grad for key, p in one.named_parameters() if p.grad is not None} for one in (model, other)]
    assert_equal(gradients[1], gradients[0])


def test_all_networks_are_checked():
    assert {key for *_, decoders in [*NETWORKS, *LARGE] for key in decoders} == set(DECODERS.names()) - OF_TESTS
    encoders = {name for name, *_ in [*NETWORKS, *LARGE]}
    assert encoders >= set(ENCODERS.names()) - {"timm"} - OF_TESTS


@pytest.mark.parametrize("compat", [None, "mtan"])
def test_batches_are_restored_and_augmented_without_waiting(compat):
    """The device reads nothing of a batch of stored values, and makes of it what the CPU makes."""
    draw = torch.Generator().manual_seed(0)
    targets = {"a": Target("segmentation", ("x", "y")), "b": Target("depth"), "c": Target("normals")}
    targets |= {"d": Target("disparity"), "e": Target("multilabel", ("x",))}
    augment = Augment(targets, flip=0.5, scale=[1.0, 1.5], colour=0.5, compat=compat)
    size, count = (12, 10), 6
    maps = torch.rand(count, 3, *size[::-1], generator=draw)
    batch = {"image": (255 * maps).byte(), "targets": {"a": (2 * maps[:, 0]).to(torch.int8)}}
    batch["targets"] |= {"b": (9000 * maps[:, :1]).to(torch.int16), "c": torch.nn.functional.normalize(maps, dim=1)}
    batch["targets"] |= {"d": maps[:, 1:2].half(), "e": torch.tensor([[1], [0], [-1]] * 2, dtype=torch.int8)}
    drawn = [augment.draw({"image": maps[0], "targets": targets}, i, (1, 1, 0.5, 0.5)) for i in range(count)]
    batch["moves"] = tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    finish = Finish(kinds_of(targets), (6, 5), compat, colour=True)
    counts = []
    for part in (slice(2), slice(count)):
        image, *moves = (values[part] for values in (batch["image"], *batch["moves"]))
        rest = {name: values[part] for name, values in batch["targets"].items()}
        here = finish(image, rest, moves)
        there = on_device(image), on_device(rest), [on_device(values) for values in moves]
        COUNTS.clear()
        found = finish(*there)
        counts.append(dict(COUNTS))
        assert_equal({"image": found[0], **found[1]}, {"image": here[0], **here[1]}, rtol=SINGLE, atol=SINGLE)
    assert counts[0] == counts[1]  # as many operations for two samples as for six
    assert (counts[0]["reads"], counts[0]["sizes"]) == (0, 0)


OF_TESTS = {"toy", "toy_late", "toy_map", "toy_vector", "toy_late_map"}


# -- runs ----------------------------------------------------------------------------------------------------------


def records(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return [line for line in found if line["split"] in ("train", "val", "val_constant")]


def test_a_run_with_augmentation_its_resume_evaluation_and_predictions(tmp_path, no_report):
    """They equal those of the CPU. The run stops in the middle, and another machine with a CPU can use it."""
    words = ["data.size=[32,32]", "data.train_size=8", "data.val_size=4", "data.batch_size=4", "data.augment=true"]
    words += ["model.encoder=test_resnet", "model.levels=null", "trainer.max_epochs=null", "trainer.log_every=1"]
    words += ["trainer.ema=0.5", "trainer.eval_every=2", "trainer.precision=fp64", "trainer.schedule=constant"]
    words += ["balancer=rotograd"]
    words += [f"data.root={tmp_path / 'cache'}"]

    def train(name, steps, resume=False):
        more = [f"output_dir={tmp_path / name}", f"trainer.max_steps={steps}"]
        return Experiment.compose("scenes", [*words, *more]).run(resume=resume)

    with no_device():
        expected = train("cpu", 4)
    run = train("mock", 2)
    train("mock", 4, resume=True)
    for record, other in zip(records(run), records(expected), strict=True):
        assert record.keys() == other.keys()
        for key, value in other.items():
            assert record[key] == (pytest.approx(value, rel=NETWORK) if isinstance(value, float) else value), key
    figures = inference.evaluate_run(run)
    Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)).save(tmp_path / "photo.png")
    there = mtlkit.load(run)
    assert there.device.type == DEVICE
    predictions = there(tmp_path / "photo.png")
    assert {value.device.type for value in predictions.values()} == {DEVICE}
    predicting.predict_files(run, [tmp_path / "photo.png"], tmp_path / "predicted")
    with no_device():  # from a checkpoint that the device wrote
        here = inference.evaluate_run(run)
        assert figures == {key: value and pytest.approx(value, rel=NETWORK) for key, value in here.items()}
        here = mtlkit.load(expected)(tmp_path / "photo.png")
    for key, value in here.items():
        torch.testing.assert_close(predictions[key].cpu(), value, rtol=NETWORK, atol=NETWORK)
        array = np.load(tmp_path / "predicted" / "photo" / f"{key}.npy")
        np.testing.assert_allclose(array, value.numpy(), rtol=NETWORK, atol=NETWORK)
