"""The few collectives that mtlkit needs beyond those of DDP. With one process each of them does nothing."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def start() -> None:
    """Joins the processes that a launcher started, before the configuration of a run is known."""
    from accelerate.state import PartialState  # importing it takes seconds
    from accelerate.utils import parse_flag_from_env

    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, 0 for the main one."""
    return distributed.get_rank() if world_size() > 1 else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over processes of a detached copy; every process must call it with the same shape."""
    return add_over_ranks(tensor.detach().clone())


def add_over_ranks(tensor: Tensor) -> Tensor:
    """The same in place, for what is too large to be copied."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def of_all_ranks(value: Tensor | float, local: Tensor) -> Tensor:
    """Returns `value`, which is equal on all processes, with the derivative of `local`, this process's part of it."""
    # The bracket is exactly 0. `local + (value - local)` would be rounded differently on every process. Methods make
    # weights of such values, and with different weights the processes' models drift apart.
    return value + (local - local.detach())


def join_over_ranks(tensor: Tensor) -> Tensor:
    """The rows of all processes in order of rank; every process must call it with the same shape."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each `.grad` by its mean over processes (those that DDP does not see: the balancer's)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(sum_over_ranks(parameter.grad) / world_size())


def average_buffers(module: nn.Module) -> None:
    """Replaces floating-point buffers by their mean over processes, in place.

    Batch-norm statistics of `batch_norm: local` differ between processes; an evaluation needs one set. What is the same
    on all of them stays as it is: the mean of three equal numbers is not always that number, by rounding.
    """
    if world_size() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                main = buffer.detach().clone()
                distributed.broadcast(main, 0)
                differs = sum_over_ranks((buffer != main).to(buffer.dtype)) > 0
                buffer.copy_(torch.where(differs, sum_over_ranks(buffer) / world_size(), main))


def broadcast_state(module: nn.Module) -> None:
    """Gives every process the main process's parameters and buffers."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor.detach(), 0)


def gather(value: object) -> list[object]:
    """The values of all processes, in order of rank; they must be picklable."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def main_decides(work: Callable[[], T]) -> T:
    """What `work()` gives on the main process, which alone runs it, on all of them; or the exception that it raised.

    For whatever hangs on files that the main process writes: the others could see them too early or too late. The
    result must be picklable.
    """
    found: T | None = None
    raised: Exception | None = None
    if rank() == 0:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must not wait for ever
            raised = error
    found, raised = gather((found, raised))[0]  # type: ignore[misc]
    if raised is not None:
        raise raised
    return found  # type: ignore[return-value]


def check_whole_parameters(accelerator: "Accelerator", space: str, needs: Collection[str]) -> None:
    """Raises `ValueError` where a process holds a part of the parameters only and the balancer needs them all."""
    kind = accelerator.distributed_type.value
    if kind not in ("FSDP", "DEEPSPEED"):
        return
    if space != "features":
        raise ValueError(
            f"balancer.space={space} needs the encoder's whole parameters on every process, and {kind} may split them. "
            f"Take balancer.space=features, or launch with plain data parallelism (--multi_gpu)."
        )
    if "create_graph" in needs:
        raise ValueError(
            f"This balancer differentiates gradients once more, which takes the decoders' whole parameters, and {kind} "
            f"has freed them by then. Take another balancer, or launch with plain data parallelism (--multi_gpu)."
        )


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before the others do; an error in it leaves nobody waiting."""
    if rank() > 0:
        gather(None)
    try:
        yield
    finally:
        if rank() == 0:
            gather(None)
