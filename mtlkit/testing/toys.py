"""The small problems of the contract kit, and its functions that look at an engine's state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel
from mtlkit.network import Decoder, Encoder, EncoderInfo, Features
from mtlkit.task import Task
from mtlkit.testing.promises import difference

TASKS = ("a", "b", "c")
SCALES = (1.0, 3.0, 0.3)  # of the tasks' losses
PARABOLA_STEPS = 150

State = dict[str, Tensor]


@dataclass(frozen=True)
class Method:
    """A registered balancer with its options; a picklable recipe for engines that use it, on a kind of device."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __call__(self, tasks: tuple[str, ...]) -> Balancer:
        return BALANCERS.build(self.name, tasks=tasks, **self.options)


# -- three tasks that share a network, two of which disagree -------------------------------------------------------


class _Encoder(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 6)
        self.info = EncoderInfo(channels=(6,), strides=(0,))

    @property
    def last_layer(self) -> nn.Module:
        return self.second

    def forward(self, image: Tensor) -> Features:
        return [torch.tanh(self.second(torch.tanh(self.first(image.flatten(1)))))]


class _Decoder(Decoder):
    dense: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, features: Features) -> Tensor:
        return self.linear(features[0])


class _Task(Task):
    dense = False
    regression = True
    out_channels = 2

    def __init__(self, name: str, scale: float = 1.0) -> None:
        super().__init__(name)
        self.scale = scale

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        valid = ~target.isnan()
        return self.scale * (output[valid] - target[valid]).square().sum(), valid.sum()

    def predict(self, output: Tensor) -> Tensor:
        return output

    def metrics(self) -> MetricCollection:
        return MetricCollection({"mse": MeanSquaredError()})

    def constant(self, targets: Tensor) -> Tensor:
        return targets.nanmean(0, keepdim=True)

    def picture(self, value: Tensor) -> np.ndarray:
        raise NotImplementedError


def make_engine(
    method: Method,
    tasks: tuple[str, ...] = TASKS,
    *,
    scales: tuple[float, ...] = SCALES,
    precision: Literal["fp32", "fp64"] = "fp64",
    accumulation: int = 1,
    steps_per_epoch: int = 10,
) -> Engine:
    """Returns an engine for the three tasks. It always starts with the same values."""
    torch.manual_seed(0)
    encoder, decoders = _Encoder(), {task: _Decoder() for task in TASKS}
    model = MultiTaskModel(encoder, {task: decoders[task] for task in tasks})
    built = [_Task(task, scales[TASKS.index(task)]) for task in tasks]
    config = TrainerConfig(max_steps=100, lr=1e-2, precision=precision, accumulation=accumulation)
    return _engine(method, model, built, config, steps_per_epoch)


def make_batch(number: int, absent: tuple[str, ...] = (), absent_late: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns eight samples without labels of the `absent` tasks. A number always gives the same samples.

    The last four have no labels of `absent_late`, and a few labels are always missing.
    """
    generator = torch.Generator().manual_seed(number)
    image = torch.rand(8, 3, 2, 2, generator=generator)
    a = image.flatten(1)[:, :2] * 2 - 1
    targets = {"a": a, "b": -a, "c": a.flip(1).square()}
    targets["c"][number % 8] = torch.nan
    for task in absent_late:
        targets[task][4:] = torch.nan
    return {"image": image, "targets": {k: t * torch.nan if k in absent else t for k, t in targets.items()}}


def train_steps(engine: Engine, steps: int) -> None:
    """Trains on the next batches."""
    for _ in range(steps):
        engine.train_step(make_batch(engine.step))


# -- two parabolas in one point ------------------------------------------------------------------------------------


class _Point(Encoder):
    """Returns the same features for every image: a point to be moved, as the weight of a layer with the input 1."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 4, bias=False)
        self.layer.weight.data = start.clone()[:, None]
        self.info = EncoderInfo(channels=(4,), strides=(0,))

    @property
    def last_layer(self) -> nn.Module:
        return self.layer

    def forward(self, image: Tensor) -> Features:
        return [self.layer(torch.ones_like(image[:, :1, 0, 0]))]


class _Map(Decoder):
    """A linear map that does not learn."""

    dense: ClassVar[bool] = False

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, features: Features) -> Tensor:
        return features[0] @ self.get_buffer("matrix")


MAPS = {
    "a": torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0])),
    "b": torch.tensor([[1.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.5, 1.5]]),
}
FAR = torch.tensor([3.0, -2.5, -2.0, 3.5])
GOALS = {"a": torch.tensor([1.0, 2.0, 0.0, -1.0]), "b": torch.tensor([-1.0, 0.5, 1.0, 1.0])}


def make_parabola(method: Method, start: Tensor) -> tuple[Engine, dict[str, Any]]:
    """Returns an engine for tasks |(x - goal) map|^2 of one shared point x, and the batch to train on."""
    torch.manual_seed(0)
    encoder = _Point(start)
    model = MultiTaskModel(encoder, {task: _Map(MAPS[task]) for task in MAPS})
    config = TrainerConfig(max_steps=PARABOLA_STEPS, lr=0.2, precision="fp64", schedule="cosine")
    engine = _engine(method, model, [_Task(task) for task in MAPS], config, steps_per_epoch=2)
    targets = {task: (GOALS[task] @ MAPS[task]).repeat(4, 1) for task in MAPS}
    return engine, {"image": torch.zeros(4, 3, 1, 1), "targets": targets}


def stationarity(engine: Engine, batch: dict[str, Any]) -> float:
    """Returns the length of the shortest convex combination of the two tasks' gradients; 0 on the Pareto set."""
    image, targets = engine.prepare(batch)
    point = engine.network.encoder(image)
    gradients = []
    for name, task in engine.tasks.items():
        total, count = task.loss(engine.network.decoders[name](engine.balancer.adapter(name, point)), targets[name])
        gradients.append(torch.autograd.grad(total / count, point, retain_graph=True)[0].flatten())
    one, two = gradients
    share = ((two @ (two - one)) / (two - one).square().sum().clamp_min(torch.finfo(one.dtype).tiny)).clamp(0, 1)
    return float((share * one + (1 - share) * two).norm())


# -- engines and their state ---------------------------------------------------------------------------------------


def _engine(
    method: Method, model: MultiTaskModel, tasks: list[_Task], config: TrainerConfig, steps_per_epoch: int
) -> Engine:
    balancer = method(tuple(task.name for task in tasks))
    balancer.setup({task.name: task for task in tasks}, model.encoder_info)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier engine of the caller may have been on a GPU
    accelerator = Accelerator(
        cpu=method.device == "cpu",
        gradient_accumulation_steps=config.accumulation,
        step_scheduler_with_optimizer=False,
    )
    if accelerator.device.type != method.device:
        raise ValueError(f"Accelerate takes the device {accelerator.device.type!r} here, not {method.device!r}.")
    return Engine(model, tasks, balancer, config, accelerator=accelerator, steps_per_epoch=steps_per_epoch)


def state_of(engine: Engine) -> State:
    """Returns copies, on the CPU, of all parameters and buffers of the model and the balancer."""
    state = {f"model.{key}": value for key, value in engine.network.state_dict().items()}
    state |= {f"balancer.{key}": value for key, value in engine.balancer.state_dict().items()}
    return {key: value.to("cpu", copy=True) for key, value in state.items()}


def of_task(state: State, task: str) -> State:
    """Returns the part of a state that has the task's name."""
    return {key: value for key, value in state.items() if task in key.split(".")}


def assert_finite(engine: Engine, when: str = "") -> None:
    for key, value in state_of(engine).items():
        assert torch.isfinite(value).all(), f"{key} is not finite {when}"


def differing(one: State, two: State, tolerance: float = 0.0) -> list[str]:
    """Returns the keys under which two states differ."""
    found = one.keys() ^ two.keys()
    for key in one.keys() & two.keys():
        a, b = one[key], two[key]  # NaN on both sides is the same: in a kept average it means "not known yet"
        if a.shape != b.shape or not torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            found.add(key)
    return sorted(found)


def assert_same(one: State, two: State, when: str, tolerance: float = 0.0) -> None:
    found = differing(one, two, tolerance)
    sizes = [difference(one[key], two[key]) if key in one and key in two else float("inf") for key in found]
    names = f"{', '.join(found[:4])}{' ...' if found[4:] else ''}"
    assert not found, f"{names} differs by up to {max(sizes, default=0.0):.1e} {when}"
