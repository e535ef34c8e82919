"""The encoders and decoders that come with mtlkit; importing this package registers them."""

from mtlkit.networks.lenet import LeNet
from mtlkit.networks.light import ConvDecoder, LinearDecoder
from mtlkit.networks.smp import DeepLabV3PlusDecoder, DPTDecoder, FPNDecoder, SegFormerDecoder, UNetDecoder
from mtlkit.networks.timm_encoder import TimmEncoder

__all__ = [
    "ConvDecoder",
    "DPTDecoder",
    "DeepLabV3PlusDecoder",
    "FPNDecoder",
    "LeNet",
    "LinearDecoder",
    "SegFormerDecoder",
    "TimmEncoder",
    "UNetDecoder",
]
