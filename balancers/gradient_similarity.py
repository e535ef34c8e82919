"""Gradient similarity: auxiliary tasks help only where they agree with the main one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gradients import inverse
from mtlkit.gram import check_gram_shape
from mtlkit.option_checks import check_task_names

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("gradient_similarity")
class GradientSimilarity(GramBalancer):
    """Uses an auxiliary task's gradient only where it does not oppose the main task's.

    Let m be the main task. Then w_m = 1, and for every other task w_k = 1 where cos(g_m, g_k) >= 0, else 0. The
    weighted version has w_k = max(0, cos(g_m, g_k)). The cosine of a zero gradient counts as 0. In a step without the
    main task, all weights are 1.

    Source: Du et al., Adapting Auxiliary Losses Using Gradient Similarity, arXiv 1812.02224.

    Decoders: plain. The paper adapts the gradient over the shared parameters. So does AvivNavon/AuxiLearn
    (experiments/weight_methods.py); no code of the authors was found.

    Differs from the published experiments: the paper compares gradients over the shared parameters, which
    `space=parameters` gives. The paper has one main task, which `main=NAME` chooses, and two versions; `weighted=true`
    gives the weighted one.

    Args:
        main: the main task (null: the first one in alphabetical order, so that the order of the tasks has no effect).
        weighted: the paper's weighted version.
        space: `features` or `parameters`.

    Raises:
        ValueError: `main` is not among the tasks.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> gram = torch.tensor([[1.0, -0.5, 2.0], [-0.5, 1.0, 0.0], [2.0, 0.0, 16.0]], dtype=torch.float64)
    >>> BALANCERS.build("gradient_similarity", tasks=("a", "b", "c")).weights(gram).tolist()
    [1.0, 0.0, 1.0]
    >>> BALANCERS.build("gradient_similarity", tasks=("a", "b", "c"), weighted=True).weights(gram).tolist()
    [1.0, 0.0, 0.5]
    """

    def __init__(
        self, tasks: Sequence[str], *, main: str | None = None, weighted: bool = False, space: str = "features"
    ) -> None:
        super().__init__(tasks, space=space)
        self.main = min(self.tasks) if main is None else main
        check_task_names("balancer.main", [self.main], tasks)
        self.weighted = weighted

    def weights(self, gram: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        """Returns the weights for the Gram matrix of the named tasks (None: all of them)."""
        tasks = self.tasks if tasks is None else tasks
        check_gram_shape(gram, tasks)
        if self.main not in tasks:
            return torch.ones_like(gram.diagonal())
        main = tasks.index(self.main)
        if self.weighted:
            to_unit = inverse(gram.diagonal().clamp_min(0).sqrt())
            weights = (gram[main] * to_unit[main] * to_unit).clamp(0, 1)
        else:
            weights = (gram[main] >= 0).to(gram.dtype)
        weights[main] = 1
        return weights

    def combine(self, step: "Step") -> Tensor:
        return self.weights(step.gram, step.tasks)
