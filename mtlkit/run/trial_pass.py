"""Checks before training whether the parts can work with so few samples."""

import torch

from mtlkit.balancer import Balancer
from mtlkit.config.schema import Config
from mtlkit.engine.model import kept_buffers
from mtlkit.run.build import Parts

SAMPLES = 2  #: the largest number of samples to test; a layer that can normalise over two can do so over more
COMPLAINT = "Expected more than 1"  #: how torch's error starts if a layer has only one value to normalise over


def check_normalisation(
    parts: Parts,
    config: Config,
    size: tuple[int, int],
    *,
    device: torch.device,
    processes: int,
    batch_size: int,
    channels: int = 3,
) -> None:
    """Raises `ValueError` with the name of the encoder or decoder if a layer would normalise over a single value.

    This happens to BatchNorm on maps of one pixel, such as pooled maps, if a process has one sample per micro-batch.
    It always happens to InstanceNorm on such maps. The function moves the model to the device and runs a forward pass
    in training mode, on at most two black images of `size` (width, height) and `channels`. It then restores statistics
    and random numbers. `batch_size` is that of the smallest batch.
    """
    model, samples = parts.model, batch_size // (config.trainer.accumulation * processes)
    names = {
        name: f"the decoder {task.decoder_config['name']!r} of task {name!r}" for name, task in parts.tasks.items()
    }
    reached = [f"the encoder {config.model.encoder!r}"]
    hooks = [
        decoder.register_forward_pre_hook(lambda *_, name=name: reached.append(names[name]))
        for name, decoder in model.decoders.items()
    ]
    image = torch.zeros(min(samples, SAMPLES), channels, size[1], size[0], device=device)
    random = {} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
    model.to(device).train()
    try:
        with torch.no_grad(), kept_buffers(model), torch.random.fork_rng(**(random or {"devices": []})):
            model(image)
    except ValueError as error:
        if not str(error).startswith(COMPLAINT):
            raise
        raise ValueError(_message(reached[-1], samples, batch_size, config, processes, error)) from error
    finally:
        for hook in hooks:
            hook.remove()


def check_halves(balancer: Balancer, config: Config, smallest: int) -> None:
    """Raises `ValueError` if the balancer needs two equal halves of every micro-batch, and a size is odd.

    `smallest` is the size of the smallest batch, the last one of an epoch.
    """
    if "second_batch" not in balancer.needs:
        return
    for size, which in ((config.data.batch_size, "a micro-batch"), (smallest, "the last one of an epoch")):
        samples = size // config.trainer.accumulation
        if samples % 2:
            raise ValueError(
                f"{config.balancer.name} compares two halves of every micro-batch, but {which} has {samples} samples "
                f"over all processes (data.batch_size={config.data.batch_size}, trainer.accumulation="
                f"{config.trainer.accumulation}, data.drop_last={str(config.data.drop_last).lower()}). Take an even "
                "number."
            )


def _message(part: str, samples: int, batch_size: int, config: Config, processes: int, error: ValueError) -> str:
    start = f"{part[0].upper()}{part[1:]} normalises over a single value, which has no variance"
    if samples > 1:
        return (
            f"{start}, although each process has {samples} samples per micro-batch ({error}). Take larger images "
            "(data.size), or another decoder or encoder."
        )
    last = "" if batch_size == config.data.batch_size else f"; the last batch of an epoch has {batch_size} samples"
    return (
        f"{start}: its map has one pixel, and each process has one sample per micro-batch "
        f"(data.batch_size={config.data.batch_size}{last}, trainer.accumulation={config.trainer.accumulation}, "
        f"processes: {processes}). At least two samples are needed: a larger data.batch_size, a smaller "
        "trainer.accumulation, fewer processes, or data.drop_last=true. Other ways out: model.batch_norm=frozen, "
        "model.batch_norm=sync with several GPUs, or an encoder or decoder without BatchNorm on pooled maps."
    )
