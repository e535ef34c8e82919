"""Geometric loss strategy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, LossBalancer
from mtlkit.logarithms import have_logarithm


@BALANCERS.register("gls")
class GeometricLoss(LossBalancer):
    """Minimises the geometric mean of the losses.

    The objective is G = (prod_k L_k)^(1/k) = exp(mean_k log L_k) over the k tasks of the step, whose derivative by L_k
    is the weight w_k = G / (k L_k). A task whose loss is zero has nothing left to learn. The slope of the root is
    infinite there, and G = 0 would stop all other tasks. So this task gets the weight 0, and G is the mean of the
    others.

    Source: Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
    Multi-Task Learning, CVPR Workshops 2019, arXiv 1904.08492.

    Decoders: weighted. The paper minimises the geometric mean in all parameters.

    Defaults: those of the paper, whose objective has no options. No code of the authors was found.

    Raises:
        ValueError: in training, a loss is negative. The message names the task.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> weights = BALANCERS.build("gls", tasks=("a", "b", "c")).weights(torch.tensor([1.0, 4.0, 0.0]))
    >>> [round(w, 4) for w in weights.tolist()]
    [1.0, 0.25, 0.0]
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)

    def weights(self, losses: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        positive = have_logarithm(losses, tasks or self.tasks)
        logs = losses[positive].log()
        weights = torch.zeros_like(losses)
        weights[positive] = (logs.mean() - logs).exp() / len(logs)
        return weights
