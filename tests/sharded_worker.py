"""Trains the toy with its parameters split over processes, and a plain loop beside it. Stores how far they are apart.

RANK=0 WORLD_SIZE=2 ... python tests/sharded_worker.py OUT.json short|LAYOUT
"""

import copy
import functools
import importlib.util
import itertools
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin, GradientAccumulationPlugin
from splits import by_blocks, by_parts, by_root, mesh_of, parts_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from mtlkit import BALANCERS, distributed
from mtlkit.run import checkpoint

STEPS = 4
ADAMW = {"optimizer": "adamw", "optimizer_options": {"foreach": False}}
SAMPLES = 8


def methods():
    """Returns every balancer in every space, where it can work with shards."""
    for name in BALANCERS.names():
        cls = BALANCERS.get(name)
        if name == "torchjd" and importlib.util.find_spec(name) is None:
            continue  # an optional package that is not installed
        for space in cls.spaces:
            if space == "parameters" and "jacobian" in cls.needs:
                continue  # is refused
            yield name, space


def hybrid(model):
    mesh = mesh_of(replicate=2, shard=2)
    for part in parts_of(model):
        fully_shard(part, mesh=mesh)


class Tensorwise:
    """FSDP2 along one dimension of a mesh and tensor parallelism along the other."""

    def __init__(self):
        self.whole = mesh_of(dp=2, tp=2)
        self.mesh = self.whole["dp"]

    def __call__(self, model):
        parallelize_module(model.encoder, self.whole["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        for part in parts_of(model):
            fully_shard(part, mesh=self.mesh)


def make_wide_encoder(toys):
    class Wide(toys.ToyEncoder):
        """Has two linear layers, which tensor parallelism can split."""

        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, image):
            fine = torch.tanh(self.first(image))
            fine = fine + self.down(torch.tanh(self.up(fine.movedim(1, -1)))).movedim(-1, 1)
            return [fine, torch.tanh(self.second(fine))]

    return Wide


LAYOUTS = {2: ["root", "parts", "blocks", "accelerate"], 4: ["parts", "hybrid", "tensorwise"]}
#: What `make test` has of these: every layout, every space, and every kind of method.
SHORT = {
    2: [
        ("cagrad", "features", "root", 1),
        ("mgda", "features", "root", 2),  # gives the heads weights
        ("rotograd", "features", "blocks", 2),
        ("uncertainty", "features", "parts", 1),
        ("famo", "features", "root", 1),  # runs the model twice
        ("cosreg", "features", "parts", 1),  # differentiates gradients
        ("cosreg", "last_layer", "blocks", 1),
        ("gradnorm", "last_layer", "root", 1),
        ("cagrad", "parameters", "root", 1),
        ("nash", "parameters", "blocks", 2),
        ("sdmgrad", "parameters", "parts", 1),  # takes the batch in halves
        ("mgda", "parameters", "accelerate", 2),
    ],
    4: [
        ("rotograd", "features", "tensorwise", 1),
        ("cosreg", "features", "tensorwise", 1),
        ("mgda", "features", "hybrid", 1),
        ("cagrad", "parameters", "hybrid", 1),
    ],
}


def make_with_accelerate(toys, *given, **made):
    """Makes an engine with Accelerate's FSDP2. Accelerate has it for GPUs only, so it is told that this is one."""
    make, state = toys.make_accelerator, PartialState()

    def launched(config):
        make(config)
        AcceleratorState._reset_state()
        state.distributed_type = DistributedType.MULTI_GPU  # `run` takes it back
        return Accelerator(
            fsdp_plugin=FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=["ToyEncoder", "ToyMap", "ToyVector"],
            ),
            gradient_accumulation_plugin=GradientAccumulationPlugin(config.accumulation, sync_with_dataloader=False),
            step_scheduler_with_optimizer=False,
        )

    toys.make_accelerator = launched
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    try:
        return toys.make_engine(*given, **made)
    finally:
        toys.make_accelerator = make
        del os.environ["ACCELERATE_USE_FSDP"], os.environ["FSDP_VERSION"]


def cases(world, layout):
    """Returns (method, space, layout, number of micro-batches), for one layout or the short list."""
    if layout == "short":
        return SHORT[world]
    return [
        (method, space, layout, micro)
        for (method, space), micro in itertools.product(methods(), (1, 2))
        if layout != "tensorwise" or space == "features"  # other spaces are refused
    ]


def batch_of(toys, number):
    """Returns a batch with unequal counts; depth is missing in some rows of it, or in all."""
    batch = toys.make_batch(number)
    if number == 1:
        return toys.without(batch, "depth", slice(4, 8))
    return toys.without(batch, "depth") if number == 2 else batch


def rows_of(part, micro, rank, world):
    size = SAMPLES // (micro * world)
    start = (part * world + rank) * size
    return slice(start, start + size)


def cut(batch, rows):
    return {"image": batch["image"][rows], "targets": {name: t[rows] for name, t in batch["targets"].items()}}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def distance(a, b):
    return float((a - b).abs().max() / max(float(b.abs().max()), 1.0)) if b.numel() else 0.0


def in_doubles(batch):
    targets = {n: t.double() if t.is_floating_point() else t for n, t in batch["targets"].items()}
    return {"image": batch["image"].double(), "targets": targets}


def run(toys, plain_loop, loops, method, space, layout, micro):
    """Returns how far the engine and a loop with `Balanced` are apart from a plain loop in one process."""
    dist = torch.distributed
    PartialState().distributed_type = DistributedType.MULTI_CPU
    options = {"space": space} if len(BALANCERS.get(method).spaces) > 1 else {}
    tensorwise = Tensorwise() if layout == "tensorwise" else None
    shard = tensorwise or {"root": by_root, "parts": by_parts, "blocks": by_blocks, "hybrid": hybrid}.get(layout)
    mesh = tensorwise and tensorwise.mesh
    made = {"options": options, "encoder": make_wide_encoder(toys) if tensorwise else None}
    made |= {"accumulation": micro} | ADAMW
    place, places = (dist.get_rank(), dist.get_world_size()) if mesh is None else (mesh.get_local_rank(), mesh.size())
    share = functools.partial(rows_of, micro=micro, rank=place, world=places)

    start = toys.make_engine(method, **made)  # it gives the start values and is not trained
    network, balancer = copy.deepcopy(start.network), copy.deepcopy(start.balancer)
    plain = plain_loop.PlainLoop(network, balancer, start.tasks, start.config)
    if layout == "accelerate":
        engine = make_with_accelerate(toys, method, **made)
    else:
        engine = toys.make_engine(method, **made, shard=shard, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in engine.network.parameters())
    loop = None
    refused = layout == "root" and "create_graph" in balancer.needs
    if layout != "accelerate" and not refused:
        loop = loops.Loop(start, method, options, tell_heads=True, shard=shard, mesh=mesh)

    for number in range(STEPS):
        batch = batch_of(toys, number)
        for part in range(micro):
            engine.train_step(cut(batch, share(part)))
        if loop is not None:
            loop.step(*(cut(batch, share(part)) for part in range(micro)))
        size = SAMPLES // micro
        plain.step([in_doubles(cut(batch, slice(p * size, (p + 1) * size))) for p in range(micro)])

    expected = dict(network.state_dict())
    expected |= {f"balancer.{k}": v for k, v in balancer.state_dict().items()}
    found = {"moved": max(distance(v, start.network.state_dict()[k]) for k, v in network.state_dict().items())}
    states = {"engine": loops.engine_state(engine)} | ({} if loop is None else {"loop": loop.state()})
    for name, state in states.items():
        assert state.keys() == expected.keys()
        found[name] = max(distance(whole(v).double(), expected[k].double()) for k, v in state.items())
    return found


def refusals(toys, loops):
    """Returns the messages about what cannot work, by a word for each."""
    tensorwise = Tensorwise() if torch.distributed.get_world_size() == 4 else None
    mesh = mesh_of(dp=torch.distributed.get_world_size(), tp=1)
    calls = {
        "jacobian": lambda: toys.make_engine("moco", shard=by_parts),
        "mesh": lambda: toys.make_engine("cagrad", shard=by_parts, mesh=mesh),
        "heads": lambda: loops.Loop(toys.make_engine("cosreg"), "cosreg", shard=by_root),
        "loop": lambda: loops.Loop(toys.make_engine("moco"), "moco", shard=by_parts),
        "ema": lambda: toys.make_engine("uniform", shard=by_parts, ema=0.9),
    }
    if tensorwise is not None:
        space = {"options": {"space": "parameters"}, "encoder": make_wide_encoder(toys)}
        calls = {
            "tensorwise": lambda: toys.make_engine("cagrad", **space, shard=tensorwise, mesh=tensorwise.mesh),
            "no mesh": lambda: toys.make_engine("cagrad", encoder=space["encoder"], shard=tensorwise),
        }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            found[name] = str(error)
    return found


def train(toys, engine, steps):
    """Trains on this process's part of the batches, and looks at the model without gradients, as an evaluation does."""
    rank, world = distributed.rank(), distributed.world_size()
    for number in range(engine.step, engine.step + steps):
        engine.train_step(cut(toys.make_batch(number), rows_of(0, 1, rank, world)))
    with torch.no_grad():  # leaves whole parameters in the modules
        engine.network(toys.make_batch()["image"].double())


def resumes(toys, folder):
    """Saves a split model after two steps and again after four, and goes on with another split in between."""
    engine = toys.make_engine("nash", **ADAMW, shard=by_parts)
    train(toys, engine, 2)
    checkpoint.save_checkpoint(engine, folder / "two")
    second = toys.make_engine("nash", **ADAMW, shard=by_root)
    checkpoint.load_checkpoint(second, folder / "two")
    train(toys, second, 2)
    checkpoint.save_checkpoint(second, folder / "four")


def main():
    import loops
    import plain_loop
    import toys

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)  # torch 2.10 about its own code
    torch.set_num_threads(1)
    toys.make_engine()  # joins the processes
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    chosen = cases(world, sys.argv[2])
    found = {"/".join(map(str, case)): run(toys, plain_loop, loops, *case) for case in chosen}
    PartialState().distributed_type = DistributedType.MULTI_CPU
    if rank == 0:
        Path(sys.argv[1]).write_text(json.dumps({"cases": found, "refusals": refusals(toys, loops)}))
    else:
        refusals(toys, loops)
    resumes(toys, Path(f"{sys.argv[1]}.checkpoints"))
    torch.distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # all is written; torch's threads may abort a process with several meshes while Python ends


if __name__ == "__main__":
    main()
