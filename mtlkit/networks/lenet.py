"""The LeNet of the Multi-MNIST experiments."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.network import ENCODERS, Encoder, EncoderInfo, Features
from mtlkit.option_checks import check_choice

MEAN, STD = 0.1307, 0.3081  # of MNIST's training images


@ENCODERS.register("lenet")
class LeNet(Encoder):
    """LeNet on grey images, reduced by default: conv5x5-4, pool, conv5x5-8, pool, linear to 25 values.

    Args:
        channels: the widths of the two convolutions. The full-size Multi-MNIST LeNet has [10, 20].
        features: the length of the shared vector. The full-size network has 50.
        image_size: (width, height) of the images, at least 16x16. The linear layer is built for this size (28x28 gives
            it 4 * 4 * 8 = 128 inputs), so the encoder takes no other size.
        dropout: the probability of a zero among the outputs of the second convolution, before the pooling. CL_RR (Gama
            and Grassi, arXiv 2505.10347) uses it at this place, in a full-size network.
        start: how the weights are drawn. "he": normal with the variance 2 / inputs (He et al., arXiv 1502.01852), and
            biases of 0. "default": as torch draws them, uniform within 1 / sqrt(inputs), weights and biases alike,
            which is a sixth of that variance. With it many of the 25 units of the reduced network are dead from the
            start, so "he" is the default here. Published code mostly has torch's start, for instance that of CL_RR.
            The start also sets the sizes of the tasks' gradients at the features, against each other.

    The input is an image (B, 3, H, W) in [0, 1], a grey image with three equal channels. The encoder averages the
    channels. The output is one level, a vector (B, features) after a ReLU, stride 0. The 25 features are those of the
    reduced network in Rotograd's first version (Javaloy and Valera, OpenReview, 2020). It does not give the other
    widths: this project chose 4 and 8.

    >>> import torch
    >>> [tuple(level.shape) for level in LeNet()(torch.rand(2, 3, 28, 28))]
    [(2, 25)]
    >>> sum(p.numel() for p in LeNet().parameters())  # 4 * 26 + 8 * 101 + 25 * 129
    4137
    """

    def __init__(
        self,
        channels: Sequence[int] = (4, 8),
        features: int = 25,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
        start: Literal["he", "default"] = "he",
    ) -> None:
        super().__init__()
        check_choice("The option 'start' of the encoder 'lenet'", start, ("he", "default"))
        if len(channels) != 2 or min(*channels, features) < 1:
            raise ValueError(
                f"LeNet needs two channel numbers and a feature number, all positive: "
                f"got channels={list(channels)}, features={features}."
            )
        width, height = image_size
        if min(width, height) < 16:  # two convolutions without padding and two poolings reduce 16 pixels to one
            raise ValueError(f"LeNet takes images of 16x16 and more, got {width}x{height} (width x height).")
        self.image_size = (width, height)
        self.conv1 = nn.Conv2d(1, channels[0], 5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 5)
        flat = channels[1] * (((width - 4) // 2 - 4) // 2) * (((height - 4) // 2 - 4) // 2)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(flat, features)
        self.info = EncoderInfo((features,), (0,))
        for layer in (self.conv1, self.conv2, self.linear) if start == "he" else ():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))

    @property
    def last_layer(self) -> nn.Module:
        return self.linear

    def forward(self, image: Tensor) -> Features:
        x = (image.mean(dim=1, keepdim=True) - MEAN) / STD
        x = F.max_pool2d(self.conv1(x), 2).relu()
        x = F.max_pool2d(self.dropout(self.conv2(x)), 2).relu()
        return [self.linear(x.flatten(1)).relu()]

    def check_size(self, width: int, height: int) -> None:
        if (width, height) != self.image_size:
            own = "x".join(map(str, self.image_size))
            raise ValueError(
                f"The encoder 'lenet' was built for images of {own} (width x height), got {width}x{height}: "
                f"resize the images, or build it with image_size=({width}, {height})."
            )
