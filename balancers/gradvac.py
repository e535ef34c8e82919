"""GradVac: gradient surgery towards the usual similarity of each pair of tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer, random_orders
from mtlkit.gram import check_gram_shape
from mtlkit.option_checks import check_number
from mtlkit.state import Kept

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("gradvac")
class GradVac(GramBalancer):
    """Raises the cosine between each two task gradients to its usual value.

    g'_i starts as g_i. For the other tasks j, in an order drawn for each i and step, let p = cos(g'_i, g_j) and let t =
    t_ij be the target. Where p < t, g'_i <- g'_i + |g'_i| (t sqrt(1 - p^2) - p sqrt(1 - t^2)) / (|g_j| sqrt(1 - t^2))
    g_j, after which the cosine is t. The encoder gets sum_i g'_i. The targets start at 0, where GradVac equals PCGrad.
    After each optimizer step t_ij <- (1 - beta) t_ij + beta p, where p is the mean over the step's micro-batches.
    Absent tasks keep their targets. A target counts as at most 1 - 1e-6. A g'_i that has shrunk to less than 1e-6 of
    |g_i| has no cosine.

    Source: Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models, ICLR 2021, arXiv 2010.05874.

    Decoders: plain, as in LibMTL (weighting/GradVac.py): one backward pass per task, of which only the shared
    parameters' gradients are replaced. The paper's model has no decoders of its own, and no code of the authors was
    found.

    Differs from the published experiments: the paper compares gradients over the shared parameters, which
    `space=parameters` gives. It also compares them one layer or matrix at a time, which mtlkit does not offer. beta =
    0.01 is the paper's; LibMTL has `beta=0.5`.

    Memory: K x K targets.

    Args:
        beta: how fast the targets move, from 0 to 1.
        space: `features` or `parameters`.

    Raises:
        ValueError: `beta` is out of its range.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    >>> BALANCERS.build("gradvac", tasks=("a", "b")).weights(gram).round(decimals=6).tolist()
    [2.0, 1.5]
    """

    seed: Tensor

    def __init__(self, tasks: Sequence[str], *, beta: float = 1e-2, space: str = "features") -> None:
        super().__init__(tasks, space=space)
        check_number("balancer.beta", beta, "[0, 1]")
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.target = Kept(tasks, axes=2, start=0.0, rate=beta)

    def weights(self, gram: Tensor, tasks: Sequence[str] | None = None, number: int = 0) -> Tensor:
        """Returns the weights for the Gram matrix of the named tasks (None: all), in the orders of step `number`."""
        return self._vaccinate(gram, self.tasks if tasks is None else tasks, number)[0]

    def combine(self, step: "Step") -> Tensor:
        weights, cosines = self._vaccinate(step.gram, step.tasks, step.number)
        step.keep(self.target, cosines)
        return weights

    def _vaccinate(self, gram: Tensor, tasks: Sequence[str], number: int) -> tuple[Tensor, Tensor]:
        """Returns the weights (k,) and the cosines (k, k) that were measured, NaN where there is none."""
        check_gram_shape(gram, tasks)
        i = torch.arange(len(tasks))
        targets = self.target.of(tasks).to(gram).clamp_max(1 - 1e-6)
        norms = gram.diagonal().clamp_min(0).sqrt()
        coefficients = torch.eye(len(tasks), dtype=gram.dtype, device=gram.device)  # row i is g'_i in terms of the g_j
        products = gram.clone()  # <g'_i, g_j>
        cosines = torch.full_like(gram, torch.nan)
        for j in random_orders(self.seed, number, tasks, self.tasks).T:  # each task's next partner
            length = (coefficients * products).sum(dim=1).clamp_min(0).sqrt()
            cosine, target = (products[i, j] / length / norms[j]).clamp(-1, 1), targets[i, j]
            sine, target_sine = (1 - cosine**2).clamp_min(0).sqrt(), (1 - target**2).sqrt()
            known = length > 1e-6 * norms  # to a zero gradient the cosine is NaN, below no target
            share = length * (target * sine - cosine * target_sine) / (norms[j] * target_sine)
            share = torch.where(known & (cosine < target), share, 0.0)
            coefficients[i, j] = share
            products += share[:, None] * gram[j]
            cosines[i, j] = torch.where(known, cosine, torch.nan)
        return coefficients.sum(dim=0), cosines
