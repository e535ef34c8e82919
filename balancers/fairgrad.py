"""FairGrad: alpha-fair progress of the tasks (Ban and Ji)."""

from collections.abc import Sequence

from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.solvers import alpha_fair, any_order


@BALANCERS.register("fairgrad")
class FairGrad(GramBalancer):
    """Takes the direction d that maximises sum_k <g_k, d>^(1 - alpha) / (1 - alpha): M w = w^(-1/alpha), w > 0.

    alpha = 1 is `nash`; small alpha favours the sum of the progress, large alpha the task with the least. A task with
    a zero gradient gets the weight 0. Tasks that no direction can serve together are held harmless while the rest
    bargain; at a Pareto-stationary point all weights are 0.

    Source: Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, arXiv 2402.15638.

    Args:
        alpha: the kind of fairness, above 0.
        space: `features` or `parameters` (the paper's).

    >>> import torch
    >>> balancer = BALANCERS.build("fairgrad", tasks=("a", "b"), alpha=0.5)
    >>> balancer.weights(torch.tensor([[8.0, 0.0], [0.0, 1.0]])).tolist()
    [0.5, 1.0]
    """

    def __init__(self, tasks: Sequence[str], *, alpha: float = 2.0, space: str = "features") -> None:
        super().__init__(tasks, space=space)
        if not 0 < alpha < float("inf"):
            raise ValueError(f"balancer.alpha must be a number above 0, got {alpha}.")
        self.alpha = alpha

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        return alpha_fair(gram, self.alpha)
