"""The decoders' gradients: those of their own losses, or those times the balancer's weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtlkit.balancer import Balancer
from mtlkit.distributed import world_size
from mtlkit.option_checks import check_choice
from mtlkit.step import Step

GIVEN = ("plain", "weighted")
Parameters = Mapping[str, Sequence[Tensor]]


class DecoderGradients:
    """Multiplies the decoders' gradients of every micro-batch by the weights, or leaves them as they are.

    Some methods know their weights only inside the backward pass, after it has left the decoders. So the decoders'
    gradients are multiplied by the weights after the backward pass of each micro-batch. The gradients of earlier
    micro-batches of the same step have weights of their own. They are kept aside meanwhile.

    Several processes sum their gradients. The weights must come after that sum, and each micro-batch has its own. So
    with weights the sum is made after every micro-batch, and not only after the last one (`held_back`).

    Args:
        setting: `plain`, `weighted`, or `published` for what the balancer's class declares (`Balancer.decoders`).
        balancer: the method of the run.
        launcher: Accelerate's name for how the processes share the work.

    Raises:
        ValueError: the launcher does not show the gradients, so they cannot be weighed.

    Attributes:
        given: `plain` or `weighted`, what the decoders get in this run.
        weighs: whether gradients are multiplied after the backward pass.
    """

    def __init__(self, setting: str, balancer: Balancer, launcher: str = "") -> None:
        self.setting = setting
        self.given = balancer.decoders if setting == "published" else setting
        self.method = type(balancer).__name__
        check_choice(f"{self.method}.decoders", self.given, GIVEN)
        # With a double backward there is no tap: the objective's derivatives reach the decoders by themselves, so they
        # must not be multiplied a second time.
        self.by_objective = "create_graph" in balancer.needs
        self.weighs = self.given == "weighted" and not self.by_objective
        if self.weighs and launcher == "DEEPSPEED":
            raise ValueError(
                f"{self.method}: {self}, but {launcher} does not show the gradients, so they cannot be weighed. "
                f"Take trainer.decoder_gradients=plain, or launch with DDP or FSDP."
            )

    def held_back(self, model: nn.Module) -> list[nn.Module]:
        """Returns the modules whose sum over processes may wait for the last micro-batch of a step."""
        return [] if self.weighs else [model]

    def __str__(self) -> str:
        what = {
            "plain": "the gradient of its own loss",
            "weighted": "the gradient of its own loss times the weight of its task",
        }[self.given]
        why = "as the method is published; " if self.setting == "published" else ""
        return f"each decoder gets {what} ({why}trainer.decoder_gradients={self.setting})"

    @contextmanager
    def weighed(self, step: Step, parameters: Parameters) -> Iterator[None]:
        """Holds the backward pass of a micro-batch, and weighs the decoders' gradients after it.

        `parameters` are those of each task's decoder. No parameter may belong to two tasks.

        Raises `ValueError` if the method cannot give the decoders what they should get.
        """
        if not self.weighs:
            yield
            self._check_objective(step)
            return
        # Now `grad` is empty, so that the backward pass leaves this micro-batch's gradient alone in it.
        # Earlier micro-batches have weights of their own. Without this, the new weights would multiply their sum, too.
        aside = [(parameter, parameter.grad) for own in parameters.values() for parameter in own]
        if world_size() > 1:  # DDP may write the new gradient into the memory of the old one
            aside = [(parameter, None if g is None else g.clone()) for parameter, g in aside]
        for parameter, _ in aside:
            parameter.grad = None
        yield
        if step.finite:  # else there are no weights, and the step will not be made
            self._weigh(step, parameters)
        # Then the gradients of earlier micro-batches are added again, which got their weights at their time.
        for parameter, gradient in aside:
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _weigh(self, step: Step, parameters: Parameters) -> None:
        weights = step.weights if step.decoder_weights is None else step.decoder_weights
        if step.tasks and weights is None:
            raise ValueError(
                f"trainer.decoder_gradients={self.setting}: {self.method} combines gradients without weights, so "
                f"there are none for the decoders. Take trainer.decoder_gradients=plain, or let its `combine` set "
                f"`step.decoder_weights`."
            )
        # In place, so that no second set of gradients takes memory. Absent tasks have zero gradients and need no
        # weight.
        factors = {} if weights is None else dict(zip(step.tasks, weights.tolist(), strict=True))
        found = [(p.grad, factor) for task, factor in factors.items() for p in parameters[task] if p.grad is not None]
        if any(isinstance(gradient, DTensor) for gradient, _ in found):
            for gradient, factor in found:
                gradient.mul_(factor)
        elif found:  # one operation, and not one per parameter
            torch._foreach_mul_([gradient for gradient, _ in found], [factor for _, factor in found])

    def _check_objective(self, step: Step) -> None:
        """Raises `ValueError` where the objective weighs the decoders' gradients although `plain` was chosen."""
        if not self.by_objective or self.given == "weighted" or step.coefficients is None:
            return
        if bool((step.coefficients != 1).any()):
            raise ValueError(
                f"trainer.decoder_gradients={self.setting}: {self.method} differentiates its whole objective, in which "
                f"the losses have weights, and the decoders get these. Take trainer.decoder_gradients=weighted, or "
                f'declare `decoders = "weighted"` in the class.'
            )
