"""MoCo: minimum-norm weights from task gradients that are averaged over time."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.gradients import inner_products
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_number
from mtlkit.solvers import project_to_simplex
from mtlkit.state import per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("moco")
class MoCo(Balancer):
    """Tracks every task's gradient over time and moves the weights towards the shortest combination of the trackers.

    Let h_k be the gradient of L_k over the shared parameters in this step:

        y_k <- y_k + beta (h_k - y_k)                                  (the first gradient starts the tracker)
        w   <- projection to the simplex of w - gamma (Y Y^T / m + rho) w,   m the mean of |y_k|^2
        encoder's gradient: sum_k w_k y_k

    The division by m is a choice of the step size that the paper leaves open: with it, gamma and rho mean the same
    whatever the scale of the losses. A task's large loss still gives it a small weight, as in MGDA. With gradient
    accumulation, the trackers and weights move by the mean of the moves of the micro-batches. An absent task keeps its
    tracker and weight; the weights of the others are projected to the simplex.

    `published` chooses the form of the authors' code. In step t = 1, 2, ..., h_k |L_k| / |h_k| takes the place of h_k,
    the trackers start from zero, beta and gamma are divided by sqrt(t), and

        w <- softmax(w - gamma (Y Y^T + rho) w)

    Source: Fernando et al., Mitigating Gradient Bias in Multi-objective Learning, ICLR 2023, arXiv 2210.12624.

    Decoders: plain, as in LibMTL (weighting/MoCo.py), which contains the authors' code: one backward pass per task, of
    which only the shared parameters' gradients are replaced.

    Differs from the published experiments: beta, gamma and rho are those of that code. Its form is the second one
    above, which `published=true` gives. A later code of the same author (heshandevaka/Trade-Off-MOL) projects to the
    simplex, does not decay, and searches beta, gamma and rho in 0.01, 0.1 and 1.

    Memory: K P numbers for P shared parameters, and twice as many during a step.

    Args:
        beta: the share of the new gradient in the tracker, in (0, 1].
        gamma: the rate of the weights, > 0.
        rho: how strongly the weights are pulled towards equal ones, >= 0.
        published: use the form of the authors' code (see above).

    Raises:
        ValueError: an option is out of its range.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("moco", tasks=("a", "b"), gamma=0.25)
    >>> balancer.moved(torch.tensor([0.5, 0.5]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])).tolist()
    [0.4375, 0.5625]
    """

    needs = frozenset({"gram", "jacobian"})
    spaces = ("parameters",)

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        beta: float = 0.5,
        gamma: float = 0.1,
        rho: float = 0.0,
        published: bool = False,
    ) -> None:
        super().__init__(tasks, space="parameters")
        check_number("balancer.beta", beta, "(0, 1]")
        check_number("balancer.gamma", gamma, "(0, inf)")
        check_number("balancer.rho", rho, "[0, inf)")
        self.beta = beta
        self.gamma = gamma
        self.rho = rho
        self.published = published
        self.seeks_pareto = not published  # the softmax of weights in [0, 1] cannot leave a task out
        self.weight = per_task(tasks, torch.tensor(1 / len(tasks)))

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        self.tracker = per_task(self.tasks, torch.zeros(encoder.parameters))

    def moved(self, weights: Tensor, gram: Tensor) -> Tensor:
        """Returns the weights (k,) after one step, for the trackers' Gram matrix (k, k)."""
        mean = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
        return project_to_simplex(weights - self.gamma * (gram @ weights / mean + self.rho * weights))

    def moved_as_published(self, weights: Tensor, gram: Tensor, decay: float) -> Tensor:
        """Returns the same as `moved` in the form `published`, with gamma divided by `decay`."""
        return (weights - self.gamma / decay * (gram @ weights + self.rho * weights)).softmax(0)

    def combine(self, step: "Step") -> Features:
        gradients = step.jacobian
        before = stack(self.tracker, step.tasks)
        old = stack(self.weight, step.tasks).double()
        if self.published:
            factors = torch.where(step.norms > 0, step.losses.detach().abs() / step.norms, 0.0)
            gradients = gradients * factors.to(gradients)[:, None]
            decay = (step.number + 1) ** 0.5
            trackers = before.to(gradients).lerp(gradients, self.beta / decay)
            gram = inner_products(trackers.unbind()).to("cpu")
            weights = self.moved_as_published(project_to_simplex(old), gram, decay)
        else:
            share = torch.where(before.any(dim=1, keepdim=True), self.beta, 1.0).to(gradients)
            trackers = before.to(gradients).lerp(gradients, share)  # one pass through memory, where all the time goes
            weights = self.moved(project_to_simplex(old), inner_products(trackers.unbind()).to("cpu"))
        for k, task in enumerate(step.tasks):
            step.extras[f"weight/{task}"] = weights[k]
            step.add_change(self.tracker[task], trackers[k] - before[k])
            step.add_change(self.weight[task], weights[k] - old[k])
        return [weights.to(trackers) @ trackers]
