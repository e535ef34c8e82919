"""CosReg: a penalty on the cosines between task gradients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.option_checks import check_number

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("cosreg")
class CosReg(Balancer):
    """Drives the task gradients towards orthogonality by true double backward.

    Minimises sum_k L_k + alpha / (K (K - 1)) |D - I|_F^2 with D_ij = cos(grad_theta L_i, grad_theta L_j). The penalty's
    gradient reaches the decoders too, because they shape the gradients that are compared.

    Source: Suteu and Guo, Regularizing Deep Multi-Task Networks using Orthogonal Gradients, arXiv 1912.06844.

    Decoders: plain. The penalty reaches them too, by its definition. The paper adds it to the sum of the losses.

    Differs from the published experiments: theta is the last layer, as in the paper, and alpha is the paper's for
    digits with batch norm. The paper has `alpha=10` for digits without batch norm, NYUv2 and SUN RGB-D, and for NYUv2
    also the mean loss as a factor, which `scale_by_loss=true` gives. The experiments `nyuv2_cosreg` and `sunrgbd` have
    these settings. No code of the method by its authors was found.

    Args:
        alpha: the penalty's weight (the paper's best on MultiDigitMNIST is 0.1, with batch norm).
        scale_by_loss: multiply alpha by the mean loss, held constant (the paper's setting for NYUv2, alpha 10).
        space: `last_layer` or `features`.

    Raises:
        ValueError: in training, a layer has no double backward. The message names the layer.

    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("cosreg", tasks=("a", "b"), alpha=10.0, scale_by_loss=True).space
    'last_layer'
    """

    needs = frozenset({"create_graph"})
    spaces = ("last_layer", "features")
    seeks_pareto = False  # on the Pareto set of two tasks the gradients are opposite, where the penalty is largest

    def __init__(
        self, tasks: Sequence[str], *, alpha: float = 0.1, scale_by_loss: bool = False, space: str = "last_layer"
    ) -> None:
        super().__init__(tasks, space=space)
        check_number("balancer.alpha", alpha, "[0, inf)")
        self.alpha = alpha
        self.scale_by_loss = scale_by_loss

    def objective(self, step: "Step") -> Tensor:
        penalty = self.penalty(step.gram)
        alpha = self.alpha * (step.losses.detach().mean() if self.scale_by_loss else 1.0)
        step.extras["penalty"] = penalty.detach()
        return step.losses.sum() + alpha * penalty

    def penalty(self, gram: Tensor) -> Tensor:
        """Returns |D - I|_F^2 / (K (K - 1)), the mean squared cosine of a pair, from the Gram matrix.

        >>> import torch
        >>> from mtlkit import BALANCERS
        >>> BALANCERS.build("cosreg", tasks=("a", "b")).penalty(torch.tensor([[1.0, 1.0], [1.0, 4.0]])).item()
        0.25
        """
        k = len(gram)
        if k == 1:
            return gram.sum() * 0
        squares = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
        cosines_squared = gram.square() / (squares[:, None] * squares[None, :]).clamp_min(torch.finfo(gram.dtype).tiny)
        return (cosines_squared.sum() - cosines_squared.diagonal().sum()) / (k * (k - 1))
