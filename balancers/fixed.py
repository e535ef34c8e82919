"""Static weights, chosen by hand."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, LossBalancer
from mtlkit.option_checks import check_number, check_task_names
from mtlkit.state import per_task, stack


@BALANCERS.register("fixed")
class Fixed(LossBalancer):
    """Minimises a weighted sum of the losses with weights that never change.

    Update: theta <- theta - eta sum_k w_k grad L_k. Many papers leave out this baseline with well-tuned weights; arXiv
    2505.10347 finds it close to the best balancers.

    Decoders: weighted. The weighted sum is minimised in all parameters.

    Defaults: those of plain summing, weights of 1. There are no published ones.

    Args:
        weights: task name -> w_k >= 0; a task that is not named has weight 1.

    Raises:
        ValueError: a weight is negative or not finite, or names no task.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("fixed", tasks=("a", "b"), weights={"b": 3.0}).weights(torch.ones(2)).tolist()
    [1.0, 3.0]
    """

    def __init__(self, tasks: Sequence[str], *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(tasks)
        self.weight = per_task(tasks, torch.ones(()))
        check_task_names("balancer.weights", weights or {}, tasks)
        for task, value in (weights or {}).items():
            check_number(f"balancer.weights.{task}", value, "[0, inf)")
            self.weight[task].data.fill_(value)
        self.equals_uniform = all(value == 1 for value in (weights or {}).values())

    def weights(self, losses: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        return stack(self.weight, tasks or self.tasks)
