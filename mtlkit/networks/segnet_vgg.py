"""SegNet with a pretrained VGG-16 as the shared encoder and one decoder per task, as in CosReg's experiments."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from mtlkit.network import DECODERS, ENCODERS, Decoder, Encoder, EncoderInfo, Features
from mtlkit.networks.light import features_in_words
from mtlkit.networks.segnet import CHANNELS, CONVOLUTIONS, check_multiples, conv_block, unpool
from mtlkit.networks.timm_encoder import TimmEncoder

OUT_STRIDES = (1, 2, 4)


@ENCODERS.register("segnet_vgg16")
class SegNetVGG16Encoder(TimmEncoder):
    """SegNet's encoder: the convolutions of VGG-16 with BatchNorm. The max-poolings keep the places of the maxima.

    Source: Suteu and Guo, Regularizing Deep Multi-Task Networks using Orthogonal Gradients, arXiv 1912.06844, after
    SegNet, arXiv 1511.00561. The paper says VGG16 with ImageNet's weights. BatchNorm comes from SegNet, so the weights
    are those of timm's `vgg16_bn`.

    Args:
        pretrained: true, false or a file of weights, as for every timm model.

    The input is an image (B, 3, H, W) in [0, 1] whose sides are multiples of 32. The output is one level, the last
    pooled map (B, 512, H/32, W/32), and five guides for the decoder `segnet`: the places (int64) of the maxima in the
    five poolings, finest first. Other decoders work as with every encoder.

    >>> import torch
    >>> encoder = SegNetVGG16Encoder()
    >>> encoder.info, encoder.info.guides
    (EncoderInfo(channels=(512,), strides=(32,)), 5)
    >>> [tuple(tensor.shape[1:]) for tensor in encoder(torch.rand(1, 3, 32, 32))]
    [(512, 1, 1), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    """

    def __init__(self, pretrained: bool | str | Path = False) -> None:
        super().__init__("vgg16_bn", pretrained, levels=[-1], image_size=(32, 32))
        for layer in self.net.values():
            if isinstance(layer, nn.MaxPool2d):
                layer.return_indices = True
        self.info = replace(self.info, guides=len(CHANNELS))

    def forward(self, image: Tensor) -> Features:
        x, guides = (image - self.mean) / self.std, []
        for layer in self.net.values():
            x = layer(x)
            if isinstance(x, tuple):
                x, places = x
                guides.append(places)
        return [x, *guides]

    def set_checkpointing(self) -> None:
        Encoder.set_checkpointing(self)  # which refuses: `forward` calls the layers in its own way, not in timm's

    def check_size(self, width: int, height: int) -> None:
        check_multiples("segnet_vgg16", width, height)


@DECODERS.register("segnet")
class SegNetDecoder(Decoder):
    """SegNet's decoder (arXiv 1511.00561): VGG-16 in reverse, unpooling to the places that the encoder's poolings kept.

    A stage is an unpooling, followed by 3x3 convolutions with BatchNorm and ReLU, as many as the encoder's stage of the
    same resolution has. The last convolution of a stage has the width of the next stage. The last convolution of all
    gives the outputs, without BatchNorm and ReLU. Weights start from He's distribution, as in the paper.

    Args:
        out_stride: how many times smaller than the image the output is: 1, 2 or 4. With 2 or 4, the last one or two
            stages are left out. CosReg's experiments use targets of 80x80 for images of 320x320, so this is 4.

    Needs the encoder `segnet_vgg16`, and raises `ValueError` for an encoder without its guides.

    >>> import torch
    >>> decoder = SegNetDecoder(EncoderInfo((512,), (32,), guides=5), out_channels=3, out_stride=4)
    >>> guides = [torch.zeros(1, width, 32 >> i, 32 >> i, dtype=torch.int64) for i, width in enumerate(CHANNELS)]
    >>> tuple(decoder([torch.rand(1, 512, 2, 2)], guides).shape)
    (1, 3, 16, 16)
    """

    dense: ClassVar[bool] = True
    guided: ClassVar[bool] = True

    def __init__(self, info: EncoderInfo, out_channels: int, out_stride: Literal[1, 2, 4] = 1) -> None:
        super().__init__()
        if (info.channels, info.strides, info.guides) != (CHANNELS[-1:], (32,), len(CHANNELS)):
            raise ValueError(
                "The decoder 'segnet' needs the last map of the encoder 'segnet_vgg16' and the places of its five "
                f"poolings as guides, but the encoder gives {features_in_words(info)} and {info.guides} guides."
            )
        if out_stride not in OUT_STRIDES:
            raise ValueError(f"The decoder 'segnet' has an out_stride of 1, 2 or 4, got {out_stride}.")
        self.finest = OUT_STRIDES.index(out_stride)  # the stage that gives the outputs
        self.stages = nn.ModuleList()
        for stage in reversed(range(self.finest, len(CHANNELS))):
            own, last = CHANNELS[stage], stage == self.finest
            layers: list[nn.Module] = [conv_block(own, own) for _ in range(CONVOLUTIONS[stage] - 1)]
            layers.append(nn.Conv2d(own, out_channels, 3, padding=1) if last else conv_block(own, CHANNELS[stage - 1]))
            self.stages.append(nn.Sequential(*layers))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, features: Features, guides: list[Tensor]) -> Tensor:  # type: ignore[override]  # it is guided
        (x,) = features
        for stage, places in zip(self.stages, reversed(guides[self.finest :]), strict=True):
            x = stage(unpool(x, places))
        return x
