"""The inputs with which the kit tries a task: random outputs, and targets of the kind that it learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.engine.losses import loss_of
from mtlkit.target import Kind
from mtlkit.task import TASKS, Task

CLASSES: tuple[str, ...] = ("a", "b", "c")
HEIGHT, WIDTH, SAMPLES = 6, 8, 6


@dataclass(frozen=True)
class Case:
    """A task with random outputs and targets of its kind. A part of the targets is unknown."""

    task: Task
    kind: Kind
    output: Tensor
    target: Tensor

    def metrics(self) -> MetricCollection:
        return self.task.metrics().to(self.target.device)

    def constant(self) -> Tensor:
        """Returns the task's constant as a run has it: computed on the CPU, and moved."""
        return self.task.constant(self.target.cpu()).to(self.target.device)

    @property
    def unknown(self) -> Tensor:
        """Returns a batch without any label."""
        return self.kind.invalid(HEIGHT, WIDTH).to(self.target.device).expand_as(self.target).clone()

    def rows(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        return self.output[start:end], self.target[start:end]

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (sum, count, gradient at the output)."""
        output = output.clone().requires_grad_()
        total, count = loss_of(self.task, output, target)
        gradient = torch.zeros_like(output)
        if total.requires_grad:
            gradient = torch.autograd.grad(total, output, allow_unused=True)[0]
            gradient = torch.zeros_like(output) if gradient is None else gradient
        return total.detach(), count.detach(), gradient


def make_case(name: str, options: Mapping[str, Any], device: str = "cpu") -> Case:
    """Builds a case on the device. Raises `ValueError` or `LookupError` for an unknown task, kind or option."""
    classes = () if TASKS.get(name).named is False else CLASSES
    task = TASKS.build(name, "checked", **{"classes": classes} | dict(options))
    kind = task.own_kind()
    if kind is None:
        raise ValueError(
            f"{type(task).__name__} does not say which kind of target it learns. Write learns = 'depth', or "
            f"another name of `mtlkit list kinds`, in the class."
        )
    task.kind, draw = kind, torch.Generator().manual_seed(0)
    target = torch.stack([kind.example(HEIGHT, WIDTH, draw) for _ in range(SAMPLES)])
    for value in target:
        if problem := kind.problem(value):
            raise ValueError(f"{type(kind).__name__}.example returns a value that does not {problem}: override it.")
    size = task.map_size(target) or ((HEIGHT, WIDTH) if task.dense else ())
    output = torch.randn(SAMPLES, task.out_channels, *size, generator=draw)
    return Case(task, kind, output.to(device), target.to(device))
