"""The contract of networks: a shared encoder, and a decoder for each task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from mtlkit.contract import check_hooks
from mtlkit.registry import Registry

Features = list[Tensor]  # the levels of the shared features, finest first: (B, C, H, W) maps or (B, C) vectors


@dataclass(frozen=True)
class EncoderInfo:
    """What a decoder must know of the features it gets: one entry per level, finest first.

    `channels[i]` is the width of level i and `strides[i]` the factor by which it is smaller than the image;
    stride 0 marks a vector (B, C) without positions. `guides` is how many further tensors the encoder returns, such
    as the places of pooled maxima: no gradient passes through them, and no balancer sees them. `parameters`, the
    number of trainable numbers that the tasks share up to the features, is told to a balancer's `setup` only.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parameters: int = field(default=0, repr=False)
    guides: int = field(default=0, repr=False)


class Encoder(nn.Module, ABC):
    """The shared network: image (B, 3, H, W) in [0, 1] -> features, a list of levels, finest first.

    It normalises the image itself. `info` says what comes out; guides, which most encoders do not have, stand behind
    the levels. `last_layer` is the module whose `weight` the `last_layer` space of GradNorm and CosReg means.

    `late` is a module that the tasks share *behind* the features, where decoders run through it (None, as in most
    encoders: there is none). The encoder makes it and owns its parameters and buffers, and `forward` does not use it;
    decoders that declare `late` are called with it. Every task sees an alias of these parameters, so its gradient
    arrives apart from the others', like that of the features. The late gradients get the weights that the balancer
    gives the features' gradients, but are no part of what it compares: not of the Gram matrix, and not of the space
    `parameters`. Where a balancer gives no weights, they are summed.
    """

    info: EncoderInfo
    late: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.late = None  # not in the class, where it would hide the module that a subclass assigns

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [Encoder])

    @property
    @abstractmethod
    def last_layer(self) -> nn.Module: ...

    @abstractmethod
    def forward(self, image: Tensor) -> Features: ...

    def check_size(self, width: int, height: int) -> None:
        """Raises `ValueError` for an image size that the encoder cannot take. Any size is fine by default."""


class Decoder(nn.Module, ABC):
    """A task's network: features -> (B, out_channels, H', W') map or (B, out_channels) vector.

    The constructor takes `(info: EncoderInfo, out_channels: int, **options)` and raises `ValueError` where the
    features do not suit it. `dense` says whether a map comes out; maps are resized to the target by the model.
    A decoder that is `guided` is called with the encoder's guides as well: `decoder(features, guides)`. One that
    declares `late` is called with the encoder's late module, as the last argument: `decoder(features, late)`. It may
    call that module and its parts as often as it likes, and keeps no reference to it.
    """

    dense: ClassVar[bool]
    guided: ClassVar[bool] = False
    late: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [Decoder])

    @abstractmethod
    def forward(self, features: Features) -> Tensor: ...


ENCODERS: Registry[Encoder] = Registry("encoder", Encoder, own="networks")
DECODERS: Registry[Decoder] = Registry("decoder", Decoder, own="networks")
