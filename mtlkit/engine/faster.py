"""The same numbers, up to rounding, in less time: `trainer.compile` and `model.channels_last`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from mtlkit.balancer import Balancer
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.model import MultiTaskModel

BACKEND = "inductor"  #: what makes the code; tests take one that needs no compiler for C++
VERSIONS = 8  #: of the code of one part, such as for the smaller last batch; torch's own limit for one function


def check_compilable(balancer: Balancer) -> None:
    """Raises `ValueError` if the balancer cannot work with compiled networks."""
    if "create_graph" in balancer.needs:
        raise ValueError(
            f"trainer.compile: {type(balancer).__name__} differentiates gradients once more, and torch cannot "
            f"differentiate compiled code twice. Set trainer.compile=false, or take another balancer."
        )


def set_channels_last(model: MultiTaskModel) -> None:
    """Keeps maps and kernels in memory with the channels last, at which the kernels of many GPUs are faster."""
    model.to(memory_format=torch.channels_last)
    model.channels_last = True


def set_up(model: MultiTaskModel, balancer: Balancer, config: TrainerConfig, accelerator: Accelerator) -> None:
    """Compiles the model if the configuration says so. The accelerator must not have prepared it yet.

    Raises:
        ValueError: the balancer, the launcher or this machine cannot work so.
    """
    if model.channels_last and accelerator.distributed_type.value == "FSDP":
        raise ValueError(
            "model.channels_last: FSDP splits kernels only in torch's usual layout. Set model.channels_last=false, or "
            "launch with plain data parallelism (--multi_gpu)."
        )
    if config.compile:
        check_compilable(balancer)
        _check_compiler(accelerator.device)
        _compile(model, balancer)


def _compile(model: MultiTaskModel, balancer: Balancer) -> None:
    """Compiles the encoder and each decoder for training. The balancer stays outside, as it works between them.

    The names of parameters stay as they are. The code is made in the first step. Evaluations and predictions run
    without it: their images have many sizes, and each would be compiled anew.
    """
    import torch._dynamo.config as limits  # importing them takes seconds, and only these runs need them
    import torch._functorch.config as backward

    if balancer.space != "features":  # such a step goes backward through the encoder several times
        backward.donated_buffer = False
    parts = [model.encoder, *model.decoders.values()]
    # All parts together are one function for torch. It would stop to compile, without a word, after a few of them.
    most = VERSIONS * len(parts)
    limits.recompile_limit = max(limits.recompile_limit, most)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, most)
    for part in parts:
        part.compile(backend=BACKEND)
    model.compiled = True


def _check_compiler(device: torch.device) -> None:
    """Compiles a tiny function: a missing compiler would otherwise stop the run in its first step, in torch's words."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        torch.compile(torch.sin, backend=BACKEND)(torch.ones(2, device=device, requires_grad=True)).sum().backward()
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"trainer.compile: torch.compile does not work on this machine ({reason}). It needs a C++ compiler (g++), "
            f"and on a GPU Triton. Install what is missing, or set trainer.compile=false."
        ) from error


@contextmanager
def uncompiled(model: MultiTaskModel) -> Iterator[None]:
    """Runs the model without compiled code in the block, if it has any."""
    if not model.compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
