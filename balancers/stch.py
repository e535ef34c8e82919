"""Smooth Tchebycheff scalarisation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.logarithms import have_logarithm
from mtlkit.option_checks import check_number, check_task_names, check_whole_number
from mtlkit.state import per_task, stack

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("stch")
class SmoothTchebycheff(Balancer):
    """Minimises a smooth maximum of the losses.

    With `warmup_epochs` it has the form of the paper's multi-task experiments. The objective is sum_k log L_k up to and
    including epoch number `warmup_epochs` (counted from 0). In that epoch the mean loss of each task is taken as its
    nadir N_k. From then on the objective is k mu log sum_k exp(log(L_k / N_k) / mu). A task that is absent in that
    epoch takes its nadir in the next epoch in which it is present, and adds log L_k until its nadir is known. A loss of
    zero has no logarithm and is left out of its step. A run that ends before that epoch minimises only sum_k log L_k.

    `warmup_epochs: null` chooses the plain form. Its objective is mu log sum_k exp(lambda_k (L_k - z_k) / mu) over the
    k tasks of the step, where the lambda_k > 0 have the sum 1. For mu -> 0 it is the largest lambda_k (L_k - z_k). With
    f_k = lambda_k (L_k - z_k), the weights are w_k = lambda_k softmax(f / mu)_k. If mu is large compared with the f_k
    and the lambda_k are equal, the gradient is that of the plain sum divided by k^2.

    Source: Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024, arXiv 2402.19078.

    Decoders: weighted. The paper and the authors' code minimise the objective in all parameters.

    Defaults: those of the authors' multi-task code, Xi-L/STCH (STCH_MTL/LibMTL): mu = 1 and a warm-up of 4.

    Args:
        mu: how smooth the maximum is.
        preference: task name -> its share in the lambda_k, > 0; a task that is not named has 1. For the plain form
            only.
        ideal: task name -> z_k, the lowest value that its loss can reach; a task that is not named has 0. For the plain
            form only.
        warmup_epochs: the number of the epoch in which the nadirs are taken (null: the plain form).

    Raises:
        ValueError: an option is out of its range, names no task, or belongs to the other form; or, in training with
            `warmup_epochs`, a loss is negative.

    >>> import torch
    >>> from mtlkit import BALANCERS
    >>> balancer = BALANCERS.build("stch", tasks=("a", "b"), mu=0.01, warmup_epochs=None)
    >>> round(balancer.scalarise(torch.tensor([1.0, 4.0]), ("a", "b")).item(), 4)
    2.0
    """

    decoders = "weighted"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        mu: float = 1.0,
        preference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
        warmup_epochs: int | None = 4,
    ) -> None:
        super().__init__(tasks)
        check_number("balancer.mu", mu, "(0, inf)")
        if warmup_epochs is not None:
            check_whole_number("balancer.warmup_epochs", warmup_epochs, 0)
            if preference or ideal:
                raise ValueError(
                    f"balancer.preference and balancer.ideal belong to the plain form, "
                    f"balancer.warmup_epochs=null. Got {preference} and {ideal} with warmup_epochs={warmup_epochs}."
                )
        for option, values, interval in (("preference", preference, "(0, inf)"), ("ideal", ideal, "(-inf, inf)")):
            check_task_names(f"balancer.{option}", values or {}, tasks)
            for task, value in (values or {}).items():
                check_number(f"balancer.{option}.{task}", value, interval)
        self.mu = mu
        self.preference = {task: (preference or {}).get(task, 1.0) for task in tasks}
        self.ideal = {task: (ideal or {}).get(task, 0.0) for task in tasks}
        self.warmup_epochs = warmup_epochs
        self.nadir_sum = per_task(tasks, torch.zeros(()))
        self.nadir_count = per_task(tasks, torch.zeros((), dtype=torch.int64))
        self.nadir_epoch = per_task(tasks, torch.full((), -1))  # -1: the task has no nadir yet

    def settling_steps(self, steps_per_epoch: int) -> int:
        return 0 if self.warmup_epochs is None else (self.warmup_epochs + 1) * steps_per_epoch

    def scalarise(self, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        """Returns the objective of the plain form for the losses (k,) of the named tasks."""
        preference = losses.new_tensor([self.preference[task] for task in tasks])
        ideal = losses.new_tensor([self.ideal[task] for task in tasks])
        return self._smooth_maximum(preference / preference.sum() * (losses - ideal))

    def objective(self, step: "Step") -> Tensor:
        if self.warmup_epochs is None:
            return self.scalarise(step.losses, step.tasks)
        total, count = stack(self.nadir_sum, step.tasks), stack(self.nadir_count, step.tasks)
        known = (total > 0) & (stack(self.nadir_epoch, step.tasks) < step.epoch)
        positive = have_logarithm(step.losses, step.tasks)
        objective = step.losses[positive & ~known].log().sum()
        final = positive & known
        if final.any():
            nadir = (total / count)[final]
            logs = step.losses[final].log() - nadir.log()
            objective = objective + len(logs) * self._smooth_maximum(logs)
        return objective

    def after_step(self, step: "Step") -> None:
        if self.warmup_epochs is None or step.epoch < self.warmup_epochs:
            return
        epochs = stack(self.nadir_epoch, step.tasks).tolist()
        for task, loss, epoch in zip(step.tasks, step.losses, epochs, strict=True):
            if epoch in (-1, step.epoch):
                self.nadir_epoch[task].fill_(step.epoch)
                self.nadir_sum[task].add_(loss)
                self.nadir_count[task].add_(1)

    def _smooth_maximum(self, values: Tensor) -> Tensor:
        return self.mu * (values / self.mu).logsumexp(0)
