"""The autograd nodes of a step: the K task gradients meet here, inside one backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from mtlkit.engine.step import Step


class Tap(Function):
    """K aliases of the features forward; backward, one call with all K gradients, which become one.

    `inputs` are the features or, for a step that compares gradients over the shared parameters, the cut-off
    features and those parameters: the combined gradient goes to whatever the tap stands on.
    """

    @staticmethod
    def forward(ctx: Any, step: Step, copies: int, levels: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.step, ctx.copies, ctx.levels = step, copies, levels
        ctx.set_materialize_grads(False)
        ctx.like = [(x.shape, x.dtype, x.device) for x in inputs]
        return tuple(level.view_as(level) for _ in range(copies) for level in inputs[:levels])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        n = ctx.levels
        combined = ctx.step._combine([list(gradients[k * n : (k + 1) * n]) for k in range(ctx.copies)])
        # A level that no decoder uses still gives its parameters a (zero) gradient, as DDP expects of all of them.
        return (
            None,
            None,
            None,
            *(
                None if not needed else torch.zeros(shape, dtype=dtype, device=device) if g is None else g.to(dtype)
                for g, needed, (shape, dtype, device) in zip(combined, ctx.needs_input_grad[3:], ctx.like, strict=True)
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
