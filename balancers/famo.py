"""FAMO: all losses fall at one rate, without task gradients."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, LossBalancer
from mtlkit.option_checks import check_number, check_task_names
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("famo")
class FAMO(LossBalancer):
    """Learns weights under which the logarithms of all losses fall equally fast.

    Let D_k = L_k - b_k, where b_k is a lower bound of the loss, and z = softmax(xi). The encoder descends on sum_k c
    z_k log D_k with c = 1 / sum_k (z_k / D_k), so the weights of the losses, c z_k / D_k, have the sum 1. After the
    model has moved, the losses D'_k of the same batch tell how fast each one fell: delta_k = log D_k - log D'_k. Then
    xi makes one step of Adam by the gradient J^T delta + gamma xi with J = dz / dxi: tasks whose losses fell faster
    than the others lose weight. This costs one more forward pass but no task gradient. The softmax is over the tasks of
    the step.

    A task with D_k = 0 has nothing left to learn, and its logarithm does not exist. It gets the weight 0; the limit
    would stop all other tasks. A task with D_k = 0 or D'_k = 0 takes no part in that step of xi.

    Source: Liu, Feng, Stone and Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, arXiv 2306.03792.

    Decoders: weighted. The paper and the authors' code (Cranial-XIX/FAMO, famo.py) minimise the objective in all
    parameters.

    Differs from the published experiments: on NYUv2, CelebA and QM9 the authors' scripts have `gamma=0.001`; the
    default is that of famo.py and of the script for Cityscapes. The authors' Adam for xi has a constant rate, which
    `trainer.balancer_schedule=constant` gives. The preset famo sets all this. famo.py also clips the gradient of the
    encoder at the norm 1 (`trainer.clip_encoder=1`). The code of the experiments (methods/weight_methods.py) clips for
    FAMO before the backward pass, where it has no effect.

    Args:
        gamma: how strongly xi is pulled to 0, the weight decay of its Adam.
        min_losses: task name -> b_k, in the unit of the losses as they are balanced; 0 for a task that is not named.
        lr: the learning rate of xi.
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: an option is out of its range or names no task, or, in training, a loss is below its bound.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> [round(w, 4) for w in BALANCERS.build("famo", tasks=("a", "b")).weights(torch.tensor([1.0, 3.0])).tolist()]
    [0.75, 0.25]
    """

    needs = frozenset({"second_forward"})

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        gamma: float = 0.01,
        min_losses: Mapping[str, float] | None = None,
        lr: float = 0.025,
        lr_decay: float = 1.0,
    ) -> None:
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        check_number("balancer.gamma", gamma, "[0, inf)")
        check_task_names("balancer.min_losses", min_losses or {}, tasks)
        for task, value in (min_losses or {}).items():
            check_number(f"balancer.min_losses.{task}", value, "(-inf, inf)")
        self.gamma = gamma
        self.min_losses = {task: (min_losses or {}).get(task, 0.0) for task in tasks}
        self.xi = per_task(tasks, torch.zeros(()), learned=True)

    def weights(self, losses: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        names = tasks or self.tasks
        above = self._above_bounds(losses, names)
        # c z_k / D_k is computed as one softmax, so that a small D_k does not overflow.
        scores = stack(self.xi, names).double() - above.log()
        return torch.where(above > 0, scores, -torch.inf).softmax(0).nan_to_num()

    def after_model(self, step: "Step") -> None:
        if not step.tasks:
            return
        before, after = (self._above_bounds(losses, step.tasks) for losses in (step.losses, step.losses_after))
        alive = ((before > 0) & (after > 0)).tolist()
        if not any(alive):
            return
        names = [task for task, part in zip(step.tasks, alive, strict=True) if part]
        delta = (before.log() - after.log())[alive]
        xi = stack(self.xi, names).detach().double()
        z = xi.softmax(0)
        gradient = z * (delta - (z * delta).sum()) + self.gamma * xi
        for task, value in zip(names, gradient, strict=True):
            self.xi[task].grad = value.to(self.xi[task].dtype)

    def _above_bounds(self, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        """Returns D (k,), float64. Raises a `ValueError` where a loss is below its bound."""
        above = losses.double() - losses.new_tensor([self.min_losses[task] for task in tasks]).double()
        for task, value in zip(tasks, above.tolist(), strict=True):
            if value < 0:
                raise ValueError(
                    f"balancer.min_losses.{task} is {self.min_losses[task]:g}, but the loss of task {task!r} is "
                    f"{value + self.min_losses[task]:.4g}: set it to a number that this loss never falls below."
                )
        return above
