"""SDMGrad: weights between those of the mean gradient and those of minimum norm, from two halves of the batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.gram import check_max_norm, halves_known, limited
from mtlkit.option_checks import check_choice, check_number, check_whole_number
from mtlkit.solvers import project_to_simplex
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


DIVISORS = ("squares", "lengths")


@BALANCERS.register("sdmgrad")
class SDMGrad(Balancer):
    """Finds a direction near the mean gradient that serves all tasks.

    Let g_k be the gradient of L_k over the shared parameters on the whole batch, g'_k and g''_k those on its two
    halves, and u = (1/k, ..., 1/k). Starting at the weights of the last step, this is done `iterations` times:

        w <- projection to the simplex of w - beta C (w + lam u) / m,   C_ij = <g'_i, g''_j>,   m the mean of |g_k|^2

    Then the encoder gets sum_k (w_k + lam u_k) / (1 + lam) g_k. lam = 0 is stochastic MGDA; a large lam gives the mean
    gradient. E[C] is the Gram matrix of the expected gradients, because the halves are independent. The paper draws new
    samples for every iteration and for the model; here one batch serves all of them. Two divisions are choices of step
    sizes that the paper leaves open: by m, so that beta means the same whatever the scale of the losses, and by 1 +
    lam, so that the sum of the weights is 1. With `momentum`, v <- momentum v + C (w + lam u) / m, which starts at v =
    0 in each batch, takes the place of the gradient. With `divide_by: lengths`, m is the square of the mean of
    sqrt(C_kk). With gradient accumulation, w moves by the mean of the moves of the micro-batches. An absent task keeps
    its weight; the weights of the others are projected to the simplex. If a half of the batch has no label of a task,
    C says nothing about that task, so w does not move.

    Source: Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms,
    NeurIPS 2023, arXiv 2305.18409.

    Decoders: plain, as in the authors' code (OptMN-Lab/sdmgrad, methods/weight_methods.py): one backward pass per task
    and sample, of which only the shared parameters' gradients are replaced.

    Differs from the published experiments: lam and iterations are the authors' values. Their inner SGD has `beta=10`
    (LibMTL: 5) and `momentum=0.5`, and their m is the one that `divide_by=lengths` gives. They multiply the result by
    the number of tasks, which `match_sum=true` gives, and clip its norm, which `max_norm=1` gives. In their code all
    three samples hold the values of the last one, because they share a tensor.

    Args:
        lam: lambda, how closely the direction follows the mean gradient, >= 0 (0.3 is the paper's choice on NYUv2).
        iterations: the number of steps of w per batch.
        beta: the rate of w, > 0.
        momentum: the momentum of w, in [0, 1).
        divide_by: what m is made of, `squares` or `lengths`.
        match_sum: multiply by the number of tasks, so that a large lam is plain summing.
        max_norm: the largest length of the combined gradient. A longer one is scaled down at the end (None: never).

    Raises:
        ValueError: an option is out of its range.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("sdmgrad", tasks=("a", "b"), lam=1.0, iterations=1, beta=0.25)
    >>> balancer.moved(torch.tensor([0.5, 0.5]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor(2.0)).tolist()
    [0.375, 0.625]
    """

    needs = frozenset({"gram", "second_batch"})
    spaces = ("parameters",)

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        lam: float = 0.3,
        iterations: int = 20,
        beta: float = 0.1,
        momentum: float = 0.0,
        divide_by: Literal["squares", "lengths"] = "squares",
        match_sum: bool = False,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(tasks, space="parameters")
        check_number("balancer.lam", lam, "[0, inf)")
        check_whole_number("balancer.iterations", iterations, 1)
        check_number("balancer.beta", beta, "(0, inf)")
        check_number("balancer.momentum", momentum, "[0, 1)")
        check_choice("balancer.divide_by", divide_by, DIVISORS)
        check_max_norm(max_norm)
        self.lam = lam
        self.iterations = iterations
        self.beta = beta
        self.momentum = momentum
        self.divide_by = divide_by
        self.match_sum = match_sum
        self.max_norm = max_norm
        self.weight = per_task(tasks, torch.tensor(1 / len(tasks)))

    def moved(self, weights: Tensor, cross_gram: Tensor, mean: Tensor) -> Tensor:
        """Returns w (k,) after the iterations of a step, for C (k, k) and m."""
        relative = torch.where(mean > 0, cross_gram / mean, 0.0)
        velocity = torch.zeros_like(weights)
        for _ in range(self.iterations):
            velocity = self.momentum * velocity + relative @ (weights + self.lam / len(weights))
            weights = project_to_simplex(weights - self.beta * velocity)
        return weights

    def combine(self, step: "Step") -> Tensor:
        old = stack(self.weight, step.tasks).double()
        before = project_to_simplex(old)
        known = halves_known(step.gram, step.cross_gram)
        weights = torch.where(known, self.moved(before, step.cross_gram, self._divisor(step)), before)
        for k, task in enumerate(step.tasks):
            step.add_change(self.weight[task], weights[k] - old[k])
        combined = (weights + self.lam / len(weights)) / (1 + self.lam)
        return limited(combined * (len(weights) if self.match_sum else 1), step.gram, self.max_norm)

    def _divisor(self, step: "Step") -> Tensor:
        """Returns m, of the kind that `divide_by` chooses."""
        if self.divide_by == "lengths":
            return step.cross_gram.diagonal().clamp_min(0).sqrt().mean().square()
        return step.gram.diagonal().mean()
