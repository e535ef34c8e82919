"""D-grad: an affine map of the features before every decoder."""

from collections.abc import Mapping, Sequence

import torch

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.channels import transform, width
from mtlkit.network import EncoderInfo, Features
from mtlkit.state import per_task
from mtlkit.task import Task


@BALANCERS.register("d_grad")
class DGrad(Balancer):
    """Puts a learnable affine map of the features before each task's decoder and sums the losses.

    Decoder k sees A_k z + b_k. A_k is a d x d matrix that starts at the identity, and b_k is a vector that starts at 0.
    The map acts on the d channels of one level, in the same way at every position: z is (B, d) or (B, d, H, W). The
    maps descend on the losses in the same backward pass, so the encoder gets sum_k A_k^T dL_k / d(A_k z + b_k) at that
    level.

    Source: an idea of Yu et al., which Javaloy and Valera adapt to hard parameter sharing, for comparison, in Rotograd:
    Dynamic Gradient Homogenization for Multitask Learning (the first version of arXiv 2103.02631).

    Decoders: plain. The sum of the losses is minimised.

    Defaults: those of this project. That paper says only that the maps are affine. It trains its networks at the rate
    0.001, which is the rate here. No code was found.

    Memory: K (d^2 + d) numbers. The state of Adam makes it three times as much.

    Args:
        level: the level of a feature pyramid that is mapped (-1: the deepest).
        lr: the learning rate of the maps.
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: in `setup`, the encoder has no such level.

    >>> import torch
    >>> from mtlkit import BALANCERS, EncoderInfo
    >>> balancer = BALANCERS.build("d_grad", tasks=("a", "b"))
    >>> balancer.setup({}, EncoderInfo(channels=(8,), strides=(0,)))
    >>> z = torch.randn(3, 8)
    >>> torch.equal(balancer.adapter("a", [z])[0], z)
    True
    """

    def __init__(self, tasks: Sequence[str], *, level: int = -1, lr: float = 1e-3, lr_decay: float = 1.0) -> None:
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        self.level = level

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        d = width(encoder, self.level)
        self.weight = per_task(self.tasks, torch.eye(d), learned=True)
        self.bias = per_task(self.tasks, torch.zeros(d), learned=True)

    def adapter(self, task: str, features: Features) -> Features:
        return transform(features, self.level, self.weight[task], self.bias[task])
