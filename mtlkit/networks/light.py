"""Small decoders that work with every encoder: `conv` for maps, `linear` for vectors."""

from math import gcd
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.network import DECODERS, Decoder, EncoderInfo, Features


def check_maps(decoder: str, info: EncoderInfo) -> None:
    """Raises `ValueError` if a feature is not a map."""
    if not info.strides or 0 in info.strides:
        raise ValueError(
            f"The decoder {decoder!r} needs maps, but the encoder gives {features_in_words(info)}. "
            "The decoder 'linear' suits it."
        )


def features_in_words(info: EncoderInfo) -> str:
    """Describes the features in words, for error messages.

    >>> features_in_words(EncoderInfo((64, 25), (4, 0)))
    'a map of stride 4 (64 channels), a vector (25 channels)'
    """
    forms = [f"a map of stride {stride}" if stride else "a vector" for stride in info.strides]
    return ", ".join(f"{form} ({width} channels)" for form, width in zip(forms, info.channels, strict=True))


def resize_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes the map to (height, width), bilinear. Returns the map itself if it has that size already."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@DECODERS.register("conv")
class ConvDecoder(Decoder):
    """Sums all levels at a quarter of the image's size, then one 3x3 convolution.

    Each level passes a 1x1 convolution to `width` channels and is resized to the finest level whose stride is 4 or
    more. Then follow a 3x3 convolution, GroupNorm (which does not depend on the batch or the number of processes),
    ReLU, dropout and a 1x1 convolution. Raises `ValueError` if a level is a vector.

    Args:
        width: the number of channels.
        dropout: the probability that a channel is set to 0.

    >>> import torch
    >>> decoder = ConvDecoder(EncoderInfo((8, 16), (4, 8)), out_channels=3, width=32)
    >>> tuple(decoder([torch.rand(2, 8, 12, 16), torch.rand(2, 16, 6, 8)]).shape)
    (2, 3, 12, 16)
    """

    dense: ClassVar[bool] = True

    def __init__(self, info: EncoderInfo, out_channels: int, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        check_maps("conv", info)
        self.level = next((i for i, stride in enumerate(info.strides) if stride >= 4), len(info.strides) - 1)
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in info.channels)
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(gcd(width, 8), width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, out_channels, 1),
        )

    def forward(self, features: Features) -> Tensor:
        height, width = features[self.level].shape[-2:]
        x = sum(resize_map(project(f), (height, width)) for project, f in zip(self.project, features, strict=True))
        return self.head(x)


@DECODERS.register("linear")
class LinearDecoder(Decoder):
    """One linear layer on the deepest level. A map is first averaged over its positions.

    Args:
        dropout: the probability that an input is set to 0.

    >>> import torch
    >>> tuple(LinearDecoder(EncoderInfo((25,), (0,)), out_channels=10)([torch.rand(2, 25)]).shape)
    (2, 10)
    """

    dense: ClassVar[bool] = False

    def __init__(self, info: EncoderInfo, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(info.channels[-1], out_channels)

    def forward(self, features: Features) -> Tensor:
        found = features[-1]
        if found.ndim == 4:
            # Not `mean`: it would write its gradient once per position, where that of a sum is one number for all.
            found = found.sum((2, 3)) / (found.shape[2] * found.shape[3])
        return self.linear(self.dropout(found))
