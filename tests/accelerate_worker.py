"""Trains the network of `loops.py` with Accelerate and stores the results: in one process, or in two on half batches.

RANK=0 WORLD_SIZE=1 ... python tests/accelerate_worker.py OUT.pt
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parent))
from distributed_worker import share_of
from loops import Loop

METHODS = {
    "rotograd": {},
    "mgda": {},
    "uncertainty": {},
    "famo": {},
    "pcgrad": {"space": "parameters"},
    "dtp": {},  # takes indicators
}


def run(toys, method, options):
    loop = Loop(toys.make_engine(method, options=options), method, options)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    net, optimizer = accelerator.prepare(loop.net, loop.optimizer)
    loop.balanced.follow(optimizer)
    figures = []
    for number in range(10):
        batch = toys.make_batch(number)
        if number in (2, 5):  # the second process has no depth
            batch = toys.without(batch, "depth", slice(4, 8))
        for micro in range(2):
            with accelerator.accumulate(net):
                share = share_of(batch, micro, 2, accelerator.process_index, accelerator.num_processes)
                outputs, losses = loop.losses(share, forward=net)
                accelerator.backward(loop.balanced.loss(losses, **loop.extras(share, outputs)))
                optimizer.step()
                optimizer.zero_grad()
        figures.append(loop.balanced.scalars())
    return {"figures": figures, "state": loop.state()}


def main():
    import toys

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    found = {method: run(toys, method, options) for method, options in METHODS.items()}
    if int(os.environ["RANK"]) == 0:
        torch.save(found, sys.argv[1])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
