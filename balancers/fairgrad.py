"""FairGrad: alpha-fair progress of the tasks (Ban and Ji)."""

from collections.abc import Sequence

from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order, check_max_norm, limited
from mtlkit.option_checks import check_number
from mtlkit.solvers import alpha_fair


@BALANCERS.register("fairgrad")
class FairGrad(GramBalancer):
    """Takes the direction d that maximises sum_k <g_k, d>^(1 - alpha) / (1 - alpha): M w = w^(-1/alpha), w > 0.

    alpha = 1 is `nash`. A small alpha favours the sum of the progress; a large alpha favours the task with the least
    progress. A task with a zero gradient gets the weight 0. Where no direction can serve a set of tasks together, the
    direction does not harm these tasks, and the others bargain. At a Pareto-stationary point all weights are 0.

    Source: Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, arXiv 2402.15638.

    Decoders: plain, as in the authors' code (OptMN-Lab/fairgrad, methods/weight_methods.py): one backward pass per
    task, of which only the shared parameters' gradients are replaced.

    Differs from the published experiments: alpha = 2 is the authors' value. They take gradients over the shared
    parameters, which `space=parameters` gives, multiply the result by the number of tasks, which `match_sum=true`
    gives, and clip its norm, which `max_norm=1` gives.

    Args:
        alpha: the kind of fairness, above 0.
        match_sum: multiply by the number of tasks.
        max_norm: the largest length of the combined gradient in its space. A longer one is scaled down at the end
            (None: never).
        space: `features` or `parameters` (the paper's).

    >>> import torch
    >>> balancer = BALANCERS.build("fairgrad", tasks=("a", "b"), alpha=0.5)
    >>> balancer.weights(torch.tensor([[8.0, 0.0], [0.0, 1.0]])).tolist()
    [0.5, 1.0]
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        alpha: float = 2.0,
        match_sum: bool = False,
        max_norm: float | None = None,
        space: str = "features",
    ) -> None:
        super().__init__(tasks, space=space)
        check_number("balancer.alpha", alpha, "(0, inf)")
        check_max_norm(max_norm)
        self.alpha = alpha
        self.match_sum = match_sum
        self.max_norm = max_norm

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        weights = alpha_fair(gram, self.alpha) * (len(gram) if self.match_sum else 1)
        return limited(weights, gram, self.max_norm)
