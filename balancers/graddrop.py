"""GradDrop: at every position of the features, only task gradients of one sign pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer, generator
from mtlkit.network import Features
from mtlkit.option_checks import check_number

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("graddrop")
class GradDrop(Balancer):
    """Draws a sign at every position of the features and drops the task gradients of the other one.

    Let g_{k,n} be the gradient of L_k at the features z_n of sample n. G_k = sum_n sign(z_n) g_{k,n} (elementwise, over
    the whole batch) says in which direction task k pulls a position. The positive sign is drawn with the probability
    P = 1/2 (1 + sum_k G_k / sum_k |G_k|), and otherwise the negative sign. M_k = 0 where G_k has the sign that was not
    drawn, else 1. The encoder gets sum_k (leak + (1 - leak) M_k) g_{k,n}. A position has one mask for all samples, as
    in the authors' layer, so a batch may be split over any number of processes.

    Source: Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, NeurIPS 2020,
    arXiv 2010.06808, with f(P) = P and one leak for all tasks.

    `space: parameters` is the form of the tables since CAGrad (Cranial-XIX/CAGrad, nyuv2/utils.py): a position is an
    entry of the shared parameters, and G_k is the gradient of L_k there.

    Decoders: plain. The method is a layer in front of them.

    Defaults: those of the paper, no leak, and of the authors' layer (tensorflow/lingvo, lingvo/core/graddrop.py), with
    one difference. By default, that layer also multiplies the result by its own length divided by the length of the
    plain sum. The paper does not say whether its experiments did this, and mtlkit does not offer it.

    Args:
        leak: the share of a dropped gradient that still passes, from 0 to 1 (1: plain summing).
        space: `features` or `parameters`.

    Raises:
        ValueError: `leak` is not in [0, 1].

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("graddrop", tasks=("a", "b"), leak=0.25)
    >>> balancer.factors(torch.tensor([[3.0, 3.0], [-1.0, -1.0]]), torch.tensor([0.5, 0.8])).tolist()  # P = 0.75
    [[1.0, 0.25], [0.25, 1.0]]
    """

    seed: Tensor
    needs = frozenset({"jacobian"})  # in the space `parameters`
    spaces = ("features", "parameters")

    def __init__(self, tasks: Sequence[str], *, leak: float = 0.0, space: str = "features") -> None:
        super().__init__(tasks, space=space)
        check_number("balancer.leak", leak, "[0, 1]")
        self.leak = leak
        self.equals_uniform = leak == 1
        self.register_buffer("seed", torch.randint(2**31, ()))

    def combine(self, step: "Step") -> Features:
        random = generator(self.seed, step.number)
        if self.space == "parameters":
            gradients = step.jacobian
            draws = torch.rand(gradients.shape[1], generator=random)  # float32: there may be many millions
            return [(self.factors(gradients, draws.to(gradients.device)) * gradients).sum(dim=0)]
        rows = step.local_gradients
        combined = []
        for level, z in enumerate(step.local_features):
            own = [torch.zeros_like(z) if row[level] is None else row[level] for row in rows]
            sums = step.sum_over_ranks(torch.stack([(z.sign() * g).sum(dim=0) for g in own]))
            draws = torch.rand(z.shape[1:], generator=random, dtype=torch.float64)
            factors = self.factors(sums, draws.to(z.device))
            combined.append(sum(f * g for f, g in zip(factors, own, strict=True)))
        return combined

    def factors(self, sums: Tensor, draws: Tensor) -> Tensor:
        """Returns the factors (k, ...) of the task gradients, for the sums G (k, ...) and uniform draws (...)."""
        purity = (1 + sums.sum(dim=0) / sums.abs().sum(dim=0).clamp_min(torch.finfo(sums.dtype).tiny)) / 2
        other = torch.where(purity > draws, -1.0, 1.0)  # the sign that is not drawn
        return torch.where(sums.sign() == other, self.leak, 1.0).to(sums.dtype)
