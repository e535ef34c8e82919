"""The autograd nodes of a step: the K task gradients meet here, inside one backward pass.

An autograd node runs twice. Forward it is an ordinary function of tensors. Backward, autograd calls it once, when the
gradients of all its outputs are complete, and it returns the gradients of its inputs. That call is the one place where
all task gradients are known and the encoder's backward pass has not begun. The nodes here know nothing of balancers:
each gets a function and calls it there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mtlkit.gradients import Row

Combine = Callable[[list[Row]], list[Tensor | None]]


class Tap(Function):
    """K aliases of the features forward; backward, one call with all K gradients, which become one.

    The first `aliased` of the `inputs` are handed out K times: the late parameters of the encoder, if it has any, and
    the features. For a step that compares gradients over the shared parameters, the features are cut off, and those
    parameters follow: the combined gradient goes to whatever the tap stands on.
    """

    @staticmethod
    def forward(ctx: Any, combine: Combine, copies: int, aliased: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.combine, ctx.copies, ctx.aliased = combine, copies, aliased
        # Autograd would fill in zeros for an alias that no decoder used. None says so, and costs no memory.
        ctx.set_materialize_grads(False)
        ctx.like = [(x.shape, x.dtype, x.device) for x in inputs]
        # Aliases, not copies: the same memory under K names, so that each decoder's gradient arrives apart.
        return tuple(x.view_as(x) for _ in range(copies) for x in inputs[:aliased])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        n = ctx.aliased
        combined = ctx.combine([list(gradients[k * n : (k + 1) * n]) for k in range(ctx.copies)])
        # A level that no decoder uses still gives its parameters a (zero) gradient, as DDP expects of all of them.
        return (
            None,  # autograd wants one entry per argument of `forward`; the first three are no tensors
            None,
            None,
            *(
                None if not needed else torch.zeros(shape, dtype=dtype, device=device) if g is None else g.to(dtype)
                for g, needed, (shape, dtype, device) in zip(combined, ctx.needs_input_grad[3:], ctx.like, strict=True)
            ),
        )


class Coefficients(Function):
    """The K losses as one vector; backward it hands over the objective's derivatives by the losses.

    `receive` gets them (k,) and returns the gradient that each loss, and so its decoder, goes on with (k,).
    """

    @staticmethod
    def forward(ctx: Any, receive: Callable[[Tensor], Tensor], *losses: Tensor) -> Tensor:
        ctx.receive = receive
        return torch.stack(losses)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.receive(gradient).unbind()


class Seed(Function):
    """The objective; backward it hands over the factor that arrives: the loss scale over the accumulation steps."""

    @staticmethod
    def forward(ctx: Any, receive: Callable[[Tensor], None], objective: Tensor) -> Tensor:
        ctx.receive = receive
        return objective.view_as(objective)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.receive(gradient.detach())
        return None, gradient
