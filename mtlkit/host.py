"""What passes between the host (the CPU) and the training device: the factors of gradients, and values with a graph."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class Seeds(NamedTuple):
    """The factors with which a backward pass starts: the loss scale, divided by the number of accumulation steps.

    Attributes:
        device: the factor of all gradients on the training device.
        host: that of gradients on the host. It is 1 where the objective was computed on the host, for the factor of the
            device is not known there.
    """

    device: Tensor
    host: Tensor

    def at(self, place: torch.device) -> Tensor:
        """Returns the factor of gradients that are there."""
        return self.device if place == self.device.device else self.host.to(place)


class ToHost(Function):
    """Gives a copy on the host, with its graph: one wait for the device.

    The gradient that comes back gets the factor that those on the device have and this one has not. `seeds` returns
    the factors of the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, seeds: Callable[[], Seeds], value: Tensor) -> Tensor:
        ctx.seeds, ctx.home = seeds, value.device
        return value.view_as(value) if value.device.type == "cpu" else value.to("cpu")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        seeds = ctx.seeds()
        return None, gradient.to(ctx.home) * (seeds.device / seeds.host).to(gradient.dtype)
