"""SegNet as the shared network of the MTAN experiments, and the plain head for it."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.network import DECODERS, ENCODERS, Decoder, Encoder, EncoderInfo, Features
from mtlkit.networks.light import check_maps, features_in_words
from mtlkit.option_checks import check_choice
from mtlkit.registry import suggest

CHANNELS = (64, 128, 256, 512, 512)  # widths of the five stages of VGG-16
CONVOLUTIONS = (2, 2, 3, 3, 3)  # the number of convolutions of each stage
LEVELS = ("last", "all")


def conv_block(inputs: int, outputs: int, bias: bool = True) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def unpool(x: Tensor, indices: Tensor) -> Tensor:
    """Reverses a 2x2 max-pooling.

    It puts the values at the places of the maxima in maps of twice the size, and zeros elsewhere.

    `F.max_unpool2d` does the same, but `deterministic: true` forbids it, because it allows two values at one place.

    >>> import torch
    >>> image = torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]])
    >>> unpool(*F.max_pool2d(image, 2, return_indices=True)).tolist()
    [[[[0.0, 0.0], [4.0, 0.0]]]]
    """
    batch, channels, height, width = x.shape
    empty = x.new_zeros(batch, channels, 4 * height * width)
    return empty.scatter(2, indices.flatten(2), x.flatten(2)).view(batch, channels, 2 * height, 2 * width)


def check_multiples(encoder: str, width: int, height: int) -> None:
    """Raises `ValueError` if an image cannot be halved five times, because unpooling would give another size."""
    if width < 32 or height < 32 or width % 32 or height % 32:
        near = "x".join(str(max(32, -(-side // 32) * 32)) for side in (width, height))
        raise ValueError(
            f"The encoder {encoder!r} cannot take images of {width}x{height} (width x height): "
            f"both must be multiples of 32, such as {near}."
        )


def xavier(module: nn.Module) -> None:
    """Initialises as MTAN does: Xavier's normal distribution for the weights of all convolutions, zeros for biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.get_parameter("bias"))


def two_convolutions(width: int, outputs: int) -> nn.Sequential:
    """Builds MTAN's head: a 3x3 convolution and a 1x1 convolution with nothing between them."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, outputs, 1))


def all_maps(channels: Sequence[int]) -> EncoderInfo:
    """Describes the 20 maps that attention modules read, four per stage: two on the way down and two on the way up."""
    stages = list(zip(channels, (channels[0], *channels[:-1]), strict=True))
    widths = [width for own, finer in stages for width in (own, own, own, finer)]
    return EncoderInfo(tuple(widths), tuple(1 << stage for stage in range(len(stages)) for _ in range(4)))


class _Stage(nn.Module):
    """Convolutions at one resolution. Returns the map after the first convolution and the map after the last one."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        self.first = conv_block(inputs, outputs)
        self.rest = nn.Sequential(*(conv_block(outputs, outputs) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        return first, self.rest(first)


class AttentionConvolutions(nn.Module):
    """The 3x3 convolutions between MTAN's attention modules, which all tasks share behind masks of their own.

    There is one for each stage on the way down, to the width of the stage below, and one for each stage on the way up,
    to the width of the stage above.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        above, below = (channels[0], *channels[:-1]), (*channels[1:], channels[-1])
        self.down = nn.ModuleList(map(conv_block, channels, below))
        self.up = nn.ModuleList(map(conv_block, channels, above))


@ENCODERS.register("segnet")
class SegNetEncoder(Encoder):
    """The shared SegNet of MTAN's experiments: VGG-16's convolutions, then unpooling back to the size of the image.

    Source: Badrinarayanan et al., SegNet, arXiv 1511.00561, in the form of Liu et al., MTAN, arXiv 1803.10704. On the
    way down there are five stages of 2, 2, 3, 3 and 3 convolutions of 3x3 with BatchNorm and ReLU. A 2x2 max-pooling
    follows each stage. On the way up come the same stages in reverse order. Before each of them, an unpooling puts the
    values at the places of the maxima. The first convolution of a stage has the width of the next stage. All tasks
    share both ways. Weights start from Xavier's distribution, without pretraining.

    Args:
        levels: `last` shares the last map, for plain heads (the decoder `head`): one level (B, 64, H, W).
            `all` shares the 20 maps that the decoder `mtan` reads. At each of the strides 1, 2, 4, 8 and 16 these are
            the maps after the first convolution down, after the last one down, after unpooling, and after the last one
            up. With them, `late` holds the convolutions that the attention modules of all tasks share.
        channels: the five widths. MTAN's "wide" network has [64, 128, 256, 512, 1024].

    The input is an image (B, 3, H, W) in [0, 1], used as it is. Its sides must be multiples of 32.

    >>> import torch
    >>> encoder = SegNetEncoder()
    >>> [tuple(level.shape) for level in encoder(torch.rand(2, 3, 32, 64))]
    [(2, 64, 32, 64)]
    >>> sum(p.numel() for p in encoder.parameters())
    24943296
    >>> sum(p.numel() for p in SegNetEncoder("all").late.parameters())
    10220160
    >>> SegNetEncoder("all", channels=[2, 3, 4, 5, 6]).info.channels
    (2, 2, 2, 2, 3, 3, 3, 2, 4, 4, 4, 3, 5, 5, 5, 4, 6, 6, 6, 5)
    """

    def __init__(self, levels: Literal["last", "all"] = "last", channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        if levels not in LEVELS:
            raise ValueError(f"The encoder 'segnet' has no levels {levels!r}. {suggest(levels, LEVELS)}")
        if len(channels) != len(CHANNELS) or min(channels) < 1:
            raise ValueError(f"The encoder 'segnet' needs five positive channel numbers, got {list(channels)}.")
        finer = (channels[0], *channels[:-1])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for inputs, own, outputs, count in zip((3, *channels[:-1]), channels, finer, CONVOLUTIONS, strict=True):
            self.down.append(_Stage(inputs, own, count))
            self.up.append(_Stage(own, outputs, count))
        if levels == "all":
            self.late = AttentionConvolutions(channels)
        xavier(self)
        self.levels = levels
        self.info = EncoderInfo((channels[0],), (1,)) if levels == "last" else all_maps(channels)

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution on the way up."""
        return self.get_submodule("up.0.rest.0.0")

    def forward(self, image: Tensor) -> Features:
        x, stages, places = image, [], []
        for stage in self.down:
            first, last = stage(x)
            x, indices = F.max_pool2d(last, 2, return_indices=True)
            stages.append([first, last])
            places.append(indices)
        for stage, maps, indices in zip(reversed(self.up), reversed(stages), reversed(places), strict=True):
            unpooled = unpool(x, indices)
            _, x = stage(unpooled)
            maps += [unpooled, x]
        return [x] if self.levels == "last" else [level for maps in stages for level in maps]

    def check_size(self, width: int, height: int) -> None:
        check_multiples("segnet", width, height)


@DECODERS.register("head")
class HeadDecoder(Decoder):
    """A 3x3 convolution and a 1x1 convolution on a single map, without normalisation or activation.

    This is the task's part of the "split" SegNet in MTAN's experiments (arXiv 1803.10704) and in RotoGrad's experiments
    on NYUv2 (arXiv 2103.02631). The output has the resolution of the map. Raises `ValueError` unless the
    features are one map, and for another start.

    Args:
        start: the initial weights: Xavier's distribution, as in MTAN's code, or torch's own (`default`), as in the
            public code of RotoGrad on NYUv2.

    >>> import torch
    >>> tuple(HeadDecoder(EncoderInfo((64,), (1,)), out_channels=13)([torch.rand(2, 64, 8, 8)]).shape)
    (2, 13, 8, 8)
    """

    dense: ClassVar[bool] = True

    def __init__(self, info: EncoderInfo, out_channels: int, start: Literal["xavier", "default"] = "xavier") -> None:
        super().__init__()
        check_maps("head", info)
        check_choice("head.start", start, ("xavier", "default"))
        if len(info.strides) != 1:
            raise ValueError(
                f"The decoder 'head' needs a single map, but the encoder gives {features_in_words(info)}. "
                "Share one level (model.levels), or take the decoder 'conv'."
            )
        self.convolutions = two_convolutions(info.channels[0], out_channels)
        if start == "xavier":
            xavier(self)

    def forward(self, features: Features) -> Tensor:
        return self.convolutions(features[0])
