"""A gradient that is not finite must not move the model."""

import math
from typing import Any

from accelerate import Accelerator
from torch import Tensor, isfinite
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mtlkit.engine.losses import Unread, gradient_error
from mtlkit.step import Step


class GradientCheck:
    """Raises `NonFiniteError` for a gradient that is not finite; the model stays as it was before that step.

    To ask on the host whether the gradient's length is finite would mean to wait for the device at the end of every
    step. Torch's fused optimizers can leave out a step on the device. They are told there, and the host learns of it
    together with the losses of the next step, or by `settle`. With another optimizer, the host asks at once.
    """

    def __init__(self, optimizer: Optimizer, method: str, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._optimizer: Any = getattr(optimizer, "optimizer", optimizer)  # torch's, behind that of Accelerate
        self._method = method
        self._unread: list[Unread] = []

    def look(self, norm: Tensor, step: Step) -> None:
        """Takes the length of the gradient that is about to move the model."""
        if self._accelerator.scaler is not None:  # it leaves such a step out, and lowers its scale
            return
        length = _Length(norm, step, self._method)
        if self._skips_on_the_device(norm):
            self._optimizer.found_inf = (~isfinite(norm)).float()
            self._unread.append(length)
        else:
            length.read(float(norm))

    def take(self) -> list[Unread]:
        """Returns the lengths that the host does not know yet. Whoever takes them reads them."""
        found, self._unread = self._unread, []
        return found

    def settle(self) -> None:
        """Reads these lengths now: before the model is evaluated or saved."""
        for length in self.take():
            length.read(float(length.value))

    def _skips_on_the_device(self, norm: Tensor) -> bool:
        # On a CPU there is nothing to wait for. The flag would be no shard where the parameters are shards.
        sharded = any(isinstance(p, DTensor) for group in self._optimizer.param_groups for p in group["params"])
        return norm.device.type != "cpu" and not sharded and hasattr(self._optimizer, "_step_supports_amp_scaling")


class _Length:
    """The length of a step's gradient, on the device."""

    def __init__(self, value: Tensor, step: Step, method: str) -> None:
        self.value = value.detach()
        self._of = step.number, step.tasks, step.weights, method

    def read(self, number: float) -> None:
        if not math.isfinite(number):
            raise gradient_error(number, *self._of)
