"""The contract of networks: one shared encoder, and one decoder per task."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from mtlkit.contract import check_hooks
from mtlkit.registry import Registry

Features = list[Tensor]  # the levels of the shared features, the finest first: (B, C, H, W) maps or (B, C) vectors


@dataclass(frozen=True)
class EncoderInfo:
    """Describes the features for the decoders, with one entry per level, the finest level first.

    `channels[i]` is the number of channels of level i, and `strides[i]` is the factor by which it is smaller than the
    image. The stride 0 means a vector (B, C) without positions. `guides` is the number of other tensors that the
    encoder returns, such as the positions of pooled maxima: no gradient passes through them, and no balancer sees them.
    `parameters` is the number of trainable numbers that the tasks share up to the features, and `image` is (width,
    height) of the images, None where it is not known. Only a balancer's `setup` gets these two.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parameters: int = field(default=0, repr=False)  # filled in by the model: an encoder may be frozen later
    guides: int = field(default=0, repr=False)
    image: tuple[int, int] | None = field(default=None, repr=False)

    def numbers(self, level: int) -> int | None:
        """Returns how many numbers a level has per sample, None where the size of the images is not known.

        >>> EncoderInfo((64,), (4,), image=(32, 24)).numbers(0)
        3072
        """
        stride = self.strides[level]
        if stride == 0:
            return self.channels[level]
        if self.image is None:
            return None
        width, height = (-(-side // stride) for side in self.image)
        return self.channels[level] * width * height


class Encoder(nn.Module, ABC):
    """The shared network: it turns an image (B, C, H, W) in [0, 1] into features, a list of levels, the finest first.

    The image has 3 channels, or the number that the encoder's constructor gets as `in_channels`. An encoder without
    this parameter is refused for any other number. The encoder normalises the image itself. `info` describes the
    result. Guides, which most encoders do not have, come after the levels. `last_layer` is the module whose `weight`
    the balancer space `last_layer` compares gradients of.

    `late` is a module that the tasks share *behind* the features, or None, as in most encoders. The encoder owns its
    parameters and buffers, but `forward` does not use it: decoders that declare `late` are called with it. In training,
    every task gets its own alias of these parameters. Its gradient therefore arrives alone, like that of the features.
    The balancer's weights hold for these gradients, too. The balancer does not see them: they are no part of the Gram
    matrix and of the space `parameters`. If a method gives no weights, they are summed.
    """

    info: EncoderInfo
    late: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.late = None  # not in the class, where it would hide the module that a subclass assigns

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [Encoder])  # now, since nobody would ever call a misspelt method

    @property
    @abstractmethod
    def last_layer(self) -> nn.Module: ...

    @abstractmethod
    def forward(self, image: Tensor) -> Features: ...

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Returns a function from a parameter's name to the number of its layer, 0 for the stem.

        With `coarse`, it is the number of its stage. It is timm's convention, so `timm.optim` asks for it, too.
        Raises `ValueError` where an encoder does not say this, as here.
        """
        raise ValueError(
            f"{type(self).__name__} does not say which layer and stage its parameters belong to. model.freeze can be "
            f"true or false then, and trainer.layer_decay null. timm's encoders say it."
        )

    def set_checkpointing(self) -> None:
        """From now on, drops activations in training and computes them again in the backward pass.

        An encoder calls its blocks through `torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)` then.
        Raises `ValueError` where an encoder cannot do so, as here.
        """
        raise ValueError(
            f"model.checkpointing: {type(self).__name__} cannot compute its activations again (it does not override "
            f"Encoder.set_checkpointing). Set model.checkpointing=false, or take an encoder of timm."
        )

    def check_size(self, width: int, height: int) -> None:
        """Raises `ValueError` for an image size that the encoder cannot take. Any size is fine by default."""

    def portable_weights(self) -> tuple[dict[str, Tensor], str]:
        """Returns the weights for other programs, and whose names they have, in words. By default: the encoder's own.

        An encoder that is made of a library's model overrides it and gives them the library's names.
        """
        return self.state_dict(), "the names are those of mtlkit's encoder"


class Decoder(nn.Module, ABC):
    """The network of one task: it turns features into a map (B, out_channels, H', W') or a vector (B, out_channels).

    The constructor takes `(info: EncoderInfo, out_channels: int, **options)` and raises `ValueError` if the features do
    not fit. `dense` says whether the result is a map; the model resizes maps to the target. A decoder that is `guided`
    also gets the encoder's guides: `decoder(features, guides)`. A decoder that declares `late` gets the encoder's late
    module as its last argument: `decoder(features, late)`. It may call this module and its parts several times, and
    must not keep it.
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
