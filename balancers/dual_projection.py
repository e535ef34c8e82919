"""Dual projection: the mean gradient, freed of its conflicts (Quinton and Rey, after GEM)."""

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order
from mtlkit.solvers import dual_cone_projection


@BALANCERS.register("dual_projection")
class DualProjection(GramBalancer):
    """Projects the mean of the task gradients onto the dual cone {d: <g_i, d> >= 0 for all i}.

    The weights are argmin w'Mw over w >= 1/K. The result is the mean where it harms no task, and otherwise the nearest
    direction that harms none.

    Source: DualProj in Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232; the
    projection is that of Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017, arXiv 1706.08840.

    Decoders: plain, as by `mtl_backward` in the authors' library (TorchJD). The paper trains no decoders.

    Differs from the published experiments: the paper compares gradients over all shared parameters, which
    `space=parameters` gives. TorchJD adds 1e-4 to the diagonal of the Gram matrix divided by its trace; the balancer
    `torchjd` does this too.

    Args:
        space: `features` or `parameters` (the paper's).

    >>> balancer = BALANCERS.build("dual_projection", tasks=("a", "b"))
    >>> balancer.weights(torch.tensor([[1.0, -2.0], [-2.0, 8.0]])).tolist()
    [1.0, 0.5]
    """

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        return dual_cone_projection(gram, torch.full_like(gram[:1], 1 / len(gram)))[0]
