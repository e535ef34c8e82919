"""How the state of a balancer moves at the end of an optimizer step."""

import torch
from torch.optim import Adam, Optimizer

from mtlkit.balancer import Balancer
from mtlkit.state import Kept, task_state
from mtlkit.step import Step


def balancer_optimizer(balancer: Balancer) -> Adam | None:
    """Returns the optimizer of the balancer's own parameters, or None where there are none."""
    parameters = [p for p in balancer.parameters() if p.requires_grad]
    # Adam's usual eps of 1e-8 would make small losses learn more slowly than large ones.
    # `foreach`: a few operations for all parameters together, on every device.
    return Adam(parameters, lr=balancer.lr, eps=1e-16, foreach=True) if parameters else None


def complete_gradients(balancer: Balancer, step: Step) -> None:
    """Makes the gradients of the balancer's parameters those of the whole optimizer step.

    It takes their mean over processes and divides by the loss scale, by which the backward pass leaves them too large.
    Tasks that had no label in the whole step get no gradient.
    """
    step.samples.average_gradients(balancer.parameters())
    # None and not zero: with a zero gradient, Adam would still move the state by its momentum.
    for task in set(balancer.tasks) - step.window.tasks:
        task_state(balancer, task).zero_grad(set_to_none=True)
    for parameter in balancer.parameters():
        if parameter.grad is not None:
            parameter.grad /= step.scale(parameter.device)


@torch.no_grad()
def move_balancer(balancer: Balancer, optimizer: Optimizer | None, step: Step) -> None:
    """Moves learned parameters by the optimizer, and kept states by the values from the step's micro-batches."""
    if optimizer is not None:
        for group in optimizer.param_groups:  # `step.rate` has the decay and the schedule in it
            group["lr"] = step.rate
        optimizer.step()
    for part in balancer.modules():
        if isinstance(part, Kept):
            part.settle(step.noted(part))
    # `Step.add_change` leaves changes of a kept state in its `.grad`, so that they go through the same sum over
    # processes and micro-batches as gradients do. They are the change itself, so they are added and not stepped along.
    for state in balancer.parameters():
        if not state.requires_grad and state.grad is not None:
            state.add_(state.grad)
