"""The few collective operations that mtlkit needs besides those of DDP. With one process, they do nothing."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def start() -> None:
    """Joins the processes that a launcher started. It works before the configuration of a run is known."""
    from accelerate.state import PartialState  # importing it takes seconds
    from accelerate.utils import parse_flag_from_env

    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def world_size() -> int:
    """Returns the number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process; the main process has the number 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Returns the sum over processes of a detached copy. Every process must call it, with the same shape."""
    return add_over_ranks(tensor.detach().clone())


def add_over_ranks(tensor: Tensor) -> Tensor:
    """Does the same in place, for tensors that are too large to be copied."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def of_all_ranks(value: Tensor | float, local: Tensor) -> Tensor:
    """Returns `value`, which is equal on all processes, with the derivative of `local`, this process's part of it."""
    # The bracket is exactly 0. `local + (value - local)` would be rounded differently on every process. Methods make
    # weights of such values, and with different weights the processes' models drift apart.
    return value + (local - local.detach())


def join_over_ranks(tensor: Tensor) -> Tensor:
    """Returns the rows of all processes in order of rank. Every process must call it, with the same shape."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each `.grad` by its mean over processes. It is for the balancer's parameters, which DDP does not see."""
    # Which parameters have a gradient depends on the present tasks only. These are equal on all processes, and so is
    # the order of the collectives.
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(sum_over_ranks(parameter.grad) / world_size())


def average_local_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces each `.grad` by its mean over processes, unless a wrapper such as DDP did it already.

    Whether it did shows in the gradients: then they are equal on all processes. Gradients of which each process holds
    a part are left as they are.

    Raises:
        ValueError: the processes have gradients of different parameters. All processes raise it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or any(type(g) is not Tensor for g in gradients):
        return
    # A few numbers per process tell whether anything differs. Float64, or the sums would depend on more than the
    # gradients.
    facts = torch.zeros(4, dtype=torch.float64, device=gradients[0].device if gradients else None)
    for i, gradient in enumerate(gradients, start=1):
        exact = gradient.detach().double()
        facts += torch.stack([exact.sum(), exact.abs().sum(), exact.new_tensor(i * exact.numel()), exact.new_tensor(1)])
    table = join_over_ranks(facts[None])
    if bool((table[:, 2:] != table[0, 2:]).any()):
        raise ValueError(
            "The processes ran different heads in this step. This method gives each head its own weight, so all "
            "processes must run the same heads: give a task without labels the loss (sum, 0), or pass heads={...} to "
            "mtlkit.Balanced."
        )
    if bool((table != table[0]).any()):
        for gradient in gradients:
            gradient.copy_(sum_over_ranks(gradient) / world_size())


def average_buffers(module: nn.Module) -> None:
    """Replaces floating-point buffers by their mean over processes, in place.

    Batch-norm statistics of `batch_norm: local` differ between processes, but an evaluation needs one set. Numbers that
    are equal on all processes do not change: by rounding, the mean of three equal numbers is not always that number.
    """
    if world_size() > 1:
        # Only floating-point ones: counters such as `num_batches_tracked` are equal everywhere.
        for buffer in module.buffers():
            if buffer.is_floating_point():
                main = buffer.detach().clone()
                distributed.broadcast(main, 0)
                # Whether they differ must be decided by all together: this process may be equal to the main one.
                differs = sum_over_ranks((buffer != main).to(buffer.dtype)) > 0
                buffer.copy_(torch.where(differs, sum_over_ranks(buffer) / world_size(), main))


def broadcast_state(module: nn.Module) -> None:
    """Gives every process the main process's parameters and buffers."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor.detach(), 0)


def gather(value: object) -> list[object]:
    """Returns the values of all processes, in order of rank. They must be picklable."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def main_decides(work: Callable[[], T]) -> T:
    """Runs `work` on the main process only. All processes return its result or raise its exception.

    It is for decisions that depend on files which the main process writes: other processes could see such a file too
    early or too late. The result must be picklable.
    """
    found: T | None = None
    raised: Exception | None = None
    if rank() == 0:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must not wait for ever
            raised = error
    # Gathered and not broadcast: all processes wait for each other, so nobody reads files before `work` is done.
    found, raised = gather((found, raised))[0]  # type: ignore[misc]
    if raised is not None:
        raise raised
    return found  # type: ignore[return-value]


def check_whole_parameters(accelerator: "Accelerator", space: str, needs: Collection[str]) -> None:
    """Raises `ValueError` if a process holds only a part of the parameters but the balancer needs all of them."""
    kind = accelerator.distributed_type.value
    if kind not in ("FSDP", "DEEPSPEED"):
        return
    # With the features it works: their gradients are whole on every process (measured with FSDP2 and ZeRO 1 to 3).
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
    """Runs the block on the main process first, then on the others. After an error, no process waits for ever."""
    if rank() > 0:
        gather(None)  # waits for the main process's call below
    try:
        yield
    finally:
        if rank() == 0:
            gather(None)  # in `finally`, so that an error in the block lets the others go on, too
