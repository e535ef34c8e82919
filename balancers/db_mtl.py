"""DB-MTL: logarithms of the losses, and task gradients of one length."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.gradients import inner_products, weighted_sum
from mtlkit.logarithms import have_logarithm
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_number
from mtlkit.state import per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("db_mtl")
class DBMTL(Balancer):
    """Takes the logarithm of every loss and gives all averaged task gradients the length of the longest.

    Let h_k = grad log L_k = grad L_k / L_k over the shared parameters, let g_k start at zero, and let t = 1, 2, ... be
    the number of the step:

        b   <- beta / t^decay
        g_k <- b g_k + (1 - b) h_k
        encoder's gradient: max_j |g_j| sum_k g_k / |g_k|

    The scale of a loss has no effect, and a task whose loss is zero counts as learnt. With gradient accumulation, g_k
    moves by the mean of the moves of the micro-batches. An absent task keeps its g_k and takes no part.

    Source: Lin et al., Dual-Balancing for Multi-Task Learning, Neural Networks 2025, arXiv 2308.12029.

    Decoders: weighted by 1 / L_k. They get the gradients of the logarithms, as in the authors' code (LibMTL,
    weighting/DB_MTL.py).

    Differs from the published experiments: the authors' code has `decay=0` by default. The paper searches both values
    for each data set.

    Memory: K P numbers for P shared parameters, and twice as many during a step.

    Args:
        beta: the share of the average that stays, in [0, 1); the paper searches 0.1, 0.5 and 0.9.
        decay: how fast beta fades, >= 0; the paper searches 0 and 0.5. Without it, the averaged gradients lag behind
            the model but keep their length, so the model can swing around the solution instead of settling there.

    Raises:
        ValueError: an option is out of its range, or, in training, a loss is negative.

    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("db_mtl", tasks=("a", "b"), beta=0.5).space
    'parameters'
    """

    needs = frozenset({"gram", "jacobian"})
    decoders = "weighted"
    spaces = ("parameters",)

    def __init__(self, tasks: Sequence[str], *, beta: float = 0.9, decay: float = 0.5) -> None:
        super().__init__(tasks, space="parameters")
        check_number("balancer.beta", beta, "[0, 1)")
        check_number("balancer.decay", decay, "[0, inf)")
        self.beta = beta
        self.decay = decay

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        self.average = per_task(self.tasks, torch.zeros(encoder.parameters))

    def combine(self, step: "Step") -> Features:
        positive = have_logarithm(step.losses, step.tasks)  # refuses negative losses
        step.decoder_weights = torch.where(positive, 1 / step.losses.detach(), 0.0)
        gradients = step.jacobian
        gradients = gradients * step.decoder_weights.to(gradients)[:, None]
        before = stack(self.average, step.tasks)
        beta = self.beta / (step.number + 1) ** self.decay
        average = before.to(gradients).lerp(gradients, 1 - beta)  # one pass through memory, where all the time goes
        for k, task in enumerate(step.tasks):
            step.add_change(self.average[task], average[k] - before[k])
        norms = inner_products(average.unbind()).diagonal().sqrt().to("cpu")
        weights = torch.where(norms > 0, norms.max() / norms, 0.0)
        combined = weighted_sum(average.unbind(), weights)
        assert combined is not None
        return [combined]
