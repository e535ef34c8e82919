"""The contract of a balancer, as checks that strangers can run on theirs."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection

from mtlkit import checkpoint
from mtlkit.balancer import BALANCERS
from mtlkit.build import make_accelerator
from mtlkit.engine import Engine
from mtlkit.losses import NonFiniteError
from mtlkit.model import MultiTaskModel
from mtlkit.schema import TrainerConfig
from mtlkit.task import Decoder, Encoder, EncoderInfo, Features, Task

TASKS = ("a", "b", "c")


def check_balancer(name: str, **options: Any) -> None:
    """Trains a small three-task problem by the balancer and checks what every balancer promises.

    - `one_task`: it trains a single task.
    - `finite`: model and state stay finite for gradients from 1e-10 to 1e10, and zero.
    - `absent_task`: a task without labels stands still, and training goes on when it comes back.
    - `no_labels`: a batch without any label moves nothing, the balancer's state included.
    - `resume`: two steps, and two more by new objects with the saved state, equal four steps bit for bit.
    - `permutation`: the order of the tasks does not matter.
    - `accumulation`: two equal micro-batches make the step of one.

    Raises `AssertionError` with the name of the broken promise, and `LookupError` or `ValueError` for a balancer or
    option that there is not.

    >>> check_balancer("gradnorm", alpha=0.5)
    """
    for promise in (one_task, finite, absent_task, no_labels, resume, permutation, accumulation):
        try:
            promise(lambda *args, **kwargs: make_engine(name, options, *args, **kwargs))
        except (AssertionError, NonFiniteError) as error:
            raise AssertionError(f"{name} breaks the promise {promise.__name__!r}: {error}") from error


Make = Callable[..., Engine]


def one_task(make: Make) -> None:
    engine = make(("a",))
    before = state_of(engine)
    train(engine, 3)
    assert_finite(engine)
    assert any(not torch.equal(before[key], value) for key, value in state_of(engine).items()), "nothing was learned"


def finite(make: Make) -> None:
    for scales in ((1e-10, 1.0, 1e10), (1e-10,) * 3, (1e10,) * 3, (0.0, 1.0, 1.0), (0.0,) * 3):
        engine = make(scales=scales)
        train(engine, 3)
        assert_finite(engine, f"with the losses' scales {scales}")


def absent_task(make: Make) -> None:
    engine = make()
    train(engine, 2)
    before = {key: value.clone() for key, value in engine.network.decoders["b"].state_dict().items()}
    step = engine.train_step(make_batch(2, absent=("b",)))
    assert step.tasks == ("a", "c"), f"the tasks of the step are {step.tasks}"
    after = engine.network.decoders["b"].state_dict()
    assert all(torch.equal(before[key], value) for key, value in after.items()), "the absent task's decoder moved"
    train(engine, 2)
    assert_finite(engine, "after the task came back")


def no_labels(make: Make) -> None:
    engine = make()
    train(engine, 2)
    before = state_of(engine)
    engine.train_step(make_batch(2, absent=TASKS))
    assert_same(before, state_of(engine), "without labels")


def resume(make: Make) -> None:
    whole, half, second = make(), make(), make()
    train(whole, 4)
    train(half, 2)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(half, Path(folder, "half"))
        checkpoint.load(second, Path(folder, "half"))
    train(second, 2)
    assert_same(state_of(whole), state_of(second), "after a resume")


def permutation(make: Make) -> None:
    engine, permuted = make(), make(tuple(reversed(TASKS)))
    permuted.network.load_state_dict(engine.network.state_dict())
    permuted.balancer.load_state_dict(engine.balancer.state_dict())
    for e in (engine, permuted):
        train(e, 3)
    assert_same(state_of(engine), state_of(permuted), "in another order of the tasks", tolerance=1e-9)


def accumulation(make: Make) -> None:
    double = make(accumulation=2)
    for _ in range(2):
        double.train_step(make_batch(0))
    single = make()  # only now: Accelerate keeps the number of micro-batches for the whole process
    single.train_step(make_batch(0))
    assert single.step == double.step == 1
    assert_same(state_of(single), state_of(double), "with two equal micro-batches", tolerance=1e-9)


# -- the problem ---------------------------------------------------------------------------------------------------


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

    def __init__(self, name: str, scale: float) -> None:
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
    name: str,
    options: Mapping[str, Any],
    tasks: tuple[str, ...] = TASKS,
    scales: tuple[float, ...] = (1.0, 3.0, 0.3),
    accumulation: int = 1,
) -> Engine:
    """An engine on the problem, in float64, always with the same start."""
    torch.manual_seed(0)
    encoder, decoders = _Encoder(), {task: _Decoder() for task in TASKS}
    model = MultiTaskModel(encoder, {task: decoders[task] for task in tasks})
    built = [_Task(task, scales[TASKS.index(task)]) for task in tasks]
    balancer = BALANCERS.build(name, tasks=tasks, **options)
    balancer.setup({task.name: task for task in built}, model.encoder_info)
    config = TrainerConfig(max_steps=100, lr=1e-2, precision="fp64", accumulation=accumulation)
    return Engine(model, built, balancer, config, accelerator=make_accelerator(config), steps_per_epoch=10)


def make_batch(number: int, absent: tuple[str, ...] = ()) -> dict[str, Any]:
    """Eight samples, the same for the same number; two of the tasks disagree."""
    generator = torch.Generator().manual_seed(number)
    image = torch.rand(8, 3, 2, 2, generator=generator)
    a = image.flatten(1)[:, :2] * 2 - 1
    targets = {"a": a, "b": -a, "c": a.flip(1).square()}
    return {"image": image, "targets": {k: t * torch.nan if k in absent else t for k, t in targets.items()}}


def train(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        engine.train_step(make_batch(engine.step))


def state_of(engine: Engine) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, of the model and of the balancer."""
    found = {f"model.{key}": value.clone() for key, value in engine.network.state_dict().items()}
    return found | {f"balancer.{key}": value.clone() for key, value in engine.balancer.state_dict().items()}


def assert_finite(engine: Engine, when: str = "") -> None:
    for key, value in state_of(engine).items():
        assert torch.isfinite(value).all(), f"{key} is not finite {when}"


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor], when: str, tolerance: float = 0.0) -> None:
    assert one.keys() == two.keys(), f"the state has other keys {when}"
    for key, value in one.items():
        assert torch.allclose(value, two[key], rtol=tolerance, atol=tolerance), f"{key} differs {when}"
