"""Parameters of which each process holds only a part: FSDP2's shards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.optim import Optimizer

from mtlkit.balancer import Balancer
from mtlkit.distributed import world_size
from mtlkit.sample_group import SAME_SAMPLES, SampleGroup

if TYPE_CHECKING:  # importing it takes seconds
    from accelerate import Accelerator


class Shards:
    """The FSDP units of a model. Their parameters are whole only while they are in use.

    Args:
        encoder: the shared network (None: the loop did not tell it).
        others: modules with further units, such as the heads or the whole model.
    """

    def __init__(self, encoder: nn.Module | None = None, others: Sequence[nn.Module] = ()) -> None:
        self._encoder = encoder
        self._others = others

    @property
    def units(self) -> list[FSDPModule]:
        """All units. They are looked up each time: a loop may split its model later than it makes this object."""
        parts = [*self._others] if self._encoder is None else [self._encoder, *self._others]
        return list(dict.fromkeys(unit for part in parts for unit in _units(part)))

    def gather(self) -> None:
        """Makes the encoder's parameters whole on every process. FSDP splits them again after the backward pass."""
        assert self._encoder is not None, "only spaces that need the encoder ask for this"
        # A unit around the encoder may hold some of its parameters.
        around = [part for part in self._others if any(inner is self._encoder for inner in part.modules())]
        for unit in [*(part for part in around if isinstance(part, FSDPModule)), *_units(self._encoder)]:
            unit.unshard()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps all parameters whole after gradients that are computed within the block, for they are needed again."""
        # FSDP frees the whole parameters as soon as gradients were computed. The step's own backward pass comes later
        # and finds them freed; only after that pass they may go.
        units = self.units
        for unit in units:
            unit.set_reshard_after_backward(False, recurse=False)
        try:
            yield
        finally:
            for unit in units:
                unit.set_reshard_after_backward(True, recurse=False)


def _units(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def shard_of_sum(like: DTensor, local: Tensor) -> Tensor:
    """Returns this process's shard of the sum of the processes' `local` tensors, split as `like` is."""
    mesh = like.device_mesh
    parts = DTensor.from_local(local, mesh, [Partial()] * mesh.ndim, run_check=False)
    return parts.redistribute(mesh, like.placements).to_local()


def mesh_of(tensor: Tensor) -> DeviceMesh | None:
    """Returns the device mesh over which a tensor is split, or None: this process has all of it."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def whole(tensor: Tensor) -> Tensor:
    """Returns all of a tensor. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(parameter: Tensor) -> Tensor:
    """Returns what this process has of a parameter: its shard, or all of it."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def with_shard(like: DTensor, shard: Tensor) -> DTensor:
    """Returns the tensor split as `like` is, of which this process holds `shard`, flattened."""
    local = shard.view(like.to_local().shape)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def sum_over_shards(like: DTensor, tensor: Tensor) -> Tensor:
    """Returns the sum over the processes that hold different shards of `like`. Copies of a shard count once."""
    placements = [Partial() if isinstance(placement, Shard) else placement for placement in like.placements]
    return DTensor.from_local(tensor, like.device_mesh, placements, run_check=False).full_tensor()


def prepare(accelerator: "Accelerator", model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """Returns model and optimizer as the accelerator prepares them.

    A model that was split with `fully_shard` or `parallelize_module` stays as it is: the accelerator would wrap it once
    more, in DDP.
    """
    if not is_split(model):
        both: tuple[nn.Module, Any] = accelerator.prepare(model, optimizer)
        return both
    # The mode for evaluations wraps nothing; the precision is as in training.
    return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)


def is_split(module: nn.Module) -> bool:
    """Returns whether this process holds only a part of some parameters of the module.

    While they are in use, FSDP has whole ones in the module. They count as split.
    """
    return bool(_units(module)) or any(isinstance(parameter, DTensor) for parameter in module.parameters())


def split_again(module: nn.Module) -> None:
    """Puts the shards back into the module. After a forward pass without gradients, FSDP leaves whole parameters."""
    for unit in _units(module):
        unit.reshard()


def check_launcher(kind: str, balancer: Balancer) -> None:
    """Raises `ValueError` if a launcher splits the parameters in a way that the balancer cannot work with.

    `kind` is Accelerate's name for it; `FSDP` is its first version, which hides the parameters in flat ones.
    """
    if kind not in ("FSDP", "DEEPSPEED"):
        return
    # With the features it works: their gradients are whole on every process (measured with FSDP2 and ZeRO 1 to 3).
    name = {"FSDP": "FSDP 1"}.get(kind, kind)
    ways = "launch with plain data parallelism (--multi_gpu) or with fsdp_version: 2"
    if balancer.space != "features":
        raise ValueError(
            f"balancer.space={balancer.space} needs the gradients of single parameters, and {name} hides them. Take "
            f"balancer.space=features, or {ways}."
        )
    if "create_graph" in balancer.needs:
        raise ValueError(
            f"{type(balancer).__name__} differentiates gradients once more, which takes the decoders' whole "
            f"parameters, and {name} has freed them by then. Take another balancer, or {ways}."
        )


def check_split(encoder: nn.Module, balancer: Balancer, samples: SampleGroup) -> None:
    """Raises `ValueError` if the balancer cannot work with an encoder whose parameters are split as they are.

    It reads gradients of parameters, and no process has all of them, or they are split along more than the samples. Or
    several processes have the same samples, and nobody said which.
    """
    split = [parameter for parameter in encoder.parameters() if isinstance(parameter, DTensor)]
    names = {name for parameter in split for name in parameter.device_mesh.mesh_dim_names or ()}
    if samples.size == world_size() > 1 and (same := sorted(names.intersection(SAME_SAMPLES))):
        raise ValueError(
            f"The encoder is split along {', '.join(same)}, where processes have the same samples; they would be "
            f"counted several times. Pass the other dimensions of the device mesh, such as mesh=mesh['dp']."
        )
    if not split or balancer.space == "features":
        return
    who = f"{type(balancer).__name__} with balancer.space={balancer.space}"
    other = "balancer.space=features" if "features" in balancer.spaces else "another balancer"
    ways = f"Take {other}, or launch with plain data parallelism (DDP)."
    if balancer.space == "parameters" and "jacobian" in balancer.needs:
        raise ValueError(
            f"{who} reads the whole gradients of the encoder, and FSDP leaves each process only a part of them. {ways}"
        )
    layouts = {(parameter.device_mesh, tuple(parameter.placements)) for parameter in split}
    for _, placements in layouts:
        if not all(isinstance(p, Replicate) for p in placements[:-1]) or type(placements[-1]) is not Shard:
            raise ValueError(
                f"{who} takes parameters that FSDP2 splits along one dimension of the mesh; here some are split as "
                f"{placements}, as with tensor parallelism. {ways}"
            )
    if len({mesh for mesh, _ in layouts}) > 1:
        raise ValueError(f"{who}: the encoder's parameters are split over several device meshes. Use one. {ways}")
