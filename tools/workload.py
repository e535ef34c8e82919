"""A network whose every size can be chosen, with any number of alike tasks: for counts, and for how costs grow."""

from functools import partial

from bench_step import Setting
from torch import Tensor, nn

from mtlkit import ENCODERS, TASKS
from mtlkit.network import Encoder, EncoderInfo, Features
from mtlkit.task import Task


class Blocks(Encoder):
    """A small residual network: a stem, `depth` blocks of `width` channels, and a convolution to `channels`.

    The blocks work on a stride of 4. Output: one level, a map (B, channels, H / 8, W / 8).

    >>> import torch
    >>> [tuple(level.shape) for level in Blocks(channels=6)(torch.rand(2, 3, 16, 32))]
    [(2, 6, 2, 4)]
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 5, stride=4, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for _ in range(depth)
        )
        self.out = nn.Conv2d(width, channels, 3, stride=2, padding=1)
        self.info = EncoderInfo((channels,), (8,))

    @property
    def last_layer(self) -> nn.Module:
        return self.out

    def forward(self, image: Tensor) -> Features:
        x = self.stem(image)
        for block in self.blocks:
            x = x + block(x)
        return [self.out(x)]


def attributes(count: int) -> dict[str, Task]:
    names = [f"attribute{i}" for i in range(count)]
    return {name: TASKS.build("multilabel", name, (name,), decoder="linear") for name in names}


def setting(tasks: int, channels: int, *, width: int = 32, depth: int = 2, size: int = 16, batch: int = 4) -> Setting:
    """Returns a setting of `bench_step` with this network and one linear head per task, for square images."""
    if "blocks" not in ENCODERS.names():  # here and not at the class: tests forget what others registered
        ENCODERS.register("blocks")(Blocks)
    encoder = {"name": "blocks", "channels": channels, "width": width, "depth": depth}
    network = f"d = {channels}, an encoder of {width} channels and depth {depth}"
    text = f"{tasks} attributes, {network}, batches of {batch} x {size} x {size}"
    return Setting(text, partial(attributes, tasks), encoder, (size, size), batch)
