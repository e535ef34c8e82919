"""GradNorm: weights that even out the lengths of the task gradients."""

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import ParameterDict

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.gradients import inverse
from mtlkit.option_checks import check_number
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("gradnorm")
class GradNorm(Balancer):
    """Learns weights w_k > 0, whose sum is K, under which all tasks train at the same rate.

    The w_k descend on sum_k | w_k n_k - target_k |. Here n_k = |grad_W L_k|, target_k = mean_j(w_j n_j) r_k^alpha is
    held constant, and r_k = (L_k / L_k^0) / mean_j(L_j / L_j^0) is the relative inverse training rate. The derivative
    by w_k is n_k sign(w_k n_k - target_k), so no second backward pass is needed. After every step the weights are
    scaled back to the sum K; the weights of absent tasks do not change. L_k^0 is the task's first loss that is not 0. A
    task whose losses have all been 0 so far has no rate yet and is left out, like an absent task.

    Decoders: weighted by w_k. The paper minimises sum_k w_k L_k in the whole network.

    Differs from the published experiments: the n_k are taken at the features, as the Rotograd paper proposes. The
    GradNorm paper takes them at the last layer that the tasks share, which `space=last_layer` gives.

    Source: Chen et al., GradNorm, ICML 2018, arXiv 1711.02257 (Adam at 0.025 for the weights, alpha 1.5 on NYUv2).

    Args:
        alpha: how strongly slow tasks are favoured.
        space: `features` or `last_layer`.
        lr: the learning rate of the weights.
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: `alpha` is negative, or, in training, a loss is negative. The message names the task.

    >>> from mtlkit import BALANCERS
    >>> {task: w.item() for task, w in BALANCERS.build("gradnorm", tasks=("a", "b"), alpha=0.5).weight.items()}
    {'a': 1.0, 'b': 1.0}
    """

    needs = frozenset({"gram"})
    spaces = ("features", "last_layer")
    decoders = "weighted"

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
        check_number("balancer.alpha", alpha, "[0, inf)")
        self.alpha = alpha
        self.weight = per_task(tasks, torch.ones(()), learned=True)
        self.initial_loss = per_task(tasks, torch.zeros(()))

    def objective(self, step: "Step") -> Tensor:
        return (stack(self.weight, step.tasks).detach() * step.losses).sum()

    def combine(self, step: "Step") -> Tensor:
        losses = step.losses.detach().double()
        refuse_negative_losses(losses, step.tasks)
        initial = self._first_losses(step, losses)
        known = (initial > 0).tolist()
        if any(known):
            tasks, norms = tuple(compress(step.tasks, known)), step.norms[known]
            weights = stack(self.weight, tasks).double()
            target = targets(weights, norms, losses[known] / initial[known], self.alpha)
            for task, value in zip(tasks, norms * torch.sign(weights * norms - target), strict=True):
                step.add_gradient(self.weight[task], value)
        return torch.ones_like(step.losses)

    def _first_losses(self, step: "Step", losses: Tensor) -> Tensor:
        """Returns each task's first loss that was not 0, (k,) float64; 0 where there was none yet."""
        new = (stack(self.initial_loss, step.tasks) == 0) & (losses != 0)
        for task, loss, is_new in zip(step.tasks, losses, new.tolist(), strict=True):
            if is_new:
                step.note(task, loss)  # is kept after the step only, which may yet be skipped
        firsts = [(step.noted(task) or [self.initial_loss[task]])[0] for task in step.tasks]
        return torch.stack([first.to(losses) for first in firsts])

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        for task in self.tasks:
            if noted := step.noted(task):
                self.initial_loss[task].copy_(noted[0])
        moved = [task for task in self.tasks if self.weight[task].grad is not None]
        if moved:  # the weights of absent tasks do not change, and neither does the sum of all weights
            weights = stack(self.weight, moved).clamp_min(1e-3)  # Adam's step may cross zero
            absent = [task for task in self.tasks if task not in moved]
            kept = sum(stack(self.weight, absent).tolist()) if absent else 0.0
            for task, value in zip(moved, weights * (len(self.tasks) - kept) / weights.sum(), strict=True):
                self.weight[task].copy_(value)


def refuse_negative_losses(losses: Tensor, tasks: Sequence[str]) -> None:
    """Raises a `ValueError` that names the first task with a negative loss: such a task has no training rate."""
    for task, loss in zip(tasks, losses.tolist(), strict=True):
        if loss < 0:
            raise ValueError(
                f"The loss of task {task!r} is {loss:.4g}, but GradNorm's weights need losses >= 0: they compare each "
                f"loss with its first value. Add a constant to that loss or choose another balancer."
            )


def first_losses(kept: ParameterDict, losses: Tensor, tasks: Sequence[str]) -> Tensor:
    """Returns each task's first loss that was not 0, (k,) float64, and keeps it; 0 where there was none yet."""
    for task, loss, is_new in zip(tasks, losses, (stack(kept, tasks) == 0).tolist(), strict=True):
        if is_new:
            kept[task].copy_(loss)
    return stack(kept, tasks).double()


def targets(weights: Tensor, norms: Tensor, progress: Tensor, alpha: float) -> Tensor:
    """Returns the values (k,) that GradNorm wants the w_k n_k to have; `progress` holds the L_k / L_k^0.

    >>> one = torch.ones(2)
    >>> targets(one, torch.tensor([1.0, 3.0]), torch.tensor([1.5, 0.5]), alpha=1.0).tolist()
    [3.0, 1.0]
    """
    return (weights * norms).mean() * (progress * inverse(progress.mean())) ** alpha
