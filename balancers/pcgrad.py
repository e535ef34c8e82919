"""PCGrad: gradient surgery on conflicting tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer, random_orders
from mtlkit.gram import check_gram_shape

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("pcgrad")
class PCGrad(GramBalancer):
    """Removes from each task gradient the part that conflicts with the others, in random order.

    g'_i starts as g_i. For the other tasks j, in an order drawn for each i and step: where <g'_i, g_j> < 0,
    g'_i <- g'_i - <g'_i, g_j> / |g_j|^2 g_j, with g_j as it was. The encoder gets sum_i g'_i. As g'_i = sum_j C_ij g_j,
    all of this follows from the Gram matrix: w_j = sum_i C_ij. The orders are equal on all processes and in all
    micro-batches of a step.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, arXiv 2001.06782.

    Decoders: plain. The surgery is for the variables that all losses share; the authors' code (tianheyu927/PCGrad,
    PCGrad_tf.py) accepts only these. The code of the published tables (AvivNavon/nash-mtl) gives decoders the gradient
    of the sum of the losses.

    Differs from the published experiments: the paper compares gradients over the shared parameters, which
    `space=parameters` gives. The authors' code tries to shuffle the other tasks, but in effect takes them in one fixed
    order.

    Args:
        space: `features` or `parameters`.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)  # each gains a share of the other
    >>> BALANCERS.build("pcgrad", tasks=("a", "b")).weights(gram).tolist()
    [2.0, 1.5]
    """

    seed: Tensor

    def __init__(self, tasks: Sequence[str], *, space: str = "features") -> None:
        super().__init__(tasks, space=space)
        self.register_buffer("seed", torch.randint(2**31, ()))

    def weights(self, gram: Tensor, tasks: Sequence[str] | None = None, number: int = 0) -> Tensor:
        """Returns the weights for the Gram matrix of the named tasks (None: all), in the orders of step `number`."""
        tasks = self.tasks if tasks is None else tasks
        check_gram_shape(gram, tasks)
        squares, i = gram.diagonal(), torch.arange(len(tasks))
        coefficients = torch.eye(len(tasks), dtype=gram.dtype, device=gram.device)  # row i is g'_i in terms of the g_j
        products = gram.clone()  # <g'_i, g_j>
        for j in random_orders(self.seed, number, tasks, self.tasks).T:  # each task's next opponent
            conflict = products[i, j].clamp_max(0)
            share = torch.where(squares[j] > 0, conflict / squares[j], 0.0)
            coefficients[i, j] -= share
            products -= share[:, None] * gram[j]
        return coefficients.sum(dim=0)

    def combine(self, step: "Step") -> Tensor:
        return self.weights(step.gram, step.tasks, step.number)
