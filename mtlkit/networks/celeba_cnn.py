"""The convolutional network of the CelebA experiments."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtlkit.network import ENCODERS, Encoder, EncoderInfo, Features
from mtlkit.networks.segnet import conv_block


@ENCODERS.register("celeba_cnn")
class CelebACNN(Encoder):
    """FAMO's network for CelebA: seven 3x3 convolutions, a global average and two linear layers, to 512 values.

    Source: the code of Liu et al., FAMO, arXiv 2306.03792. Later papers on CelebA use the same network. The
    convolutions have 64, 128, 128, 256, 256, 512 and 512 channels and padding 1. A 2x2 max-pooling follows the first,
    third and fifth. Two linear layers of 512 values come last. No layer has a bias, and BatchNorm and ReLU follow each.
    Training therefore needs two images per process. In that code, each of the 40 attributes has a linear head (the
    decoder `linear`).

    Args:
        batch_statistics: the batch norms use the statistics of the present batch in evaluations, too, and keep no
            running ones. The single-task runs of that code are evaluated like this, because its `trainer_one_task.py`
            never calls `eval()`. Their figures are what every published delta-m on CelebA is relative to. They depend
            on `data.eval_batch_size` and on the order of the images, and a single image has no prediction.

    The input is an image (B, 3, H, W) in [0, 1], used as it is. That code uses 64x64, and at least 8x8 is needed. The
    output is one level, a vector (B, 512), stride 0.

    >>> import torch
    >>> encoder = CelebACNN()
    >>> [tuple(level.shape) for level in encoder(torch.rand(2, 3, 64, 64))]
    [(2, 512)]
    >>> sum(p.numel() for p in encoder.parameters())
    5176640
    """

    def __init__(self, batch_statistics: bool = False) -> None:
        super().__init__()
        self.info = EncoderInfo((512,), (0,))
        self.convolutions = nn.Sequential(
            conv_block(3, 64, bias=False),
            nn.MaxPool2d(2),
            conv_block(64, 128, bias=False),
            conv_block(128, 128, bias=False),
            nn.MaxPool2d(2),
            conv_block(128, 256, bias=False),
            conv_block(256, 256, bias=False),
            nn.MaxPool2d(2),
            conv_block(256, 512, bias=False),
            conv_block(512, 512, bias=False),
        )
        self.linear = nn.Sequential(_linear(512), _linear(512))
        self.batch_statistics = batch_statistics
        for module in self.modules() if batch_statistics else ():
            if isinstance(module, _BatchNorm):  # without running statistics, it uses those of the batch in any mode
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None

    @property
    def last_layer(self) -> nn.Module:
        return self.get_submodule("linear.1.0")

    def forward(self, image: Tensor) -> Features:
        if self.batch_statistics and len(image) == 1:
            raise ValueError(
                "The encoder 'celeba_cnn' with batch_statistics=true normalises over the images of a batch, and here "
                "is only one image. In training, change data.batch_size or data.eval_batch_size, so that no last batch "
                "has one sample. Such a run cannot predict for a single file."
            )
        return [self.linear(self.convolutions(image).mean(dim=(2, 3)))]

    def check_size(self, width: int, height: int) -> None:
        if min(width, height) < 8:
            raise ValueError(
                f"The encoder 'celeba_cnn' takes images of 8x8 and more, got {width}x{height} (width x height)."
            )


def _linear(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True))
