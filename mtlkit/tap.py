"""The autograd nodes of a step, and the arithmetic on K task gradients inside one backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from mtlkit.step import Step


class Tap(Function):
    """K aliases of the features forward; backward, one call with all K gradients, which become one."""

    @staticmethod
    def forward(ctx: Any, step: Step, copies: int, *levels: Tensor) -> tuple[Tensor, ...]:
        ctx.step, ctx.copies = step, copies
        ctx.set_materialize_grads(False)
        ctx.like = [(level.shape, level.dtype, level.device) for level in levels]
        return tuple(level.view_as(level) for _ in range(copies) for level in levels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        n = len(ctx.like)
        rows = [gradients[k * n : (k + 1) * n] for k in range(ctx.copies)]
        combined = ctx.step._combine(rows)
        # A level that no decoder uses still gives its parameters a (zero) gradient, as DDP expects of all of them.
        return (
            None,
            None,
            *(
                torch.zeros(shape, dtype=dtype, device=device) if g is None else g.to(dtype)
                for g, (shape, dtype, device) in zip(combined, ctx.like, strict=True)
            ),
        )


class Coefficients(Function):
    """The K losses as one vector; backward it notes the objective's derivative by each loss.

    With `plain`, every decoder is handed the gradient of its own loss, and the tap applies the derivatives to
    what goes on into the encoder. Otherwise (a differentiated objective) they go to the decoders as well.
    """

    @staticmethod
    def forward(ctx: Any, step: Step, plain: bool, *losses: Tensor) -> Tensor:
        ctx.step, ctx.plain = step, plain
        return torch.stack(losses)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        step: Step = ctx.step
        step.coefficients = gradient.detach() / step._seed
        passed = step._seed.expand_as(gradient) if ctx.plain else gradient
        return None, None, *passed.unbind()


class Seed(Function):
    """The objective; backward it notes the factor that arrives: loss scale over accumulation steps."""

    @staticmethod
    def forward(ctx: Any, step: Step, objective: Tensor) -> Tensor:
        ctx.step = step
        return objective.view_as(objective)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.step._seed = gradient.detach()
        return None, gradient


def gradients_of(loss: Tensor, inputs: Any) -> list[Tensor]:
    found = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def gram_of(rows: Any) -> Tensor:
    total: Tensor | float = 0.0
    for level in zip(*rows, strict=True):
        example = next((g for g in level if g is not None), None)
        if example is not None:
            flat = [torch.zeros_like(example) if g is None else g for g in level]
            stacked = torch.stack([at_least_float32(g).flatten() for g in flat])
            total = total + (stacked @ stacked.T).double()
    assert isinstance(total, Tensor), "no decoder uses the shared features"
    return total


def weighted_sum(gradients: Any, weights: Tensor) -> Tensor | None:
    total: Tensor | None = None
    for gradient, weight in zip(gradients, weights, strict=True):
        if gradient is not None:
            term = at_least_float32(gradient) * weight
            total = term if total is None else total.add_(term)
    return total


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
