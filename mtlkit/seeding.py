"""Random numbers in training: all of them depend only on the run's seed, no matter who draws them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mtlkit.distributed import rank

MODEL, ADAPTERS, BALANCER = range(3)


def seed_of(seed: int, *path: int) -> int:
    """Returns a seed for `path` (epoch, index, ...) that is independent of all other paths."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0] >> 1)


def seed_all(seed: int, device: torch.device) -> None:
    """Seeds torch, NumPy and Python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would also seed all GPUs, which is slow
    else:
        torch.manual_seed(seed)


class Turns:
    """Sets a new seed each time the turn to draw changes between the model (for dropout) and the balancer.

    The numbers depend only on the seed, the step, the micro-batch and the turn. So a balancer may draw any number of
    them, anywhere: the runs of all balancers have the same dropout, and a resumed run continues with the numbers that
    it would have had. The model's numbers differ between processes, because their samples differ. The balancer's
    numbers are the same on all processes, because its decisions must be the same.

    >>> def dropout(drawn):
    ...     turns = Turns(0, torch.device("cpu"))
    ...     turns.model(step=3)
    ...     with turns.adapters():
    ...         torch.rand(drawn)
    ...     return torch.rand(2)
    >>> torch.equal(dropout(drawn=0), dropout(drawn=10))
    True
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self._step, self._part = -1, 0

    def model(self, step: int) -> None:
        """Is called when the forward pass of a step's next micro-batch begins."""
        self._part = self._part + 1 if step == self._step else 0
        self._step = step
        self._begin(MODEL, rank())

    def balancer(self) -> None:
        """Is called when the forward pass is over."""
        self._begin(BALANCER, 0)

    @contextmanager
    def adapters(self) -> Iterator[None]:
        """Holds the balancer's part of the forward pass. After it, the model draws as if nothing had happened."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._begin(ADAPTERS, 0)
            yield

    def _begin(self, turn: int, process: int) -> None:
        seed_all(seed_of(self.seed, self._step, self._part, turn, process), self.device)
