"""Homoscedastic uncertainty weighting (Kendall et al.)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.network import EncoderInfo
from mtlkit.option_checks import check_choice, check_number
from mtlkit.state import per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("uncertainty")
class Uncertainty(Balancer):
    """Learns one noise level per task and weighs the losses by it.

    With s_k = log sigma_k^2, the objective is sum_k 1/2 e^{-s_k} L_k + s_k/2 over regression tasks (a Gaussian
    likelihood) plus sum_k e^{-s_k} L_k + s_k/2 over classification tasks (a Boltzmann likelihood). `Task.regression`
    says which of the two a task is.

    Source: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, arXiv
    1705.07115.

    Decoders: weighted. The paper minimises this objective in all parameters.

    Differs from the published experiments: the code behind most published tables takes the Gaussian likelihood for all
    tasks, which `likelihood=gaussian` gives. Some of it also starts the s_k elsewhere and trains them at the model's
    rate. The presets have the values of each code base (docs/reference/presets.md). The paper does not name the rate of
    the s_k; 0.025 is the rate of the GradNorm paper and of AvivNavon/nash-mtl.

    Args:
        likelihood: `by_task`, or `gaussian` for all tasks.
        initial: the value at which every s_k starts.
        weight_decay: pulls every s_k to 0. Adam gets the gradient plus this number times s_k.
        lr: the learning rate of the s_k.
        lr_decay: the factor of that rate per step.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("uncertainty", tasks=("a", "b"))
    >>> [s.item() for s in balancer.log_variance.values()]
    [0.0, 0.0]
    """

    decoders = "weighted"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        likelihood: Literal["by_task", "gaussian"] = "by_task",
        initial: float = 0.0,
        weight_decay: float = 0.0,
        lr: float = 0.025,
        lr_decay: float = 1.0,
    ) -> None:
        check_choice("balancer.likelihood", likelihood, ("by_task", "gaussian"))
        check_number("balancer.initial", initial, "(-inf, inf)")
        check_number("balancer.weight_decay", weight_decay, "[0, inf)")
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        self.weight_decay = weight_decay
        self.gaussian = likelihood == "gaussian"
        self.log_variance = per_task(tasks, torch.tensor(float(initial)), learned=True)
        self.factors = dict.fromkeys(tasks, 1.0)

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        self.factors = {name: 0.5 if self.gaussian or task.regression else 1.0 for name, task in tasks.items()}

    def objective(self, step: "Step") -> Tensor:
        s = stack(self.log_variance, step.tasks)
        factors = s.new_tensor([self.factors[task] for task in step.tasks])
        return (factors * torch.exp(-s) * step.losses + s / 2).sum()

    def after_model(self, step: "Step") -> None:
        for s in self.log_variance.values():
            if s.grad is not None:
                s.grad.add_(s.detach(), alpha=self.weight_decay)
