"""Ways to split a model over processes with FSDP2, directly by torch: Accelerate has it only for GPUs."""

from torch import nn
from torch.distributed.fsdp import fully_shard


def parts_of(model):
    """Returns the encoder, the heads and all, of an engine's model or of a loop's."""
    heads = model.decoders if hasattr(model, "decoders") else model.heads
    return model.encoder, *heads.values(), model


def by_root(model):
    fully_shard(model)


def by_parts(model):
    for part in parts_of(model):
        fully_shard(part)


def by_blocks(model):
    for part in list(model.modules()):
        if isinstance(part, nn.Conv2d | nn.Linear):
            fully_shard(part)
    fully_shard(model)
