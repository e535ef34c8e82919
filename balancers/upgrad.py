"""UPGrad: the mean of the task gradients after the conflicts are removed from each (Quinton and Rey)."""

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order
from mtlkit.solvers import dual_cone_projection


@BALANCERS.register("upgrad")
class UPGrad(GramBalancer):
    """Projects every task gradient onto the dual cone {d: <g_i, d> >= 0 for all i} and takes their mean.

    The projection of g_k has the weights argmin w'Mw over w >= e_k. This projection harms no task, so the mean does not
    either.

    Source: Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232.

    Decoders: plain, as by `mtl_backward` in the authors' library (TorchJD). The paper trains no decoders.

    Differs from the published experiments: the paper compares gradients over all shared parameters, which
    `space=parameters` gives. TorchJD adds 1e-4 to the diagonal of the Gram matrix divided by its trace; the balancer
    `torchjd` does this too.

    Args:
        space: `features` or `parameters` (the paper's).

    >>> balancer = BALANCERS.build("upgrad", tasks=("a", "b"))
    >>> balancer.weights(torch.tensor([[1.0, -1.0], [-1.0, 4.0]])).tolist()
    [1.0, 0.625]
    """

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        return dual_cone_projection(gram, torch.eye(len(gram), dtype=gram.dtype)).mean(dim=0)
