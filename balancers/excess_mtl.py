"""ExcessMTL: weights that follow how far each task is from convergence."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.network import EncoderInfo
from mtlkit.option_checks import check_number, check_whole_number
from mtlkit.state import per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("excess_mtl")
class ExcessMTL(Balancer):
    """Raises the weights of the tasks with the largest excess risk: how far the loss is above its minimum.

    Let g_k be the gradient of L_k over the shared parameters, and s_k the root of the sum of its squares over all steps
    (elementwise, as in Adagrad). s_k stands for the diagonal of the Hessian:

        E_k = sum_p g_kp^2 / s_kp                       the excess risk, by a second-order expansion of L_k
        w_k <- w_k exp(eta E_k / E_k^0) / normalisation
        encoder's gradient: sum_k w_k g_k

    E_k^0 is the mean of E_k over the first `warmup_steps` steps in which task k has a gradient. During these steps
    E_k / E_k^0 counts as 1, so the weights stay equal. Because of the ratio, the weights do not depend on the scale of
    the losses; the gradients that they multiply still do. With gradient accumulation, s_k, log w_k and E_k^0 move by
    the mean of the moves of the micro-batches. The present tasks share the weight that they hold together, scaled to
    the sum 1 in the step. An absent task keeps its weight.

    Source: He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024, arXiv 2402.02009.

    Decoders: weighted. The paper and the authors' code (yifei-he/ExcessMTL, LibMTL/LibMTL/weighting/ExcessMTL.py)
    minimise the weighted sum in all parameters.

    Differs from the published experiments: in the authors' code the weights sum to the number of tasks, which
    `match_sum=true` gives. eta and the single warm-up step are those of the code. The paper warms up for three epochs,
    which `warmup_steps=N` gives in steps.

    Memory: K P numbers for P shared parameters, and twice as many during a step.

    Args:
        eta: the rate of the weights, > 0.
        warmup_steps: the number of steps over which E_k^0 is taken.
        match_sum: multiply by the number of tasks, so that equal weights are plain summing.

    Raises:
        ValueError: an option is out of its range.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("excess_mtl", tasks=("a", "b"), eta=1.0)
    >>> moved = balancer.moved(torch.tensor([0.5, 0.5]).log(), torch.tensor([2.0, 1.0]))  # E_k / E_k^0
    >>> round(float(moved.exp()[0] / moved.exp()[1]), 4), round(float(moved.exp().sum()), 4)
    (2.7183, 1.0)
    """

    needs = frozenset({"gram", "jacobian"})
    spaces = ("parameters",)
    decoders = "weighted"

    def __init__(
        self, tasks: Sequence[str], *, eta: float = 0.01, warmup_steps: int = 1, match_sum: bool = False
    ) -> None:
        super().__init__(tasks, space="parameters")
        check_number("balancer.eta", eta, "(0, inf)")
        check_whole_number("balancer.warmup_steps", warmup_steps, 1)
        self.eta = eta
        self.warmup_steps = warmup_steps
        self.match_sum = match_sum
        self.log_weight = per_task(tasks, torch.tensor(1 / len(tasks)).log())
        self.first_risk = per_task(tasks, torch.zeros(()))
        self.warmed_up = per_task(tasks, torch.zeros((), dtype=torch.int64))

    def settling_steps(self, steps_per_epoch: int) -> int:
        return self.warmup_steps

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        self.root = per_task(self.tasks, torch.zeros(encoder.parameters))  # s_k

    def moved(self, log_weights: Tensor, risks: Tensor) -> Tensor:
        """Returns log w (k,) after one step with the relative excess risks (k,). The sum of the w stays the same."""
        moved = log_weights + self.eta * risks
        return moved + log_weights.logsumexp(0) - moved.logsumexp(0)

    def combine(self, step: "Step") -> Tensor:
        gradients = step.jacobian
        before = stack(self.root, step.tasks)
        root = torch.hypot(before, gradients)  # squares would overflow or underflow
        risks = (gradients * torch.where(root > 0, gradients / root, 0.0)).sum(dim=1).double().to("cpu")
        first = stack(self.first_risk, step.tasks).double()
        waits = stack(self.warmed_up, step.tasks) < self.warmup_steps
        old = stack(self.log_weight, step.tasks).double()
        new = self.moved(old, torch.where(waits, 1.0, risks / first))
        for k, (task, wait) in enumerate(zip(step.tasks, waits.tolist(), strict=True)):
            step.extras[f"excess_risk/{task}"] = risks[k]
            step.add_change(self.root[task], root[k] - before[k])
            step.add_change(self.log_weight[task], new[k] - old[k])
            if wait:
                step.add_change(self.first_risk[task], risks[k] / self.warmup_steps)
        return new.softmax(0) * (len(new) if self.match_sum else 1)

    def after_step(self, step: "Step") -> None:
        risks = {task: risk.grad for task, risk in self.first_risk.items() if risk.grad is not None}
        if risks:
            for task, positive in zip(risks, (torch.stack(list(risks.values())) > 0).tolist(), strict=True):
                self.warmed_up[task].add_(int(positive))
