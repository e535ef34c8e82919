"""From samples to batches, which are equal for any number of processes and workers."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from mtlkit.data.children import Loader
from mtlkit.data.crossing import Crossing
from mtlkit.data.order import Key, Order, StepSampler
from mtlkit.data.samples import Samples
from mtlkit.seeding import seed_of


def train_loader(
    samples: Samples, order: Order, *, workers: int = 0, rank: int = 0, world: int = 1, accumulation: int = 1,
    start_step: int = 0
) -> DataLoader:  # fmt: skip
    """Returns one batch per optimizer step, without end: this rank's samples, one micro-batch after the other.

    A batch is a `Loaded` whose tensors have a batch axis of order.batch_size / world samples, or what becomes one on
    the device (`mtlkit.data.crossing`). `StepSampler` and `Samples` list the errors.
    """
    sampler = StepSampler(order, rank, world, accumulation, start_step)
    return _loader(samples, workers, batch_sampler=sampler)


def eval_loader(samples: Samples, batch_size: int, *, workers: int = 0, rank: int = 0, world: int = 1) -> DataLoader:
    """Returns this rank's share of a split, once and in order: batches rank, rank + world, ... of all batches.

    `batch_size` counts the samples of one process. Ranks may get different numbers of batches, also none.
    """
    # Without padding: repeated samples, as torch's DistributedSampler adds them, would count twice in the metrics.
    batches: Sequence[list[Key]] = [
        [(0, index) for index in range(start, min(start + batch_size, len(samples)))]
        for start in range(0, len(samples), batch_size)
    ]
    return _loader(samples, workers, batch_sampler=batches[rank::world])


def micro_batches(batch: dict[str, Any], accumulation: int) -> Iterator[dict[str, Any]]:
    """Yields the micro-batches of a batch of `train_loader`, each with its samples' part of every entry."""
    # One batch per step is loaded and cut here, so that a worker's batch is a whole step and a resume finds its place.
    size = len(batch["image"]) // accumulation
    for start in range(0, size * accumulation, size):
        rows = slice(start, start + size)
        part: dict[str, Any] = {}
        for key, values in batch.items():
            if key == "targets":
                part[key] = {name: target[rows] for name, target in values.items()}
            elif key == "moves":
                part[key] = tuple(one[rows] for one in values)
            else:
                part[key] = values if key == "finish" else values[rows]
        yield part


def _loader(samples: Samples, workers: int, **options: Any) -> DataLoader:
    crossing = Crossing(samples)
    return Loader(
        crossing,
        collate_fn=crossing.batch,
        num_workers=workers,
        persistent_workers=workers > 0,  # starting them anew at each evaluation takes seconds
        pin_memory=torch.cuda.is_available(),
        # Without a generator of its own, each start of an iteration would draw from torch's global one.
        generator=torch.Generator().manual_seed(seed_of(samples.seed)),
        **options,
    )
