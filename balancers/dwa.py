"""Dynamic weight average."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.option_checks import check_number, check_whole_number
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

    `window` chooses the form of AvivNavon/nash-mtl, which made the tables since Nash-MTL. There r_k is the mean of a
    task's last n losses, the present one included, over that of the n losses before them. What comes before the first
    loss counts as 1. r_k = 1 in a task's first n + 1 steps.

    Defaults: those of the authors' code, lorenmt/mtan (im2im_pred/utils.py): T = 2, equal weights in two epochs.
    Nash-MTL's code minimises the mean of the weighted losses in place of their sum. That is a constant factor, which
    Adam removes.

    Args:
        temperature: T; a larger temperature makes the weights more even.
        window: n, the number of steps in a window (null: a window is an epoch).

    Raises:
        ValueError: the temperature is not positive, or the window is not a whole number of at least 1.

    >>> from mtlkit import BALANCERS
    >>> BALANCERS.build("dwa", tasks=("a", "b")).weights(epoch=0).tolist()
    [1.0, 1.0]
    """

    decoders = "weighted"

    def __init__(self, tasks: Sequence[str], *, temperature: float = 2.0, window: int | None = None) -> None:
        super().__init__(tasks)
        check_number("balancer.temperature", temperature, "(0, inf)")
        if window is not None:
            check_whole_number("balancer.window", window, 1)
        self.temperature = temperature
        self.window = window
        if window is not None:
            self.recent = per_task(tasks, torch.ones(2 * window))  # the last losses, the latest at the end
        self.loss_sum = per_task(tasks, torch.zeros(()))  # over the steps of `epoch`
        self.loss_count = per_task(tasks, torch.zeros((), dtype=torch.int64))
        self.last_mean = per_task(tasks, torch.zeros(()))  # of the last epoch before `epoch`; 0: not yet known
        self.mean_before = per_task(tasks, torch.zeros(()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def settling_steps(self, steps_per_epoch: int) -> int:
        return 2 * steps_per_epoch if self.window is None else self.window + 1

    def weights(self, epoch: int, tasks: Sequence[str] | None = None) -> Tensor:
        """Returns the weights (k,), float64, of the named tasks (None: all of them) in an epoch."""
        return self._weights(*self._means(epoch, tasks or self.tasks))

    def weights_by_window(self, losses: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        """Returns the weights (k,), float64, of the named tasks (None: all of them) at these losses (k,) of theirs."""
        assert self.window is not None
        names = tasks or self.tasks
        recent = self._with(losses, names)
        before, last = recent[:, : self.window].mean(dim=1), recent[:, self.window :].mean(dim=1)
        counted = stack(self.loss_count, names) > self.window
        return self._weights(torch.where(counted, last, before), before)

    def objective(self, step: "Step") -> Tensor:
        if self.window is not None:
            weights = self.weights_by_window(step.losses.detach(), step.tasks)
        else:
            weights = self.weights(step.epoch, step.tasks)
        return (weights * step.losses).sum()

    def after_step(self, step: "Step") -> None:
        if self.window is not None:
            for task, recent in zip(step.tasks, self._with(step.losses, step.tasks), strict=True):
                self.recent[task].copy_(recent)
                self.loss_count[task].add_(1)
            return
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

    def _weights(self, last: Tensor, before: Tensor) -> Tensor:
        ratios = torch.where(before == 0, 1.0, last / before)
        return len(ratios) * (ratios / self.temperature).nan_to_num().softmax(0)

    def _with(self, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        """The named tasks' last losses (k, 2 n), float64, with these as the latest."""
        return torch.cat([stack(self.recent, tasks)[:, 1:].double(), losses.double()[:, None]], dim=1)

    def _means(self, epoch: int, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns the named tasks' mean losses in the last two epochs before `epoch`, the later epoch first."""
        last, before = stack(self.last_mean, tasks).double(), stack(self.mean_before, tasks).double()
        if epoch == self.get_buffer("epoch"):
            return last, before
        total, count = stack(self.loss_sum, tasks).double(), stack(self.loss_count, tasks)
        seen = count > 0
        return torch.where(seen, total / count.clamp_min(1), last), torch.where(seen, last, before)
