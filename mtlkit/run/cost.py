"""What a step of the balancer costs beside the network, before a run begins."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from mtlkit.config.schema import Config
from mtlkit.engine.model import MultiTaskModel, kept_buffers
from mtlkit.run.build import Parts

BACKWARD = 2  #: a backward pass takes about twice the operations of the forward pass: gradients of inputs and weights


def about_the_cost(parts: Parts, config: Config, size: tuple[int, int], channels: int, processes: int) -> Iterator[str]:
    """Yields a sentence if the balancer itself needs more operations per step than the network.

    Both are figures of one process: those that the method tells (`Balancer.operations`), and three times those of a
    forward pass of one image, as torch counts them, for each of its samples.
    """
    samples = config.data.batch_size // processes
    info = parts.model.encoder_info
    own = parts.balancer.operations(replace(info, image=size), samples)
    if not own:
        return
    network = (1 + BACKWARD) * samples * forward_operations(parts.model, size, channels)
    if own[""] <= network:
        return
    name = config.balancer.name
    cheaper = "".join(f" `{words}` needs {number:.1e}." for words, number in own.items() if words)
    yield (
        f"{name} itself needs about {own['']:.1e} floating-point operations per step, {own[''] / network:.2g} times "
        f"the network's ({network:.1e}).{cheaper}"
    )


def forward_operations(model: MultiTaskModel, size: tuple[int, int], channels: int) -> int:
    """Returns the floating-point operations of a forward pass for one image of `size` (width, height)."""
    device = next(model.parameters()).device
    image = torch.zeros(1, channels, size[1], size[0], device=device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), kept_buffers(model), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(training)
    return counter.get_total_flops()
