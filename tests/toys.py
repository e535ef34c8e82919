"""A small multi-task problem: an encoder with two levels, and three dense or pooled tasks with missing labels."""

import torch
from torch import nn

from mtlkit import BALANCERS, DECODERS, ENCODERS, TASKS, Decoder, Encoder, EncoderInfo
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel
from mtlkit.run.build import make_accelerator

TASK_NAMES = ("segmentation", "depth", "attributes")


@ENCODERS.register("toy")
class ToyEncoder(Encoder):
    """Has two levels. The second is computed from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.info = EncoderInfo(channels=(4, 6), strides=(2, 4))

    @property
    def last_layer(self) -> nn.Module:
        return self.second

    def forward(self, image):
        fine = torch.tanh(self.first(image))
        return [fine, torch.tanh(self.second(fine))]


@DECODERS.register("toy_map")
class ToyMap(Decoder):
    """Uses both levels, at the resolution of the finer one."""

    dense = True

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(info.channels[0], out_channels, 1)
        self.coarse = nn.Conv2d(info.channels[1], out_channels, 1)

    def forward(self, features):
        coarse = nn.functional.interpolate(self.coarse(features[1]), scale_factor=2, mode="nearest")
        return torch.tanh(self.fine(features[0])) + coarse


@DECODERS.register("toy_vector")
class ToyVector(Decoder):
    """Uses only the deeper level."""

    dense = False

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__()
        self.out = nn.Linear(info.channels[1], out_channels)

    def forward(self, features):
        return self.out(features[1].mean(dim=(2, 3)))


class ToyLate(nn.Module):
    """Layers that tasks share after the features. Each task uses `mix` twice, and no task uses `unused`."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        self.last = nn.ModuleList([nn.Conv2d(4, 4, 1)])
        self.unused = nn.Linear(2, 2)


@ENCODERS.register("toy_late")
class ToyLateEncoder(ToyEncoder):
    """The same encoder with a late module."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.late = ToyLate(batch_norm)


@DECODERS.register("toy_late_map")
class ToyLateMap(ToyMap):
    """Applies a mask of its own task before the late layers, and a `ToyMap` after them."""

    late = True

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__(info, out_channels)
        self.mask = nn.Conv2d(info.channels[0], info.channels[0], 1)

    def forward(self, features, late):
        x = torch.sigmoid(self.mask(features[0])) * features[0]
        x = torch.tanh(late.norm(late.mix(x)))
        return super().forward([late.last[0](late.mix(x)), features[1]])


def make_tasks(late=False):
    """Returns three tasks. With `late`, two of them use the late module, and one does not."""
    maps = "toy_late_map" if late else "toy_map"
    return {
        "segmentation": TASKS.build("segmentation", "segmentation", ("a", "b", "c"), decoder=maps),
        "depth": TASKS.build("depth", "depth", (), decoder=maps),
        "attributes": TASKS.build("multilabel", "attributes", ("p", "q"), decoder="toy_vector"),
    }


def make_engine(
    balancer="uniform",
    *,
    options=None,
    steps=100,
    precision="fp64",
    shard=None,
    mesh=None,
    encoder=None,
    ddp=None,
    **trainer,
):
    """Returns an engine with fixed start values.

    `shard`: splits the model over processes, such as those in `splits.py`. `mesh`: the
    dimensions over which samples differ. `encoder`: makes the encoder, in place of `ToyEncoder`. `ddp`: options of DDP.
    """
    torch.manual_seed(0)
    encoder = (encoder or ToyEncoder)()
    tasks = make_tasks(late=encoder.late is not None)
    model = MultiTaskModel(encoder, {name: task.decoder(encoder.info) for name, task in tasks.items()})
    if isinstance(balancer, str):
        balancer = BALANCERS.build(balancer, tasks=tuple(tasks), **(options or {}))
    balancer.setup(tasks, model.encoder_info)
    config = TrainerConfig(max_steps=steps, precision=precision, **({"lr": 1e-2} | trainer))
    accelerator = make_accelerator(config)
    accelerator.ddp_handler = ddp
    if shard is not None:
        shard(model.double())
    return Engine(model, list(tasks.values()), balancer, config, accelerator=accelerator, steps_per_epoch=10, mesh=mesh)


def make_batch(number=0, size=8):
    """Returns a batch with unequal numbers of valid pixels per sample. A number always gives the same batch."""
    g = torch.Generator().manual_seed(1000 + number)
    image = torch.rand(size, 3, 8, 12, generator=g)
    segmentation = torch.randint(0, 3, (size, 8, 12), generator=g)
    share = torch.rand(size, 1, 1, generator=g)
    segmentation[torch.rand(size, 8, 12, generator=g) < share] = -1
    depth = 0.5 + 3 * torch.rand(size, 1, 8, 12, generator=g)
    depth[torch.rand(size, 1, 8, 12, generator=g) < share[..., None]] = 0
    attributes = torch.randint(0, 2, (size, 2), generator=g).float()
    attributes[torch.rand(size, 2, generator=g) < 0.3] = float("nan")
    return {"image": image, "targets": {"segmentation": segmentation, "depth": depth, "attributes": attributes}}


def without(batch, task, rows=slice(None)):
    """Returns the batch without a task's labels in the given rows."""
    target = batch["targets"][task].clone()
    target[rows] = {"segmentation": -1, "depth": 0, "attributes": float("nan")}[task]
    return {"image": batch["image"], "targets": batch["targets"] | {task: target}}
