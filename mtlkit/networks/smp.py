"""Decoders of segmentation-models-pytorch, adapted to the features of any encoder.

All of them except `fpn` contain BatchNorm. `deeplabv3plus` pools to one pixel before a BatchNorm, so its training needs
two images per process.

segmentation-models-pytorch takes seconds to import. So a class imports it when it is built, and a list of decoders or a
check of a configuration does not need it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from mtlkit.network import DECODERS, Decoder, EncoderInfo, Features
from mtlkit.networks.light import check_maps, features_in_words, resize_map


def _unsuited(decoder: str, needs: str, info: EncoderInfo) -> ValueError:
    suited = "'conv', 'segformer' and 'dpt'" if len(set(info.strides)) == 1 else "'conv', 'segformer' and 'unet'"
    return ValueError(
        f"The decoder {decoder!r} needs {needs}, but the encoder gives {features_in_words(info)}. "
        f"Decoders that suit it: {suited}; or share other levels."
    )


class _SMPDecoder(Decoder):
    """The common part of these decoders: a body from segmentation-models-pytorch and a convolution to the outputs."""

    dense: ClassVar[bool] = True

    def __init__(self, body: nn.Module, width: int, out_channels: int, kernel: int) -> None:
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head

        super().__init__()
        self.body = body
        self.head = nn.Conv2d(width, out_channels, kernel, padding=kernel // 2)
        initialize_decoder(self.body)
        initialize_head(self.head)


@DECODERS.register("unet")
class UNetDecoder(_SMPDecoder):
    """U-Net (arXiv 1505.04597): enlarges the deepest level to the image's size, with one skip connection per level.

    Needs a pyramid whose strides are powers of two. Some strides may be missing.

    Args:
        channels: the width after each doubling of the size, coarsest first. Without it, the widths are halved from 256
            down to 16.

    >>> import torch
    >>> decoder = UNetDecoder(EncoderInfo((8, 16, 24), (2, 4, 8)), out_channels=3)
    >>> tuple(decoder([torch.rand(2, 8, 24, 32), torch.rand(2, 16, 12, 16), torch.rand(2, 24, 6, 8)]).shape)
    (2, 3, 48, 64)
    """

    def __init__(self, info: EncoderInfo, out_channels: int, channels: Sequence[int] | None = None) -> None:
        from segmentation_models_pytorch.decoders.unet import decoder as unet

        check_maps("unet", info)
        strides = info.strides
        if len(set(strides)) < 2 or any(stride & (stride - 1) for stride in strides):
            raise _unsuited("unet", "a pyramid of maps with strides 2, 4, 8, ...", info)
        # One entry per halving of the image: the number of the level there, None if the encoder has no such level.
        self.levels: list[int | None] = []
        due = 2
        for level, stride in enumerate(strides):
            if stride == 1:
                continue
            while due < stride:
                self.levels.append(None)
                due *= 2
            self.levels.append(level)
            due = 2 * stride
        depth = len(self.levels)
        channels = [max(256 >> step, 16) for step in range(depth)] if channels is None else list(channels)
        if len(channels) != depth:
            raise ValueError(f"The decoder 'unet' needs {depth} channels on these features, got {channels}.")
        skips = [0 if level is None else info.channels[level] for level in self.levels]
        super().__init__(unet.UnetDecoder((3, *skips), channels, n_blocks=depth), channels[-1], out_channels, 3)

    def forward(self, features: Features) -> Tensor:
        pyramid: Features = []
        for level in reversed(self.levels):
            finer = pyramid[0] if pyramid else features[-1]
            pyramid.insert(0, _empty(finer) if level is None else features[level])
        return self.head(self.body([_empty(pyramid[0]), *pyramid]))


def _empty(coarser: Tensor) -> Tensor:
    """Returns an empty level for a stride that the encoder does not have: no channels, twice the size of `coarser`."""
    batch, _, height, width = coarser.shape
    return coarser.new_empty(batch, 0, 2 * height, 2 * width)


@DECODERS.register("fpn")
class FPNDecoder(_SMPDecoder):
    """Feature pyramid network with the segmentation branch of Panoptic FPN (arXiv 1901.02446), GroupNorm.

    Needs four levels, each twice as fine as the next.

    Args:
        width: the number of channels of the pyramid, a multiple of 64. The branch has half of it.
        dropout: the probability that a channel of the branch is set to 0.

    >>> import torch
    >>> decoder = FPNDecoder(EncoderInfo((8, 8, 8, 8), (4, 8, 16, 32)), out_channels=3)
    >>> tuple(decoder([torch.rand(2, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]).shape)
    (2, 3, 16, 16)
    """

    def __init__(self, info: EncoderInfo, out_channels: int, width: int = 256, dropout: float = 0.2) -> None:
        from segmentation_models_pytorch.decoders.fpn import decoder as fpn

        check_maps("fpn", info)
        last = info.strides[-4:]
        if len(last) < 4 or any(2 * fine != coarse for fine, coarse in pairwise(last)):
            raise _unsuited("fpn", "four maps, each of twice the stride of the one before", info)
        if width % 64:
            raise ValueError(f"The width of the decoder 'fpn' must be a multiple of 64, got {width}.")
        body = fpn.FPNDecoder(list(info.channels[-4:]), 4, width, width // 2, dropout)
        super().__init__(body, width // 2, out_channels, 1)

    def forward(self, features: Features) -> Tensor:
        height, width = features[-1].shape[-2:]
        sizes = [(height << step, width << step) for step in (3, 2, 1, 0)]
        doubled = [resize_map(f, size) for f, size in zip(features[-4:], sizes, strict=True)]
        return self.head(self.body(doubled))


@DECODERS.register("deeplabv3plus")
class DeepLabV3PlusDecoder(_SMPDecoder):
    """DeepLabV3+ (arXiv 1802.02611): atrous pyramid pooling of the deepest level, refined by the level of stride 4.

    The atrous rates are the paper's: 6, 12, 18 at stride 16. At stride 8 or 32 they cover the same distance in image
    pixels. The paper's encoders have `output_stride: 16`. Needs a level of stride 4 and a deepest level of stride 8, 16
    or 32.

    Args:
        width: the number of channels.
        dropout: the probability that a value after the pooling is set to 0.

    >>> import torch
    >>> decoder = DeepLabV3PlusDecoder(EncoderInfo((8, 16), (4, 16)), out_channels=3)
    >>> tuple(decoder([torch.rand(2, 8, 16, 16), torch.rand(2, 16, 4, 4)]).shape)
    (2, 3, 16, 16)
    """

    def __init__(self, info: EncoderInfo, out_channels: int, width: int = 256, dropout: float = 0.5) -> None:
        from segmentation_models_pytorch.decoders.deeplabv3 import decoder as deeplabv3

        check_maps("deeplabv3plus", info)
        stride = info.strides[-1]
        if 4 not in info.strides or stride not in (8, 16, 32):
            raise _unsuited("deeplabv3plus", "a map of stride 4 and a last one of stride 8, 16 or 32", info)
        self.fine, self.factor = info.strides.index(4), stride // 4
        rates = [rate * 16 // stride for rate in (6, 12, 18)]
        channels = [0, 0, info.channels[self.fine], info.channels[-1]]  # the body reads only the last two levels
        body = deeplabv3.DeepLabV3PlusDecoder(channels, 4, width, rates, 16, True, dropout)
        body.up = nn.Upsample(mode="bilinear", scale_factor=self.factor, align_corners=False)
        super().__init__(body, width, out_channels, 1)

    def forward(self, features: Features) -> Tensor:
        height, width = features[-1].shape[-2:]
        fine = resize_map(features[self.fine], (height * self.factor, width * self.factor))
        return self.head(self.body([fine, fine, fine, features[-1]]))


@DECODERS.register("segformer")
class SegFormerDecoder(_SMPDecoder):
    """SegFormer's all-MLP decoder (arXiv 2105.15203): each level to `width` channels and stride 4, one fusion.

    Works with all maps, also with those of a ViT.

    Args:
        width: the number of channels.

    >>> import torch
    >>> decoder = SegFormerDecoder(EncoderInfo((8, 16), (4, 8)), out_channels=3)
    >>> tuple(decoder([torch.rand(2, 8, 16, 16), torch.rand(2, 16, 8, 8)]).shape)
    (2, 3, 16, 16)
    """

    def __init__(self, info: EncoderInfo, out_channels: int, width: int = 256) -> None:
        from segmentation_models_pytorch.decoders.segformer import decoder as segformer

        check_maps("segformer", info)
        self.stride = info.strides[0]
        super().__init__(segformer.SegformerDecoder([3, *info.channels], 5, width), width, out_channels, 1)

    def forward(self, features: Features) -> Tensor:
        batch, _, height, width = features[0].shape
        image = features[0].new_empty(batch, 0, height * self.stride, width * self.stride)  # for its size
        return self.head(self.body([image, *features]))


@DECODERS.register("dpt")
class DPTDecoder(_SMPDecoder):
    """Dense prediction transformer (arXiv 2103.13413): makes a pyramid of a ViT's blocks, and fuses it coarse to fine.

    Needs one to four maps of one stride. The map that becomes the finest level comes first. Class and register tokens
    are ignored.

    Args:
        width: the number of channels.

    >>> import torch
    >>> decoder = DPTDecoder(EncoderInfo((32, 32), (16, 16)), out_channels=3)
    >>> tuple(decoder([torch.rand(2, 32, 4, 4), torch.rand(2, 32, 4, 4)]).shape)
    (2, 3, 32, 32)
    """

    def __init__(self, info: EncoderInfo, out_channels: int, width: int = 256) -> None:
        from segmentation_models_pytorch.decoders.dpt import decoder as dpt

        check_maps("dpt", info)
        count = len(info.strides)
        if count > 4 or len(set(info.strides)) > 1:
            raise _unsuited("dpt", "one to four maps of one stride, as a ViT gives them", info)
        # patches of 14 pixels are treated as 16, because the model resizes the output anyway
        stride = max(8, min(32, 1 << (info.strides[0] - 1).bit_length()))
        self.multiple = max(1, (1 << (count + 1)) // stride)  # how many times smaller the coarsest map is
        body = dpt.DPTDecoder(
            info.channels,
            [stride] * count,
            encoder_has_prefix_tokens=False,
            readout="ignore",
            intermediate_channels=[max(c >> (count - 1 - i), 1) for i, c in enumerate(info.channels)],
            fusion_channels=width,
        )
        super().__init__(body, width, out_channels, 3)

    def forward(self, features: Features) -> Tensor:
        height, width = (-(-side // self.multiple) * self.multiple for side in features[0].shape[-2:])
        return self.head(self.body([resize_map(f, (height, width)) for f in features], [None] * len(features)))
