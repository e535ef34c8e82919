"""Dynamic weight average."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.option_checks import check_number
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("dwa")
class DynamicWeightAverage(Balancer):
    """Weighs each loss by how slowly it fell from one epoch to the next.

    w = k softmax(r / T) over the k tasks of the step. r_k is the mean loss of the last epoch divided by the mean loss
    of the epoch before it, and r_k = 1 in a task's first two epochs. The mean of an epoch is over the steps in which
    the task took part, and each step counts once. A task that is absent for a whole epoch keeps its last means. r_k is
    also 1 where the mean to divide by is 0.

    Source: Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, arXiv 1803.10704.

    Decoders: weighted. The paper and its code minimise the weighted sum in all parameters.

    Defaults: those of the authors' code, lorenmt/mtan (im2im_pred/utils.py): T = 2, equal weights in two epochs. The
    tables since Nash-MTL were made by other rules: windows of 25 steps in place of epochs, and the mean of the weighted
    losses in place of their sum.

    Args:
        temperature: T; a larger temperature makes the weights more even.

    Raises:
        ValueError: the temperature is not positive.

    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("dwa", tasks=("a", "b")).weights(epoch=0).tolist()
    [1.0, 1.0]
    """

    decoders = "weighted"

    def __init__(self, tasks: Sequence[str], *, temperature: float = 2.0) -> None:
        super().__init__(tasks)
        check_number("balancer.temperature", temperature, "(0, inf)")
        self.temperature = temperature
        self.loss_sum = per_task(tasks, torch.zeros(()))  # over the steps of `epoch`
        self.loss_count = per_task(tasks, torch.zeros((), dtype=torch.int64))
        self.last_mean = per_task(tasks, torch.zeros(()))  # of the last epoch before `epoch`; 0: not yet known
        self.mean_before = per_task(tasks, torch.zeros(()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def weights(self, epoch: int, tasks: Sequence[str] | None = None) -> Tensor:
        """Returns the weights (k,), float64, of the named tasks (None: all of them) in an epoch."""
        last, before = self._means(epoch, tasks or self.tasks)
        ratios = torch.where(before == 0, 1.0, last / before)
        return len(ratios) * (ratios / self.temperature).nan_to_num().softmax(0)

    def objective(self, step: "Step") -> Tensor:
        return (self.weights(step.epoch, step.tasks) * step.losses).sum()

    def after_step(self, step: "Step") -> None:
        if step.epoch != self.get_buffer("epoch"):
            last, before = self._means(step.epoch, self.tasks)
            for i, task in enumerate(self.tasks):
                self.last_mean[task].copy_(last[i])
                self.mean_before[task].copy_(before[i])
                self.loss_sum[task].zero_()
                self.loss_count[task].zero_()
            self.get_buffer("epoch").fill_(step.epoch)
        for task, loss in zip(step.tasks, step.losses, strict=True):
            self.loss_sum[task].add_(loss)
            self.loss_count[task].add_(1)

    def _means(self, epoch: int, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns the named tasks' mean losses in the last two epochs before `epoch`, the later epoch first."""
        last, before = stack(self.last_mean, tasks).double(), stack(self.mean_before, tasks).double()
        if epoch == self.get_buffer("epoch"):
            return last, before
        total, count = stack(self.loss_sum, tasks).double(), stack(self.loss_count, tasks)
        seen = count > 0
        return torch.where(seen, total / count.clamp_min(1), last), torch.where(seen, last, before)
