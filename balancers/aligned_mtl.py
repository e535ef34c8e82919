"""Aligned-MTL: gradients whose principal components have one length (Senushkin et al.)."""

from collections.abc import Sequence

from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order
from mtlkit.solvers import alignment


@BALANCERS.register("aligned_mtl")
class AlignedMTL(GramBalancer):
    """Gives the system of task gradients the condition number 1 and takes the mean of the aligned gradients.

    With M = V L V', the weights are w = sqrt(l_min) V L^(-1/2) V' (1/K), where l_min is the smallest eigenvalue that is
    not zero. Every principal component gets the length of the shortest one. Weights may be negative. A task with a zero
    gradient gets the weight 0.

    Source: Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023, arXiv 2305.19000.

    Decoders: plain, as in the authors' code (SamsungLabs/MTL, code/optim/aligned), where an option scales the decoders'
    gradients, which is off by default.

    Differs from the published experiments: the authors' code adds the aligned gradients up, which `match_sum=true`
    gives, and takes those over the shared parameters (its `amtl`), which `space=parameters` gives. Its `amtlub` takes
    them at the features.

    Args:
        match_sum: multiply by the number of tasks, which turns the mean into a sum.
        space: `features` or `parameters` (the paper's).

    >>> import torch
    >>> balancer = BALANCERS.build("aligned_mtl", tasks=("a", "b"))
    >>> balancer.weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
    [0.5, 0.25]
    """

    def __init__(self, tasks: Sequence[str], *, match_sum: bool = False, space: str = "features") -> None:
        super().__init__(tasks, space=space)
        self.match_sum = match_sum

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        return alignment(gram) * (len(gram) if self.match_sum else 1)
