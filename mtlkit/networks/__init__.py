"""The encoders and decoders of mtlkit. Importing this package registers them."""

from mtlkit.networks.celeba_cnn import CelebACNN
from mtlkit.networks.deeplab import DeepLabV3Decoder
from mtlkit.networks.digits import ImageDecoder, MLPDecoder, StridedDecoder, StridedEncoder
from mtlkit.networks.lenet import LeNet
from mtlkit.networks.light import ConvDecoder, LinearDecoder
from mtlkit.networks.mtan import MTANDecoder
from mtlkit.networks.segnet import HeadDecoder, SegNetEncoder
from mtlkit.networks.segnet_vgg import SegNetDecoder, SegNetVGG16Encoder
from mtlkit.networks.smp import DeepLabV3PlusDecoder, DPTDecoder, FPNDecoder, SegFormerDecoder, UNetDecoder
from mtlkit.networks.timm_encoder import TimmEncoder

__all__ = [
    "CelebACNN",
    "ConvDecoder",
    "DPTDecoder",
    "DeepLabV3Decoder",
    "DeepLabV3PlusDecoder",
    "FPNDecoder",
    "HeadDecoder",
    "ImageDecoder",
    "LeNet",
    "LinearDecoder",
    "MLPDecoder",
    "MTANDecoder",
    "SegFormerDecoder",
    "SegNetDecoder",
    "SegNetEncoder",
    "SegNetVGG16Encoder",
    "StridedDecoder",
    "StridedEncoder",
    "TimmEncoder",
    "UNetDecoder",
]
