"""The task attention network (MTAN) on the shared SegNet."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.network import DECODERS, Decoder, EncoderInfo, Features
from mtlkit.networks.light import features_in_words
from mtlkit.networks.segnet import AttentionConvolutions, all_maps, two_convolutions, xavier


def _attention(inputs: int, outputs: int) -> nn.Sequential:
    """Builds the layers of a mask in (0, 1): two 1x1 convolutions, each with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.Sigmoid(),
    )


@DECODERS.register("mtan")
class MTANDecoder(Decoder):
    """The attention modules of one task over all maps of the shared SegNet, and its head.

    Source: Liu et al., End-to-End Multi-Task Learning with Attention, arXiv 1803.10704. On the way down, each of the
    five stages computes a mask. Its input is the map after the first convolution of the stage, joined with the output
    of the stage above. The mask multiplies the map after the last convolution. A 3x3 convolution and a max-pooling of
    the result go to the next stage. On the way up, the output of the stage below is enlarged to twice its size
    (bilinear) and convolved. Joined with the unpooled map, it gives the mask for the last map of the stage. The head is
    a 3x3 and a 1x1 convolution.

    As in the authors' code, the tasks share the 3x3 convolutions between the modules, although the inputs of these
    convolutions depend on each task's own masks. They are the late module of the encoder. In training, each task in
    turn moves the running statistics of their BatchNorm layers, and evaluation uses these for all tasks. For NYUv2's
    three tasks this gives 44,229,073 parameters: 24,943,296 in SegNet, 10,220,160 in the late module, and per task
    2,984,576 in masks and about 37,000 in the head.

    The code of Nash-MTL and FAMO counts everything except the heads as shared parameters. CAGrad's code also excludes
    the masks. Here a balancer compares the gradients of SegNet alone, and its weights hold for the late module, too. A
    mask gets what the decoders get.

    Needs the encoder `segnet` with `levels: all`, and raises `ValueError` for other features. The output has the
    resolution of the image.

    >>> import torch
    >>> from mtlkit.networks import SegNetEncoder
    >>> encoder = SegNetEncoder("all", channels=[4, 8, 8, 8, 8])
    >>> decoder = MTANDecoder(encoder.info, out_channels=13)
    >>> tuple(decoder(encoder(torch.rand(2, 3, 32, 64)), encoder.late).shape)
    (2, 13, 32, 64)
    """

    dense: ClassVar[bool] = True
    late: ClassVar[bool] = True

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__()
        channels = info.channels[::4]
        expected = all_maps(channels)
        if (info.channels, info.strides) != (expected.channels, expected.strides) or len(channels) != 5:
            raise ValueError(
                "The decoder 'mtan' needs the 20 maps of the encoder 'segnet' with levels: all, "
                f"but the encoder gives {features_in_words(info)}."
            )
        self.down_masks, self.up_masks = nn.ModuleList(), nn.ModuleList()
        for stage, (finer, own) in enumerate(zip((channels[0], *channels[:-1]), channels, strict=True)):
            self.down_masks.append(_attention(2 * own if stage else own, own))
            self.up_masks.append(_attention(own + finer, finer))
        self.head = two_convolutions(channels[0], out_channels)
        xavier(self)

    def forward(self, features: Features, late: AttentionConvolutions) -> Tensor:  # type: ignore[override]  # `late`
        stages = [features[i : i + 4] for i in range(0, len(features), 4)]
        passed: Features = []
        for (first, last, *_), mask, convolve in zip(stages, self.down_masks, late.down, strict=True):
            seen = mask(torch.cat([first, *passed], dim=1)) * last
            passed = [F.max_pool2d(convolve(seen), 2)]
        (x,) = passed
        way_up = zip(reversed(stages), reversed(self.up_masks), reversed(late.up), strict=True)
        for (*_, unpooled, last), mask, convolve in way_up:
            x = convolve(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
            x = mask(torch.cat([unpooled, x], dim=1)) * last
        return self.head(x)
