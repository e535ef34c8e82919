"""The sample group: the processes that have different samples."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from mtlkit.distributed import rank, where_processes_meet, world_size

#: Dimensions of a mesh along which processes have the same samples: the names that torch and Accelerate use.
SAME_SAMPLES = ("tp", "sp", "pp", "ep")


class SampleGroup:
    """The processes over which samples differ. All sums over processes and all divisions by their number use it.

    Under data parallelism (DDP, FSDP2, HSDP) these are all processes. Under tensor parallelism, several processes work
    on the same samples; a sum over all processes would count each sample once per copy. Then the group is a part of a
    device mesh: `mesh["dp"]`, or `mesh["dp", "cp"]` with context parallelism, which splits each sample.

    Args:
        mesh: its processes are those of all its dimensions. None: all processes.

    Raises:
        ValueError: a dimension of the mesh has the same samples everywhere, or this process is not in the mesh.

    >>> group = SampleGroup()
    >>> group.size, group.rank, group.sum(torch.ones(2)).tolist()
    (1, 0, [1.0, 1.0])
    """

    def __init__(self, mesh: DeviceMesh | None = None) -> None:
        self._mesh = mesh
        if mesh is not None:
            _check(mesh)

    def __deepcopy__(self, memo: Any) -> "SampleGroup":
        return self  # a copy of a model works in the same processes

    @property
    def size(self) -> int:
        """The number of processes in the group."""
        return world_size() if self._mesh is None else self._mesh.size()

    @property
    def rank(self) -> int:
        """The number of this process in the group."""
        if self._mesh is None:
            return rank()
        found = 0
        for place, length in zip(self._mesh.get_coordinate() or (), self._mesh.shape, strict=True):
            found = found * length + place
        return found

    # One collective per dimension of the mesh: what was summed along the first one is summed along the next.
    @property
    def _groups(self) -> list[distributed.ProcessGroup | None]:
        if self._mesh is None:
            return [None]
        return [self._mesh.get_group(dimension) for dimension in range(self._mesh.ndim)]

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over the group of a detached copy. Every process must call it, with the same shape."""
        copy = tensor.detach().clone()
        return copy if self.size == 1 else self.add(where_processes_meet(copy)).to(tensor.device)

    def add(self, tensor: Tensor) -> Tensor:
        """Does the same in place, for tensors that are too large to be copied."""
        if self.size > 1:
            for group in self._groups:
                distributed.all_reduce(tensor, group=group)
        return tensor

    def join(self, tensor: Tensor) -> Tensor:
        """Returns the rows of all processes in order of rank. Every process must call it, with the same shape."""
        tensor, home = tensor.detach(), tensor.device
        if self.size > 1:
            tensor = where_processes_meet(tensor)
            for group in reversed(self._groups):  # the last dimension counts fastest
                parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
                distributed.all_gather(parts, tensor.contiguous(), group=group)
                tensor = torch.cat(parts)
        return tensor.to(home)

    def texts(self, text: str, device: torch.device) -> list[str]:
        """Returns the texts of all processes in order of rank. Every process must call it."""
        own = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        lengths = self.join(torch.tensor([len(own)], device=device)).tolist()
        rows = self.join(nn.functional.pad(own, (0, max(lengths) - len(own)))[None]).tolist()
        return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each `.grad` by its mean over the group: for the balancer's parameters, which DDP does not see."""
        # Which parameters have a gradient depends on the present tasks only. These are equal on all processes, and so
        # is the order of the collectives.
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        numbers = [gradient for gradient in gradients if not gradient.dim()]
        for gradient in gradients:
            if gradient.dim():
                gradient.copy_(self.sum(gradient) / self.size)
        if numbers:  # together: one collective, and not one per task
            means = self.sum(torch.stack([number.double() for number in numbers])) / self.size
            for number, mean in zip(numbers, means, strict=True):
                number.copy_(mean)

    def average_local_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each `.grad` by its mean over the group, unless a wrapper such as DDP did it already.

        Whether it did shows in the gradients: then they are equal on all processes. Gradients of which each process
        holds a part are left as they are.

        Raises:
            ValueError: the processes have gradients of different parameters. All processes raise it.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or any(type(g) is not Tensor for g in gradients):
            return
        # A few numbers per process tell whether anything differs. Float64, or the sums would depend on more than the
        # gradients.
        facts = torch.zeros(4, dtype=torch.float64, device=gradients[0].device if gradients else None)
        for i, gradient in enumerate(gradients, start=1):
            exact = gradient.detach().double()
            facts += torch.stack(
                [exact.sum(), exact.abs().sum(), exact.new_tensor(i * exact.numel()), exact.new_tensor(1)]
            )
        table = self.join(facts[None])
        if bool((table[:, 2:] != table[0, 2:]).any()):
            raise ValueError(
                "The processes ran different heads in this step. This method gives each head its own weight, so all "
                "processes must run the same heads: give a task without labels the loss (sum, 0), or pass heads={...} "
                "to mtlkit.Balanced."
            )
        if bool((table != table[0]).any()):
            for gradient in gradients:
                gradient.copy_(self.sum(gradient) / self.size)

    def average_buffers(self, module: nn.Module) -> None:
        """Replaces floating-point buffers by their mean over the group, in place.

        Batch-norm statistics of `batch_norm: local` differ between processes, but an evaluation needs one set. Numbers
        that are equal on all processes do not change: by rounding, the mean of three equal numbers is not always that
        number.
        """
        if self.size == 1:
            return
        # Only floating-point ones: counters such as `num_batches_tracked` are equal everywhere.
        for buffer in module.buffers():
            if buffer.is_floating_point():
                main = self.sum(buffer if self.rank == 0 else torch.zeros_like(buffer))
                # Whether they differ must be decided by all together: this process may be equal to the main one.
                differs = self.sum((buffer != main).to(buffer.dtype)) > 0
                buffer.copy_(torch.where(differs, self.sum(buffer) / self.size, main))


def of_all_ranks(value: Tensor | float, local: Tensor) -> Tensor:
    """Returns `value`, which is equal on all processes, with the derivative of `local`, this process's part of it."""
    # The bracket is exactly 0. `local + (value - local)` would be rounded differently on every process. Methods make
    # weights of such values, and with different weights the processes' models drift apart.
    return value + (local - local.detach())


def _check(mesh: DeviceMesh) -> None:
    if not isinstance(mesh, DeviceMesh):
        raise ValueError(f"The mesh must be a torch.distributed.device_mesh.DeviceMesh, got {type(mesh).__name__}.")
    names = mesh.mesh_dim_names or ()
    same = [name for name in names if name in SAME_SAMPLES]
    if same:
        others = [name for name in names if name not in SAME_SAMPLES] or ["dp"]
        raise ValueError(
            f"The mesh must have only dimensions over which samples differ. Along {', '.join(same)}, processes have "
            f"the same samples, which would be counted several times. Pass mesh[{', '.join(map(repr, others))}]."
        )
    if mesh.get_coordinate() is None:
        raise ValueError(f"This process (rank {rank()}) is not in the mesh {mesh}. Pass a mesh of which it is a part.")
