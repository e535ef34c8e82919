"""The optimizer of the loop: when it steps, and whether the gradients of a step are still there."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd import Variable
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mtlkit.loop.graph import behind

MANY = 20  # a loss scaler skips a few steps at its start, but not as many as these in a row


class Following:
    """Knows the optimizer that a loop steps. It is made anew for a copy of the module, which follows nothing."""

    def __init__(self) -> None:
        self._optimizer: Optimizer | None = None
        self._handle: Any = None
        self._looked = False
        self._gone = 0

    def follow(self, optimizer: Any, encoder: nn.Module | None, stepped: Callable[..., None]) -> None:
        """Calls `stepped` whenever the optimizer has stepped. Raises `ValueError` if it does not hold the encoder."""
        bare = bare_optimizer(optimizer)
        if encoder is not None and not _any_of(encoder.parameters(), bare):
            raise ValueError(
                "This optimizer holds no parameter of the encoder. Follow the one that moves the encoder: the method's "
                "state moves when it steps."
            )
        if self._handle is not None:
            self._handle.remove()
        self._optimizer, self._looked = bare, False
        self._handle = bare.register_step_post_hook(stepped)

    def check(self, encoder: nn.Module | None, features: Sequence[Tensor]) -> None:
        """Raises `ValueError` if nothing is followed, or if encoder, features and optimizer do not belong together."""
        if self._optimizer is None:
            raise ValueError(
                "Balanced does not know when the optimizer steps. Call balanced.follow(optimizer) once, before the "
                "first step (again after loading or copying the module)."
            )
        if self._looked:
            return
        self._looked = True
        found = behind(features, {})
        leaves = list(found.leaves.values())
        if found.hiding or not leaves or any(isinstance(p, DTensor) for p in _parameters(self._optimizer)):
            return  # the graph hides the parameters that made the features
        if encoder is not None and not {id(p) for p in encoder.parameters()} & found.leaves.keys():
            raise ValueError(
                "The features that balanced(...) got were not made by the encoder that mtlkit.Balanced was given. Pass "
                "the module that makes them."
            )
        if not _any_of(leaves, self._optimizer):
            raise ValueError(
                "The optimizer that is followed holds none of the parameters that made the features. Call "
                "balanced.follow with the optimizer that moves the encoder."
            )

    def gradients_are_gone(self) -> bool:
        """Returns whether the loop gave up the gradients of the micro-batches so far, as a loss scaler makes it do."""
        assert self._optimizer is not None
        parameters = _parameters(self._optimizer)
        if any(isinstance(p, DTensor) for p in parameters):  # FSDP keeps earlier gradients where nobody sees them
            return False
        gradients = [p.grad for p in parameters if p.grad is not None]
        if any(g.is_sparse or bool(g.any()) for g in gradients):  # zeros: the loop does not set them to None
            self._gone = 0
            return False
        self._gone += 1
        if self._gone == MANY:
            warnings.warn(
                f"{MANY} times in a row the gradients were gone, and the optimizer that `balanced` follows had not "
                f"stepped. Is it the optimizer that this loop steps?",
                stacklevel=3,
            )
        return True

    def stepped(self) -> None:
        """Is called when the state has moved."""
        self._gone = 0


def bare_optimizer(optimizer: Any) -> Optimizer:
    """Returns torch's optimizer behind the wrappers of Accelerate, Lightning and Fabric."""
    inner = optimizer
    while hasattr(inner, "optimizer"):  # the wrapper of Accelerate calls itself an optimizer, but it takes no hooks
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise ValueError(f"balanced.follow needs a torch optimizer, got {type(optimizer).__name__}.")
    return inner


def after_backward(call: Callable[[], None], rounds: int) -> None:
    """Calls it when the present backward pass is over.

    Others register such calls too, some of them only in calls of their own. With `rounds` > 1, ours goes to the end of
    the line so many times.
    """
    again = call if rounds == 1 else lambda: after_backward(call, rounds - 1)
    Variable._execution_engine.queue_callback(again)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _any_of(parameters: Any, optimizer: Optimizer) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return any(id(p) in held for p in parameters)
