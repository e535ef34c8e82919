"""MGDA: the shortest combined gradient (Sener and Koltun)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.registry import suggest
from mtlkit.solvers import any_order, min_norm_point

if TYPE_CHECKING:
    from mtlkit.step import Step

NORMALIZATIONS = ("none", "l2", "loss", "loss+")


@BALANCERS.register("mgda")
class MGDA(GramBalancer):
    """Takes the shortest gradient in the convex hull of the task gradients, a descent direction of every task.

    v minimises |sum_k v_k g_k / s_k|^2 over v >= 0, sum v = 1, and w_k = v_k / s_k. The scales s_k are 1 (`none`),
    |g_k| (`l2`), L_k (`loss`) or L_k |g_k| (`loss+`); a task with s_k = 0 takes no part. With the scales 1 a zero
    gradient is itself the shortest: the encoder stands still, as at every Pareto-stationary point.

    Source: Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, arXiv 1810.04650.
    `space: features` is the paper's MGDA-UB. The scales are the authors' code's; it multiplies the losses by v_k,
    which no longer descends for every task where scales differ, so here the combination is the minimised one.

    Args:
        normalization: `none`, `l2`, `loss` or `loss+`.
        space: `features` or `parameters`.

    Raises:
        ValueError: in training by `loss` or `loss+`, when a loss is negative.

    >>> balancer = BALANCERS.build("mgda", tasks=("a", "b"))
    >>> balancer.weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0.75, 0.25]
    """

    def __init__(self, tasks: Sequence[str], *, normalization: str = "none", space: str = "features") -> None:
        super().__init__(tasks, space=space)
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"balancer.normalization cannot be {normalization!r}. {suggest(str(normalization), NORMALIZATIONS)}"
            )
        self.normalization = normalization

    def weights(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        """As in every `GramBalancer`; `loss` and `loss+` need the losses (k,) too."""
        scale = torch.ones_like(gram.diagonal())
        if self.normalization in ("l2", "loss+"):
            scale = gram.diagonal().clamp_min(0).sqrt()
        if self.normalization in ("loss", "loss+"):
            if losses is None or (losses < 0).any():
                raise ValueError(
                    f"balancer.normalization={self.normalization} divides by the losses: it needs them, and none "
                    f"negative, got {None if losses is None else losses.tolist()}. Choose l2 or none."
                )
            scale = scale * losses.to(gram)
        i = scale.nonzero().flatten()
        weights = torch.zeros_like(scale)
        if len(i):
            weights[i] = self.shares(gram[i[:, None], i] / scale[i] / scale[i, None]) / scale[i]
        return weights

    @any_order
    def shares(self, gram: Tensor) -> Tensor:
        """v for the Gram matrix of the scaled gradients."""
        return min_norm_point(gram)

    def combine(self, step: "Step") -> Tensor:
        return self.weights(step.gram, step.losses.detach())
