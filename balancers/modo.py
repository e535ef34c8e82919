"""MoDo: minimum-norm weights whose step uses two halves of the batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.gram import halves_known
from mtlkit.option_checks import check_number
from mtlkit.solvers import project_to_simplex
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("modo")
class MoDo(Balancer):
    """Moves the weights one step per batch towards the shortest combination, by an estimate without bias.

    Let g_k be the gradient of L_k over the shared parameters on the whole batch, and g'_k and g''_k those on its two
    halves:

        w <- projection to the simplex of w - gamma (C / m + rho) w,   C_ij = <g'_i, g''_j>,   m the mean of |g_k|^2
        encoder's gradient: sum_k w_k g_k

    E[C] is the Gram matrix of the expected gradients, because the halves are independent. A product of a batch with
    itself would add the noise to the diagonal. The paper draws a third sample for the model; here the whole batch takes
    its place. The division by m is a choice of the step size that the paper leaves open: with it, gamma and rho mean
    the same whatever the scale of the losses. Without `relative`, m is 1. With gradient accumulation, the weights move
    by the mean of the moves of the micro-batches. An absent task keeps its weight; the weights of the others are
    projected to the simplex. If a half of the batch has no label of a task, C says nothing about that task, so no
    weight moves.

    Source: Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
    Conflict-Avoidance, NeurIPS 2023, arXiv 2305.20057.

    Decoders: plain, as in the authors' code (heshandevaka/Trade-Off-MOL, LibMTL/LibMTL/weighting): one backward pass
    per task and sample, of which only the shared parameters' gradients are replaced.

    Differs from the published experiments: the authors' code does not divide by m, which `relative=false` gives. Its
    script for NYUv2 has `gamma=0.001`, and its default is `rho=0.1`. LibMTL has the same values.

    Args:
        gamma: the rate of the weights, > 0.
        rho: how strongly the weights are pulled towards equal ones, >= 0.
        relative: divide by m.

    Raises:
        ValueError: an option is out of its range.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("modo", tasks=("a", "b"), gamma=0.25)
    >>> balancer.moved(torch.tensor([0.5, 0.5]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor(2.0)).tolist()
    [0.4375, 0.5625]
    """

    needs = frozenset({"gram", "second_batch"})
    spaces = ("parameters",)

    def __init__(self, tasks: Sequence[str], *, gamma: float = 0.1, rho: float = 0.0, relative: bool = True) -> None:
        super().__init__(tasks, space="parameters")
        check_number("balancer.gamma", gamma, "(0, inf)")
        check_number("balancer.rho", rho, "[0, inf)")
        self.gamma = gamma
        self.rho = rho
        self.relative = relative
        self.weight = per_task(tasks, torch.tensor(1 / len(tasks)))

    def moved(self, weights: Tensor, cross_gram: Tensor, mean: Tensor) -> Tensor:
        """Returns the weights (k,) after one step, for C (k, k) and m."""
        relative = torch.where(mean > 0, cross_gram / mean, 0.0)
        return project_to_simplex(weights - self.gamma * (relative @ weights + self.rho * weights))

    def combine(self, step: "Step") -> Tensor:
        old = stack(self.weight, step.tasks).double()
        mean = step.gram.diagonal().mean() if self.relative else step.gram.new_ones(())
        before = project_to_simplex(old)
        known = halves_known(step.gram, step.cross_gram)
        weights = torch.where(known, self.moved(before, step.cross_gram, mean), before)
        for k, task in enumerate(step.tasks):
            step.add_change(self.weight[task], weights[k] - old[k])
        return weights
