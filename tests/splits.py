"""Ways to split a model over processes with FSDP2, directly by torch: Accelerate has it only for GPUs."""

import functools

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


@functools.cache
def mesh_of(**sizes):
    """Returns the mesh with these dimensions, always the same one: every mesh has threads that nothing ends."""
    return init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def whole():
    """Returns the mesh of all processes."""
    return mesh_of(shard=dist.get_world_size())


def parts_of(model):
    """Returns the encoder, the heads and all, of an engine's model or of a loop's."""
    heads = model.decoders if hasattr(model, "decoders") else model.heads
    return model.encoder, *heads.values(), model


def by_root(model):
    fully_shard(model, mesh=whole())


def by_parts(model):
    for part in parts_of(model):
        fully_shard(part, mesh=whole())


def by_blocks(model):
    for part in list(model.modules()):
        if isinstance(part, nn.Conv2d | nn.Linear):
            fully_shard(part, mesh=whole())
    fully_shard(model, mesh=whole())
