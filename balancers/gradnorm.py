"""GradNorm: weights that even out the lengths of the task gradients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, LossBalancer, per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("gradnorm")
class GradNorm(LossBalancer):
    """Learns weights w_k > 0, of sum K, under which all tasks train at the same rate.

    The w_k descend on sum_k | w_k n_k - target_k | with n_k = |grad_W L_k|, target_k = mean_j(w_j n_j) r_k^alpha
    held constant and r_k = (L_k / L_k^0) / mean_j(L_j / L_j^0) the relative inverse training rate. The derivative
    by w_k is n_k sign(w_k n_k - target_k), so no second backward pass is needed. After every step the weights
    are scaled back to sum K; those of absent tasks stay. L_k^0 is the loss at task k's first step.

    Source: Chen et al., GradNorm, ICML 2018, arXiv 1711.02257 (Adam at 0.025 for the weights, alpha 1.5 on
    NYUv2). `space: last_layer` is the paper's choice of W; `features` takes W = Z, as the Rotograd paper proposes.

    Args:
        alpha: how strongly slow tasks are favoured.
        space: `features` or `last_layer`.
        lr, lr_decay: of the weights.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("gradnorm", tasks=("a", "b"), alpha=0.5).weights(torch.ones(2)).tolist()
    [1.0, 1.0]
    """

    needs = frozenset({"gram"})
    spaces = ("features", "last_layer")

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        alpha: float = 1.5,
        space: str = "features",
        lr: float = 0.025,
        lr_decay: float = 1.0,
    ) -> None:
        super().__init__(tasks, space=space, lr=lr, lr_decay=lr_decay)
        self.alpha = alpha
        self.weight = per_task(tasks, torch.ones(()), learned=True)
        self.initial_loss = per_task(tasks, torch.zeros(()))

    def weights(self, losses: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        return stack(self.weight, tasks or self.tasks).to(losses.dtype)

    def combine(self, step: "Step") -> Tensor:
        losses = step.losses.detach()
        for task, loss in zip(step.tasks, losses, strict=True):
            if self.initial_loss[task] == 0:
                self.initial_loss[task].copy_(loss)
        weights, norms = stack(self.weight, step.tasks).double(), step.norms
        rates = losses.double() / stack(self.initial_loss, step.tasks)
        target = (weights * norms).mean() * (rates / rates.mean()) ** self.alpha
        gradient = norms * torch.sign(weights * norms - target)
        for task, value in zip(step.tasks, gradient, strict=True):
            step.add_gradient(self.weight[task], value)
        return torch.ones_like(losses)

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        moved = [task for task in self.tasks if self.weight[task].grad is not None]
        if moved:  # the weights of absent tasks stay, and so does the sum of all
            weights = stack(self.weight, moved).clamp_min(1e-3)  # Adam's step may cross zero
            kept = sum(float(self.weight[task]) for task in self.tasks if task not in moved)
            for task, value in zip(moved, weights * (len(self.tasks) - kept) / weights.sum(), strict=True):
                self.weight[task].copy_(value)
