"""Random loss weighting."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer, generator

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("rlw")
class RandomLossWeighting(Balancer):
    """Weighs the losses by random weights, which are drawn again in every step.

    w = softmax(n) over the k tasks of the step, where n_k is drawn from the standard normal distribution. The sum of
    the weights is 1, as in the paper; in plain summing it is k. A draw depends on the task's name and the number of the
    step. It is the same on all processes, in all micro-batches of the step and after a resume.

    Source: Lin, Ye, Zhang and Tsang, Reasonable Effectiveness of Random Weighting, TMLR 2022, arXiv 2111.10603.

    Decoders: weighted. The paper and the authors' library (LibMTL, weighting/RLW.py) minimise the weighted sum.

    Defaults: those of the authors' library LibMTL, which also draws from the normal distribution. The method has no
    options.

    >>> from mtlkit import BALANCERS
    >>> weights = BALANCERS.build("rlw", tasks=("a", "b")).draw(number=0)
    >>> round(weights.sum().item(), 6)
    1.0
    """

    decoders = "weighted"

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.register_buffer("seed", torch.randint(2**31, ()))

    def draw(self, number: int, tasks: Sequence[str] | None = None) -> Tensor:
        """Returns the weights (k,), float64, of the named tasks (None: all of them) in step `number`."""
        names = sorted(self.tasks)
        drawn = torch.randn(len(names), dtype=torch.float64, generator=generator(self.get_buffer("seed"), number))
        return torch.stack([drawn[names.index(task)] for task in tasks or self.tasks]).softmax(0)

    def objective(self, step: "Step") -> Tensor:
        return (self.draw(step.number, step.tasks).to(step.losses) * step.losses).sum()
