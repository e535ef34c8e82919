"""Trains a plain loop with `mtlkit.Balanced` in every case and stores the results. One process, or two with DDP.

RANK=0 WORLD_SIZE=2 ... python tests/balanced_worker.py OUT.pt
"""

import contextlib
import sys
import warnings

import torch
from distributed_worker import batch_of, share_of
from loops import Loop
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mtlkit import Balanced

STEPS = 6
METHODS = {
    "uniform": ("uniform", {}),
    "rotograd": ("rotograd", {"lr": 1e-2}),
    "mgda": ("mgda", {}),
    "gradnorm": ("gradnorm", {}),
    "gradnorm_last_layer": ("gradnorm", {"space": "last_layer"}),
    "uncertainty": ("uncertainty", {}),
    "cagrad_parameters": ("cagrad", {"space": "parameters"}),
    "nash_parameters": ("nash", {"space": "parameters"}),
    "cosreg": ("cosreg", {"space": "features", "alpha": 2.0}),
    "famo": ("famo", {}),
    "dtp": ("dtp", {}),
    "graddrop": ("graddrop", {}),
}
#: Options of DDP. `micro` counts micro-batches, all but the last under `no_sync`. `skips`: a process without labels of
#: a task does not run its head.
CASES = {
    "missing_on_a_rank": {},
    "missing_everywhere": {},
    "accumulation": {"micro": 2},
    "bucket_view": {"micro": 2, "gradient_as_bucket_view": True},
    "find_unused": {"find_unused_parameters": True},
    "skipped_heads": {"find_unused_parameters": True, "skips": True},
    "static_graph": {"static_graph": True},
    "separate": {"micro": 2, "separate": True},
}
RUNS = [
    *((name, case) for name in METHODS for case in ("missing_on_a_rank", "accumulation")),
    *(
        (name, case)
        for name in ("uniform", "mgda", "rotograd", "cosreg")
        for case in ("missing_everywhere", "bucket_view")
    ),
    *((name, case) for name in ("rotograd", "mgda", "uncertainty") for case in ("find_unused", "skipped_heads")),
    *((name, case) for name in ("rotograd", "mgda", "cagrad_parameters") for case in ("static_graph", "separate")),
]


def wrapped(loop, separate=False, **options):
    """Wraps the loop's modules in DDP and returns the contexts without synchronisation."""
    if separate:  # encoder and heads on their own
        loop.net.encoder = DistributedDataParallel(loop.net.encoder, **options)
        for name, head in loop.net.heads.items():
            loop.net.heads[name] = DistributedDataParallel(head, **options)
        parts = [loop.net.encoder, *loop.net.heads.values()]
        return loop.net, parts
    net = DistributedDataParallel(loop.net, **options)
    return net, [net]


def run(toys, name, case):
    method, options = METHODS[name]
    given = dict(CASES[case])
    micro, skips = given.pop("micro", 1), given.pop("skips", False)
    world, rank = dist.get_world_size(), dist.get_rank()
    loop = Loop(toys.make_engine(method, options=options, optimizer="adamw"), method, options, tell_heads=skips)
    net, parts = wrapped(loop, **given) if world > 1 else (loop.net, [])
    values = []
    for number in range(STEPS):
        batch = batch_of(toys, "missing_on_a_rank" if skips or "unused" in case else case, number)
        for part in range(micro):
            share = share_of(batch, part, micro, rank, world)
            names = None
            if skips and not (share["targets"]["depth"] > 0).any():
                names = [n for n in loop.tasks if n != "depth"]
            with contextlib.ExitStack() as waiting:
                if part < micro - 1:
                    for module in parts:
                        waiting.enter_context(module.no_sync())
                outputs, losses = loop.losses(share, names, forward=net)
                loss = loop.balanced.loss(losses, **loop.extras(share, outputs))
                (loss / micro).backward()
            values.append(loss.item())
        loop.optimizer.step()
        # With bucket views, gradients that are set to zero stay views of memory that DDP writes to.
        loop.optimizer.zero_grad(set_to_none=case != "bucket_view")
    state = {key.replace("module.", ""): value.clone() for key, value in loop.state().items()}
    spread = 0.0
    for value in state.values():
        mean = value.double().clone()
        dist.all_reduce(mean)
        spread = max(spread, float((mean / world - value.double()).nan_to_num().abs().max()))
    return {"losses": values, "state": state, "spread": spread}


def refusal(toys):
    """Returns the message where the processes ran different heads, and nobody told the heads of a weighted method."""
    loop = Loop(toys.make_engine("mgda"), "mgda")
    net = DistributedDataParallel(loop.net, find_unused_parameters=True)
    names = None if dist.get_rank() == 0 else ["segmentation", "attributes"]
    _, losses = loop.losses(toys.make_batch(0), names, forward=net)
    try:
        loop.balanced.loss(losses).backward()
    except ValueError as error:
        return str(error)
    return ""


def disagreements():
    """Returns the messages where the processes passed other arguments to `Balanced`."""
    rank, messages = dist.get_rank(), []
    for given in (
        {"seed": rank},
        {"alpha": 1.0 + rank},
        {"method": ("uniform", "gradnorm")[rank]},
        {"tasks": "abc"[: 2 + rank]},
    ):
        words = {"method": "gradnorm", "tasks": "ab"} | given
        balanced = Balanced(words.pop("method"), tasks=tuple(words.pop("tasks")), **words)
        z = balanced(torch.rand(4, 3, requires_grad=True))
        try:
            balanced.loss({name: z[name].square().mean() for name in z})
        except ValueError as error:
            messages.append(str(error))
    return messages


if __name__ == "__main__":
    import toys

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*static_graph.*")
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    found = {run_: run(toys, *run_) for run_ in RUNS}
    if dist.get_world_size() > 1:
        found["refusal"] = refusal(toys)
        found["disagreements"] = disagreements()
    if dist.get_rank() == 0:
        torch.save(found, sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()
