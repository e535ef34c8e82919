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
    """Gives K aliases of the features in the forward pass. In the backward pass, makes one gradient of the K gradients.

    The first `aliased` of the `inputs` get the aliases: the encoder's late parameters, if it has any, and the features.
    For a step that compares gradients over the shared parameters, the features are detached, and those parameters
    follow. The combined gradient goes to these inputs.
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
        # The parameters of a level that no decoder uses get a zero gradient: DDP expects a gradient for all parameters.
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
    """Gives the K losses, which the host knows already, as the means that the local sums stand for.

    In the backward pass, it hands over the objective's derivatives by the losses. `receive` gets them (k,), on the
    host, and returns the gradients (k,) with which the local sums, and so the decoders, go on.
    """

    @staticmethod
    def forward(ctx: Any, receive: Callable[[Tensor], Tensor], values: Tensor, *sums: Tensor) -> Tensor:
        ctx.receive, ctx.dtypes = receive, [own.dtype for own in sums]
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.receive(gradient).unbind()
        return None, None, *(own.to(dtype) for own, dtype in zip(found, ctx.dtypes, strict=True))


class Seed(Function):
    """Gives the objective on the training device. In the backward pass, it hands over the factor that arrives.

    This factor is the loss scale divided by the number of accumulation steps. An objective on the host is
    differentiated without it: the factor is on the device, and to bring it to the host would mean to wait.

    `anchors` are zeros on the device. They only keep parts of the model in the graph.
    """

    @staticmethod
    def forward(
        ctx: Any, receive: Callable[[Tensor], None], objective: Tensor, device: torch.device, *anchors: Tensor
    ) -> Tensor:
        # Accelerate, the loss scaler and DeepSpeed multiply the objective where we cannot see it. Here the product
        # arrives.
        ctx.receive, ctx.home, ctx.dtypes = receive, objective.device, [anchor.dtype for anchor in anchors]
        return objective.view_as(objective) if objective.device == device else objective.to(device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.receive(gradient.detach())
        own = gradient if gradient.device == ctx.home else torch.ones((), dtype=gradient.dtype, device=ctx.home)
        return None, own, None, *(gradient.to(dtype) for dtype in ctx.dtypes)
