"""Small networks for experiments on digits: convolutions with strides, and decoders of a shared vector."""

from math import prod
from typing import ClassVar

from torch import Tensor, nn

from mtlkit.network import DECODERS, ENCODERS, Decoder, Encoder, EncoderInfo, Features
from mtlkit.networks.light import check_maps, features_in_words


def _convolution(inputs: int, outputs: int, with_batch_norm: bool, dropout: float) -> nn.Sequential:
    """Halves the map (sides are rounded up): 5x5 convolution of stride 2 without bias, batch norm, ReLU, dropout."""
    convolution = nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=False)
    norm = [nn.BatchNorm2d(outputs)] if with_batch_norm else []
    return nn.Sequential(convolution, *norm, nn.ReLU(), nn.Dropout(dropout))


def _two_layers(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


def _vector(decoder: str, info: EncoderInfo, suited: str) -> int:
    """Returns the length of the deepest level. Raises `ValueError`, which names a `suited` decoder, if it is a map."""
    if not info.strides or info.strides[-1] != 0:
        raise ValueError(
            f"The decoder {decoder!r} needs a vector, but the encoder gives {features_in_words(info)}. "
            f"The decoder {suited!r} suits it."
        )
    return info.channels[-1]


@ENCODERS.register("strided")
class StridedEncoder(Encoder):
    """CosReg's encoder for MultiDigitMNIST: two 5x5 convolutions with stride 2 and no bias, on grey images.

    Args:
        width: the number of channels of both convolutions.
        with_batch_norm: whether a batch normalisation follows each convolution.
        dropout: the probability of a zero after each ReLU.

    The input is an image (B, 3, H, W) in [0, 1], a grey image with three equal channels. The encoder averages the
    channels. The output is one level after a ReLU, (B, width, H / 4, W / 4) with sides rounded up.

    The paper (Suteu and Guo, arXiv 1912.06844) says: strides instead of pooling, convolutions without bias, their
    number and width, and a comparison with and without batch norm and dropout. This project chose the size, stride and
    padding of the kernels, the places of batch norm and dropout, and images without normalisation, so that black stays
    0.

    >>> import torch
    >>> [tuple(level.shape) for level in StridedEncoder()(torch.rand(2, 3, 64, 64))]
    [(2, 20, 16, 16)]
    >>> sum(p.numel() for p in StridedEncoder().parameters())  # 25 * 20 + 25 * 20 * 20
    10500
    """

    def __init__(self, width: int = 20, with_batch_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = _convolution(1, width, with_batch_norm, dropout)
        self.second = _convolution(width, width, with_batch_norm, dropout)
        self.info = EncoderInfo((width,), (4,))

    @property
    def last_layer(self) -> nn.Module:
        return self.second[0]

    def forward(self, image: Tensor) -> Features:
        return [self.second(self.first(image.mean(dim=1, keepdim=True)))]


@DECODERS.register("strided")
class StridedDecoder(Decoder):
    """CosReg's decoder for MultiDigitMNIST: a 5x5 convolution with stride 2 and no bias, then two linear layers.

    Args:
        width: the number of channels of the convolution.
        hidden: the number of values between the linear layers.
        image_size: (width, height) of the images. The linear layer is built for this size (64x64 with the encoder
            `strided` gives it 20 * 8 * 8 = 1280 inputs).
        with_batch_norm: whether a batch normalisation follows the convolution.
        dropout: the probability of a zero after each ReLU.

    It reads the deepest level. This project chose `hidden` and the biases of the linear layers, because the paper does
    not give them. See the encoder `strided` for the rest. Raises `ValueError` if a level is a vector. During use, it
    raises `ValueError` for maps whose size does not belong to `image_size`.

    >>> import torch
    >>> decoder = StridedDecoder(EncoderInfo((20,), (4,)), out_channels=5)
    >>> tuple(decoder([torch.rand(2, 20, 16, 16)]).shape)
    (2, 5)
    >>> sum(p.numel() for p in decoder.parameters())  # 25 * 20 * 20 + 1281 * 50 + 51 * 5
    74305
    """

    dense: ClassVar[bool] = False

    def __init__(
        self,
        info: EncoderInfo,
        out_channels: int,
        width: int = 20,
        hidden: int = 50,
        image_size: tuple[int, int] = (64, 64),
        with_batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_maps("strided", info)
        self.image_size = tuple(image_size)
        self.map_size = tuple(-(-side // info.strides[-1]) for side in image_size)  # rounded up
        columns, rows = (-(-side // 2) for side in self.map_size)
        self.convolution = _convolution(info.channels[-1], width, with_batch_norm, dropout)
        self.head = _two_layers(width * rows * columns, hidden, out_channels, dropout)

    def forward(self, features: Features) -> Tensor:
        rows, columns = features[-1].shape[-2:]
        if (columns, rows) != self.map_size:
            raise ValueError(
                f"The decoder 'strided' was built for images of {'x'.join(map(str, self.image_size))} and so for maps "
                f"of {'x'.join(map(str, self.map_size))} (width x height), got maps of {columns}x{rows}: set its "
                "image_size to that of the images."
            )
        return self.head(self.convolution(features[-1]).flatten(1))


@DECODERS.register("mlp")
class MLPDecoder(Decoder):
    """A linear layer to `width` values, ReLU, dropout and a linear layer. The input is a vector.

    This is the classifier of CL_RR (Gama and Grassi, arXiv 2505.10347). Raises `ValueError` if the deepest level is a
    map.

    Args:
        width: the number of values between the layers.
        dropout: the probability that one of them is set to 0.

    >>> import torch
    >>> tuple(MLPDecoder(EncoderInfo((50,), (0,)), out_channels=10)([torch.rand(2, 50)]).shape)
    (2, 10)
    """

    dense: ClassVar[bool] = False

    def __init__(self, info: EncoderInfo, out_channels: int, width: int = 50, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = _two_layers(_vector("mlp", info, "linear"), width, out_channels, dropout)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features[-1])


@DECODERS.register("image")
class ImageDecoder(Decoder):
    """Makes a picture from a vector: a linear layer to `width` values, ReLU, dropout, a linear layer to all pixels.

    The values are not limited to [0, 1].

    This is the decoder that reconstructs in CL_RR (Gama and Grassi, arXiv 2505.10347). Raises `ValueError` if the
    deepest level is a map.

    Args:
        size: (width, height) of the picture. If the target has another size, the model resizes the picture.
        width: the number of values between the layers.
        dropout: the probability that one of them is set to 0.

    >>> import torch
    >>> tuple(ImageDecoder(EncoderInfo((50,), (0,)), out_channels=3, size=(28, 20))([torch.rand(2, 50)]).shape)
    (2, 3, 20, 28)
    """

    dense: ClassVar[bool] = True

    def __init__(
        self,
        info: EncoderInfo,
        out_channels: int,
        size: tuple[int, int] = (28, 28),
        width: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        columns, rows = size
        self.shape = out_channels, rows, columns
        self.layers = _two_layers(_vector("image", info, "conv"), width, prod(self.shape), dropout)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features[-1]).unflatten(1, self.shape)
