"""Nash-MTL: the tasks bargain about the direction (Navon et al.)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, GramBalancer
from mtlkit.gram import any_order, check_max_norm, limited
from mtlkit.option_checks import check_whole_number
from mtlkit.solvers import alpha_fair
from mtlkit.state import per_task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("nash")
class Nash(GramBalancer):
    """Takes the direction d that maximises sum_k log <g_k, d>: its weights a solve M a = 1 / a, a > 0.

    The combined gradient always has the length sqrt(K), even if the task gradients are short; `max_norm` limits it. A
    task with a zero gradient gets the weight 0. Where no direction can serve a set of tasks together, the direction
    does not harm these tasks, and the others bargain. At a Pareto-stationary point no task agrees, and all weights are
    0.

    Source: Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, arXiv 2202.01017.

    Decoders: weighted, as in the authors' code (AvivNavon/nash-mtl, methods/weight_methods.py), which descends on
    sum_k a_k L_k in all parameters. There, too, `max_norm` is for the encoder alone.

    Differs from the published experiments: the authors' code limits the length to 1, which `max_norm=1` gives. As the
    length is sqrt(K), this limit always acts. The code takes gradients over the shared parameters, which
    `space=parameters` gives.

    Args:
        max_norm: the largest length of the combined gradient in its space. A longer one is scaled down (None: never).
        update_every: n; the weights are solved for in every n-th step only, and kept in between.
        space: `features` or `parameters` (the paper's).

    >>> balancer = BALANCERS.build("nash", tasks=("a", "b"))
    >>> balancer.weights(torch.tensor([[4.0, 0.0], [0.0, 16.0]])).tolist()
    [0.5, 0.25]
    """

    decoders = "weighted"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        max_norm: float | None = None,
        update_every: int = 1,
        space: str = "features",
    ) -> None:
        super().__init__(tasks, space=space)
        check_max_norm(max_norm)
        check_whole_number("balancer.update_every", update_every, 1)
        self.max_norm = max_norm
        self.update_every = update_every
        self.weight = per_task(tasks, torch.tensor(-1.0))  # below 0: not known yet

    @any_order
    def weights(self, gram: Tensor) -> Tensor:
        return limited(self.bargain(gram), gram, self.max_norm)

    @any_order
    def bargain(self, gram: Tensor) -> Tensor:
        """Returns the weights before `max_norm` limits them."""
        return alpha_fair(gram, alpha=1.0)

    def combine(self, step: "Step") -> Tensor:
        # Those of an earlier micro-batch of this step, or else of an earlier step.
        weights = torch.stack([(step.noted(task) or [self.weight[task]])[-1] for task in step.tasks])
        if step.number % self.update_every == 0 or (weights < 0).any():
            weights = self.bargain(step.gram)
            for task, weight in zip(step.tasks, weights, strict=True):
                step.note(task, weight.to(self.weight[task].dtype))  # kept after the step, which may yet be skipped
        step.decoder_weights = weights.to(step.gram)
        return limited(step.decoder_weights, step.gram, self.max_norm)

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        for task in self.tasks:
            if noted := step.noted(task):
                self.weight[task].copy_(noted[-1])
