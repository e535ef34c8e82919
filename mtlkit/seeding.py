"""Random numbers in training: whoever draws them, they are a function of the run's seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mtlkit.distributed import rank

MODEL, ADAPTERS, BALANCER = range(3)


def seed_of(seed: int, *path: int) -> int:
    """A seed for `path` (epoch, index, ...) that is independent of all others."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0] >> 1)


def seed_all(seed: int, device: torch.device) -> None:
    """Seeds torch, NumPy and Python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would take a while to tell all absent GPUs
    else:
        torch.manual_seed(seed)


class Turns:
    """Seeds anew whenever it is another one's turn to draw: the model's, for dropout, or the balancer's.

    The numbers are a function of the seed, the step, the micro-batch and whose turn it is. So a balancer may draw as
    many as it likes, wherever it likes: the runs of all balancers have the same dropout, and a resumed run goes on
    with the numbers that it would have had. The model's differ between processes, as their samples do; the
    balancer's are the same on all of them, as its decisions must be.

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
        """The forward pass of a step's next micro-batch begins."""
        self._part = self._part + 1 if step == self._step else 0
        self._step = step
        self._begin(MODEL, rank())

    def balancer(self) -> None:
        """The forward pass is over."""
        self._begin(BALANCER, 0)

    @contextmanager
    def adapters(self) -> Iterator[None]:
        """The balancer's part of the forward pass, after which the model draws as if nothing had been in between."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._begin(ADAPTERS, 0)
            yield

    def _begin(self, turn: int, process: int) -> None:
        seed_all(seed_of(self.seed, self._step, self._part, turn, process), self.device)
