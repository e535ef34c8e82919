"""MGDA: the shortest combined gradient (Sener and Koltun)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order
from mtlkit.option_checks import check_choice
from mtlkit.solvers import min_norm_point

if TYPE_CHECKING:
    from mtlkit.step import Step

NORMALIZATIONS = ("none", "l2", "loss", "loss+")
WEIGHED = ("normalised", "losses")


@BALANCERS.register("mgda")
class MGDA(GramBalancer):
    """Takes the shortest gradient in the convex hull of the task gradients: it is a descent direction for every task.

    v minimises |sum_k v_k g_k / s_k|^2 over v >= 0, sum v = 1, and w_k = v_k / s_k. The scales s_k are 1 (`none`),
    |g_k| (`l2`), L_k (`loss`) or L_k |g_k| (`loss+`); a task with s_k = 0 takes no part. With the scales 1, a zero
    gradient is itself the shortest, so the encoder stands still, as at every Pareto-stationary point.

    Source: Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, arXiv 1810.04650.
    `space: features` is the paper's MGDA-UB. The scales are those of the authors' code.

    Decoders: weighted by v_k, as in the authors' code (isl-org/MultiObjectiveOptimization, train_multi_task.py), which
    descends on sum_k v_k L_k in all parameters.

    Differs from the published experiments: the authors' sample for CelebA has `normalization=loss+`; the paper does not
    say which one its tables have. With a normalisation, their code weighs the losses by v_k, which `weigh=losses`
    gives. Then the combination is no longer the one that was minimised, and it may harm a task. The tables since
    Nash-MTL have `space=parameters`, and v_k times the number of tasks.

    Args:
        normalization: `none`, `l2`, `loss` or `loss+`.
        weigh: what the v_k multiply in the encoder's gradient: the `normalised` gradients (w_k = v_k / s_k) or the
            `losses` (w_k = v_k).
        space: `features` or `parameters`.

    Raises:
        ValueError: in training with `loss` or `loss+`, a loss is negative.

    >>> balancer = BALANCERS.build("mgda", tasks=("a", "b"))
    >>> balancer.weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0.75, 0.25]
    """

    decoders = "weighted"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        normalization: Literal["none", "l2", "loss", "loss+"] = "none",
        weigh: Literal["normalised", "losses"] = "normalised",
        space: str = "features",
    ) -> None:
        super().__init__(tasks, space=space)
        check_choice("balancer.normalization", normalization, NORMALIZATIONS)
        check_choice("balancer.weigh", weigh, WEIGHED)
        self.normalization = normalization
        self.weigh = weigh

    def weights(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        """Returns the weights, as in every `GramBalancer`; `loss` and `loss+` also need the losses (k,)."""
        scale = self._scales(gram, losses)
        return self._weights(self._shares(gram, scale), scale)

    def combine(self, step: "Step") -> Tensor:
        scale = self._scales(step.gram, step.losses.detach())
        step.decoder_weights = self._shares(step.gram, scale)
        return self._weights(step.decoder_weights, scale)

    def _weights(self, shares: Tensor, scale: Tensor) -> Tensor:
        return shares if self.weigh == "losses" else torch.where(scale > 0, shares / scale, 0.0)

    def _shares(self, gram: Tensor, scale: Tensor) -> Tensor:
        """Returns v (k,), 0 where the scale is 0."""
        i = scale.nonzero().flatten()
        shares = torch.zeros_like(scale)
        if len(i):
            shares[i] = self._shortest(gram[i[:, None], i] / scale[i] / scale[i, None])
        return shares

    @any_order
    def _shortest(self, gram: Tensor) -> Tensor:
        return min_norm_point(gram)

    def _scales(self, gram: Tensor, losses: Tensor | None) -> Tensor:
        """Returns s (k,)."""
        scale = torch.ones_like(gram.diagonal())
        if self.normalization in ("l2", "loss+"):
            scale = gram.diagonal().clamp_min(0).sqrt()
        if self.normalization in ("loss", "loss+"):
            if losses is None or (losses < 0).any():
                raise ValueError(
                    f"balancer.normalization={self.normalization} divides by the losses, so every loss must be given "
                    f"and >= 0. Got {None if losses is None else losses.tolist()}. Choose l2 or none."
                )
            scale = scale * losses.to(gram)
        return scale
