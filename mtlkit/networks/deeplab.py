"""The DeepLabV3 head of the published ResNet-50 protocols."""

from typing import ClassVar

from torch import Tensor

from mtlkit.network import DECODERS, Decoder, EncoderInfo, Features
from mtlkit.networks.light import check_maps, features_in_words


@DECODERS.register("deeplabv3")
class DeepLabV3Decoder(Decoder):
    """DeepLabV3 (arXiv 1706.05587): atrous pyramid pooling of the deepest level, torchvision's head of 256 channels.

    This is the decoder of LibMTL's NYUv2 and Cityscapes protocols (arXiv 2203.14338), whose encoder is `resnet50` with
    `output_stride: 8`. The rates are 12, 24 and 36 at stride 8. At stride 16 or 32 they cover the same distance in
    image pixels. The deepest level is pooled to one pixel before a BatchNorm, so training needs two images per process.
    The output has the resolution of the deepest level. Raises `ValueError` if the deepest level has another stride.

    >>> import torch
    >>> decoder = DeepLabV3Decoder(EncoderInfo((8, 16), (4, 8)), out_channels=13)
    >>> tuple(decoder([torch.rand(2, 8, 16, 16), torch.rand(2, 16, 8, 8)]).shape)
    (2, 13, 8, 8)
    """

    dense: ClassVar[bool] = True

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__()
        check_maps("deeplabv3", info)
        stride = info.strides[-1]
        if stride not in (8, 16, 32):
            raise ValueError(
                f"The decoder 'deeplabv3' needs a deepest map of stride 8, 16 or 32, but the encoder gives "
                f"{features_in_words(info)}. The decoder 'conv' suits it."
            )
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead  # slow, and few models have it

        self.head = DeepLabHead(info.channels[-1], out_channels, [rate * 8 // stride for rate in (12, 24, 36)])

    def forward(self, features: Features) -> Tensor:
        return self.head(features[-1])
