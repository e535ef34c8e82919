"""The processes of a run: who they are, and what they agree on. With one process, nothing waits.

`mtlkit.sample_group` has the sums over processes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


def start() -> None:
    """Joins the processes that a launcher started. It works before the configuration of a run is known."""
    from accelerate.state import PartialState  # importing it takes seconds
    from accelerate.utils import parse_flag_from_env

    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def leave() -> None:
    """Leaves the processes that `start` joined. Afterwards, none of torch's threads for messages is left."""
    if world_size() > 1:
        distributed.destroy_process_group()


def world_size() -> int:
    """Returns the number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process; the main process has the number 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def broadcast_state(module: nn.Module) -> None:
    """Gives every process the main process's parameters and buffers."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            sent = where_processes_meet(tensor.detach())
            distributed.broadcast(sent, 0)
            tensor.detach().copy_(sent)


def where_processes_meet(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor where the processes can send it: NCCL sends no tensor of the host."""
    if tensor.device.type != "cpu" or "cpu" in distributed.get_backend_config():
        return tensor
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None, "a backend without a CPU belongs to an accelerator"
    return tensor.to(accelerator)


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
