"""Random numbers in training: all of them depend only on the run's seed, no matter who draws them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import numpy as np
import torch


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


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds all generators for the block. After it, they go on as if nothing had happened."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_all(seed, device)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class Turn(Enum):
    """Who draws random numbers: the model (for dropout), or one of the balancer's hooks."""

    MODEL = 0
    ADAPTER = 1
    OBJECTIVE = 2
    COMBINE = 3
    AFTER_MODEL = 4
    AFTER_STEP = 5


class Turns:
    """Gives the model and each hook of the balancer random numbers of their own.

    The numbers depend only on the seed, the step, the micro-batch and the turn. So a balancer may draw any number of
    them, anywhere: the runs of all balancers have the same dropout, and a resumed run continues with the numbers that
    it would have had. The model's numbers differ between processes, because their samples differ. The balancer's
    numbers are the same on all processes, because its decisions must be the same.

    >>> def dropout(drawn):
    ...     turns, cpu = Turns(0), torch.device("cpu")
    ...     turns.next(step=3)
    ...     turns.model(cpu)
    ...     with turns.hook(Turn.ADAPTER, cpu):
    ...         torch.rand(drawn)
    ...     return torch.rand(2)
    >>> torch.equal(dropout(drawn=0), dropout(drawn=10))
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step, self._part = 0, -1  # so that the first step may be number 0

    def next(self, step: int) -> None:
        """Is called when a step's next micro-batch begins."""
        self._part = self._part + 1 if step == self._step else 0
        self._step = step

    def model(self, device: torch.device, process: int = 0) -> None:
        """Seeds all generators for the forward pass of the model, on the process that has this share of the samples."""
        seed_all(self._seed_of(Turn.MODEL, process), device)

    @contextmanager
    def hook(self, turn: Turn, device: torch.device) -> Iterator[None]:
        """Holds a hook of the balancer. After it, everybody else draws as if nothing had happened."""
        with seeded(self._seed_of(turn, 0), device):
            yield

    def _seed_of(self, turn: Turn, process: int) -> int:
        return seed_of(self.seed, self._step, self._part, turn.value, process)
