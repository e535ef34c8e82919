"""Dynamic task prioritisation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.option_checks import check_number
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step

FLOOR = 0.01  # of an average; without it, a task with no right answer would have an infinite weight


@BALANCERS.register("dtp")
class DynamicTaskPrioritization(Balancer):
    """Gives the most weight to the tasks that do worst.

    w_k = -(1 - m_k)^gamma log m_k, where m_k <- alpha I_k + (1 - alpha) m_k is the moving average of I_k, the task's
    key performance indicator on the batch, in [0, 1]. The average starts at the first I_k. The indicator is the task's
    share of right answers (`Task.indicator`: an accuracy, the share of depths right to a factor of 1.25, ...), or
    exp(-L_k) for a task that has no indicator. m_k counts as at least 0.01, so no weight is above 4.6. The average that
    gives the weights includes the present batch. A task that is absent keeps its average. This is the paper's weighting
    of tasks. The paper also weighs the samples within a task (focal loss); here the loss of a task decides about that.

    Source: Guo et al., Dynamic Task Prioritization for Multitask Learning, ECCV 2018.

    Decoders: weighted. The paper minimises the weighted sum in all parameters.

    Defaults: those of this project. The paper tunes gamma task by task, and no code of the authors was found.

    Args:
        alpha: the share of the present batch in the average, in (0, 1].
        gamma: how quickly a task that does well loses weight. (The paper tunes one gamma per task. The defaults of
            alpha and gamma are this project's.)

    Raises:
        ValueError: an option is out of its range.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("dtp", tasks=("a", "b"), gamma=2.0)
    >>> [round(w, 4) for w in balancer.weights(torch.tensor([0.5, 0.9])).tolist()]
    [0.1733, 0.0011]
    """

    needs = frozenset({"indicators"})
    decoders = "weighted"

    def __init__(self, tasks: Sequence[str], *, alpha: float = 0.1, gamma: float = 1.0) -> None:
        super().__init__(tasks)
        check_number("balancer.alpha", alpha, "(0, 1]")
        check_number("balancer.gamma", gamma, "[0, inf)")
        self.alpha = alpha
        self.gamma = gamma
        self.average = per_task(tasks, torch.full((), -1.0))  # m_k; -1: the task has not taken part yet

    def weights(self, averages: Tensor) -> Tensor:
        """Returns the weights (k,) for the averages m (k,) of the indicators."""
        averages = averages.clamp(FLOOR, 1)
        return (1 - averages) ** self.gamma * (1 / averages).log()

    def objective(self, step: "Step") -> Tensor:
        averages = self._averages(step)
        for task, value in zip(step.tasks, averages, strict=True):
            step.extras[f"indicator/{task}"] = value
        return (self.weights(averages) * step.losses).sum()

    def after_step(self, step: "Step") -> None:
        for task, value in zip(step.tasks, self._averages(step) if step.tasks else (), strict=True):
            self.average[task].copy_(value)

    def _averages(self, step: "Step") -> Tensor:
        old, new = stack(self.average, step.tasks).double(), step.indicators.double()
        return torch.where(old < 0, new, self.alpha * new + (1 - self.alpha) * old)
