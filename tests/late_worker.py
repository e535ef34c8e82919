"""Trains the toy with a late module in every case and stores the results. It runs in each of two processes.

RANK=0 WORLD_SIZE=2 ... python tests/late_worker.py OUT.pt
"""

import os
import sys
import warnings

import torch
from accelerate.utils import DistributedDataParallelKwargs
from distributed_worker import batch_of, share_of
from splits import by_parts
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

STEPS = 6
METHODS = {
    "uniform": ("uniform", {}),
    "cagrad": ("cagrad", {}),
    "cagrad_parameters": ("cagrad", {"space": "parameters"}),
    "gradnorm_last_layer": ("gradnorm", {"space": "last_layer"}),
    "graddrop": ("graddrop", {}),
    "rotograd": ("rotograd", {"lr": 1e-2}),
    "cosreg": ("cosreg", {"space": "features", "alpha": 2.0}),
    "famo": ("famo", {}),
    "sdmgrad": ("sdmgrad", {}),
}
CASES = {
    "missing_on_a_rank": {},
    "missing_everywhere": {},
    "accumulation": {"accumulation": 2},
    "weighted_decoders": {"accumulation": 2, "decoder_gradients": "weighted", "clip_norm": 0.05},
    "find_unused": {"ddp": {"find_unused_parameters": True}},
    "static_graph": {"ddp": {"static_graph": True}},
    "sharded": {"accumulation": 2},
}
#: DDP's static graph with accumulation is impossible.
RUNS = [
    *((name, "missing_on_a_rank") for name in METHODS),
    *((name, "missing_everywhere") for name in ("cagrad", "graddrop", "cosreg")),
    *((name, "accumulation") for name in ("cagrad_parameters", "famo", "cosreg")),
    *((name, case) for name in ("cagrad", "cagrad_parameters") for case in ("weighted_decoders", "find_unused")),
    *((name, case) for name in ("cagrad", "graddrop") for case in ("static_graph", "sharded")),
    *((name, "sharded") for name in ("famo", "cosreg", "cagrad_parameters", "gradnorm_last_layer")),
]


def run(toys, name, case):
    from mtlkit import distributed
    from mtlkit.sample_group import SampleGroup

    balancer, options = METHODS[name]
    trainer = dict(CASES[case])
    ddp = DistributedDataParallelKwargs(**trainer.pop("ddp")) if "ddp" in trainer else None
    sharded = case == "sharded" and distributed.world_size() > 1
    engine = toys.make_engine(
        balancer,
        options=options,
        optimizer="adamw",
        shard=by_parts if sharded else None,
        encoder=toys.ToyLateEncoder,
        ddp=ddp,
        **trainer,
    )
    assert all(isinstance(p, DTensor) for p in engine.network.parameters()) == sharded
    parts = trainer.get("accumulation", 1)
    losses = []
    for number in range(STEPS):
        batch = batch_of(toys, case, number)
        for part in range(parts):
            share = share_of(batch, part, parts, distributed.rank(), distributed.world_size())
            losses.append(dict(engine.train_step(share).raw_losses))
    state = {k: v.full_tensor() if sharded else v.clone() for k, v in engine.network.state_dict().items()}
    spread = [v - SampleGroup().sum(v) / distributed.world_size() for v in state.values()]
    return {"losses": losses, "state": state, "spread": max(float(v.abs().max()) for v in spread)}


def refusal(toys):
    """Returns the engine's message about a late part that FSDP wraps separately."""

    class Wrapped(toys.ToyLateEncoder):
        def __init__(self):
            super().__init__()
            fully_shard(self.late.mix)

    try:
        toys.make_engine("cagrad", encoder=Wrapped, shard=by_parts)
    except ValueError as error:
        return str(error)
    return "nothing"


def main():
    import toys

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    found = {key: run(toys, *key) for key in RUNS}
    found["refusal"] = refusal(toys)
    if os.environ["RANK"] == "0":
        torch.save(found, sys.argv[1])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
