"""Losses of which a method takes logarithms."""

from collections.abc import Sequence

import torch
from torch import Tensor


def have_logarithm(losses: Tensor, tasks: Sequence[str]) -> Tensor:
    """Returns which losses are positive, (k,). A loss of zero has no logarithm; its task has nothing left to learn.

    Numbers so small that their inverse would not be finite count as zero.

    Raises:
        ValueError: a loss is negative. The message names its task.

    >>> have_logarithm(torch.tensor([0.5, 0.0]), ("a", "b")).tolist()
    [True, False]
    """
    for task, loss in zip(tasks, losses.tolist(), strict=True):
        if loss < 0:
            raise ValueError(
                f"The loss of task {task!r} is {loss:.4g}, but this balancer takes logarithms of losses and needs all "
                f"of them >= 0. Add a constant to that loss or choose another balancer."
            )
    return losses.detach() >= torch.finfo(losses.dtype).tiny
