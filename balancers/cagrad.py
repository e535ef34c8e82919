"""CAGrad: the mean gradient, moved towards the task that is worst off (Liu et al.)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order
from mtlkit.option_checks import check_choice, check_number
from mtlkit.solvers import best_worst_case

RESCALES = ("none", "c", "c2")


@BALANCERS.register("cagrad")
class CAGrad(GramBalancer):
    """Takes the d with |d - g_0| <= c |g_0| that maximises min_k <g_k, d>; g_0 is the mean of the task gradients.

    With w* = argmin over the simplex of <g_w, g_0> + c |g_0| |g_w|, the direction is d = g_0 + c |g_0| / |g_w*| g_w*.
    At a Pareto-stationary point, c < 1 leaves a part of g_0, and c >= 1 leaves nothing that harms a task. A task with a
    zero gradient counts only in the mean.

    Source: Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021, arXiv 2110.14048.

    Decoders: plain, as in the authors' code (Cranial-XIX/CAGrad, nyuv2/utils.py): one backward pass per task, of which
    only the shared parameters' gradients are replaced.

    Differs from the published experiments: the authors' scripts for NYUv2 and Cityscapes have `c=0.4`, divide d by
    1 + c^2, which `rescale=c2` gives, multiply it by the number of tasks, which `match_sum=true` gives, and take
    gradients over the shared parameters, which `space=parameters` gives. LibMTL has c = 0.5, divides, and does not
    multiply.

    Args:
        c: the radius around the mean (0: the mean itself).
        rescale: `none`; `c` divides d by 1 + c; `c2` by 1 + c^2.
        match_sum: multiply by the number of tasks, so that c = 0 is plain summing.
        space: `features` or `parameters` (the paper's).

    >>> import torch
    >>> balancer = BALANCERS.build("cagrad", tasks=("a", "b"), c=0.5)
    >>> balancer.weights(torch.eye(2)).tolist()
    [0.75, 0.75]
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        c: float = 0.5,
        rescale: Literal["none", "c", "c2"] = "none",
        match_sum: bool = False,
        space: str = "features",
    ) -> None:
        super().__init__(tasks, space=space)
        check_number("balancer.c", c, "[0, inf)")
        check_choice("balancer.rescale", rescale, RESCALES)
        self.c = c
        self.rescale = rescale
        self.match_sum = match_sum

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        factor = (len(gram) if self.match_sum else 1) / {"none": 1.0, "c": 1 + self.c, "c2": 1 + self.c**2}[
            self.rescale
        ]
        return best_worst_case(gram, self.c) * factor
