"""Impartial multi-task learning by the losses (IMTL-L)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.logarithms import have_logarithm
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("imtl_l")
class ImpartialLosses(Balancer):
    """Learns one factor per loss under which all weighted losses are 1.

    The objective is sum_k e^{s_k} L_k - s_k. Every s_k starts at 0 and is pulled by e^{s_k} L_k - 1 towards -log L_k. A
    loss of zero, for which s_k would grow without end, adds nothing to the objective.

    Source: Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021 (openreview IMPnRXEWpvr).

    Decoders: weighted. The paper minimises this objective in all parameters, and mainly in those of the decoders.

    Differs from the published experiments: the paper trains the s_k with the network and at its rate, as LibMTL does
    (weighting/IMTL.py). `lr=1e-4` gives this for a model with that rate. The default is the rate of `uncertainty`, the
    most similar balancer. The authors' code is not public.

    Args:
        lr: the learning rate of the s_k.
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: in training, a loss is negative. The message names the task.

    >>> from mtlkit import BALANCERS
    >>> [s.item() for s in BALANCERS.build("imtl_l", tasks=("a", "b")).log_scale.values()]
    [0.0, 0.0]
    """

    decoders = "weighted"

    def __init__(self, tasks: Sequence[str], *, lr: float = 0.025, lr_decay: float = 1.0) -> None:
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        self.log_scale = per_task(tasks, torch.zeros(()), learned=True)

    def objective(self, step: "Step") -> Tensor:
        positive = have_logarithm(step.losses, step.tasks)
        s = stack(self.log_scale, step.tasks)[positive]
        return (s.exp() * step.losses[positive] - s).sum()
