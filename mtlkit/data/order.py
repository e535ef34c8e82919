"""The samples of the batch of every step: they depend only on the seed and the step."""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from mtlkit.seeding import seed_of

Key = tuple[int, int]  # (pass, index): the pass through the data set decides how the sample is augmented


class Order(ABC):
    """Batches of keys, without end. An epoch has `steps_per_epoch` batches.

    `smallest` is the number of samples in the smallest batch: `batch_size`, or that of the last batch of an epoch.
    """

    def __init__(self, length: int, batch_size: int, drop_last: bool = True) -> None:
        if length < batch_size:
            raise ValueError(
                f"The training split has {length} samples, fewer than data.batch_size={batch_size}. "
                "Use a smaller batch or more samples."
            )
        left_over = 0 if drop_last else length % batch_size
        self.batch_size = batch_size
        self.steps_per_epoch = length // batch_size + (left_over > 0)
        self.smallest = left_over or batch_size

    @abstractmethod
    def batches(self, start_step: int = 0) -> Iterator[list[Key]]:
        """Yields the batches of the steps from `start_step` on."""


class Shuffled(Order):
    """One data set, in a new order in every epoch.

    An epoch is a permutation of the data set that depends only on (seed, epoch). Each step takes its next `batch_size`
    samples. The samples that are left over at the end of an epoch are dropped, or become a smaller batch.

    Raises `ValueError` if there are fewer samples than `batch_size`.

    >>> whole, later = Shuffled(10, 4, seed=0).batches(), Shuffled(10, 4, seed=0).batches(start_step=1)
    >>> [next(whole) for _ in range(3)][1:] == [next(later) for _ in range(2)]
    True
    """

    def __init__(self, length: int, batch_size: int, seed: int, drop_last: bool = True) -> None:
        super().__init__(length, batch_size, drop_last)
        self.length, self.seed = length, seed

    def batches(self, start_step: int = 0) -> Iterator[list[Key]]:
        # A resume computes its place instead of walking there: no sample before it is read.
        epoch, step = divmod(start_step, self.steps_per_epoch)
        while True:
            order = _permutation(self.length, self.seed, epoch)
            while step < self.steps_per_epoch:
                yield [(epoch, index) for index in order[step * self.batch_size :][: self.batch_size].tolist()]
                step += 1
            epoch, step = epoch + 1, 0


class Mixed(Order):
    """Several data sets, joined one after the other. Every batch takes given shares of them.

    Sample k (k = 0, 1, ...) of a set with share p is due at (k + 1/2) / p. Samples come in the order in which they are
    due. If two are due at once, the earlier set comes first (the divisor method of Webster and Sainte-Laguë). So every
    part of the order, a batch or a micro-batch, contains the sets in their shares, rounded. Each pass through a set has
    a new permutation, which depends only on (seed, set, pass). A pass may end within a batch. An epoch has as many
    steps as batches of `batch_size` fit into all sets together, no matter how often each set is seen.

    `shares` are positive; their sum need not be 1. Raises `ValueError` if there are fewer samples than `batch_size`.

    >>> order = Mixed([6, 2], [3, 1], batch_size=4, seed=0)
    >>> [sum(index < 6 for _, index in batch) for _, batch in zip(range(5), order.batches())]
    [3, 3, 3, 3, 3]
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[float], batch_size: int, seed: int) -> None:
        assert len(lengths) == len(shares)
        assert min(shares) > 0
        super().__init__(sum(lengths), batch_size)
        self.lengths, self.seed = list(lengths), seed
        # `fsum` rounds once, so the shares do not depend on the order in which the sets are listed.
        self.shares = [share / math.fsum(shares) for share in shares]
        self.starts = [sum(lengths[:i]) for i in range(len(lengths))]

    def batches(self, start_step: int = 0) -> Iterator[list[Key]]:
        # The state at any step is known without the steps before: a resume costs as much as a start.
        taken = self._taken(start_step * self.batch_size)
        due = [(self._due(i, k), i) for i, k in enumerate(taken)]
        heapq.heapify(due)
        walks = [self._walk(i, k) for i, k in enumerate(taken)]
        while True:
            batch = []
            for _ in range(self.batch_size):
                i = due[0][1]
                batch.append(next(walks[i]))
                taken[i] += 1
                heapq.heapreplace(due, (self._due(i, taken[i]), i))
            yield batch

    def _due(self, i: int, k: int) -> float:
        return (k + 0.5) / self.shares[i]

    def _taken(self, count: int) -> list[int]:
        """Returns how many of the first `count` samples come from each set."""
        # Webster's numbers differ from share * count by less than the number of sets. So the count starts that much
        # lower, and the samples that are due next are added.
        taken = [max(0, math.floor(share * count) - len(self.shares)) for share in self.shares]
        while sum(taken) < count:
            i = min(range(len(taken)), key=lambda i: (self._due(i, taken[i]), i))
            taken[i] += 1
        return taken

    def _walk(self, i: int, k: int) -> Iterator[Key]:
        """Yields the keys of set i from its sample k on."""
        number, position = divmod(k, self.lengths[i])
        while True:
            order = _permutation(self.lengths[i], self.seed, i, number, 0)  # three: unlike an epoch or a sample
            for index in order[position:].tolist():
                yield number, self.starts[i] + index
            number, position = number + 1, 0


class StepSampler(Sampler[list[Key]]):
    """Yields this rank's samples of one optimizer step after the other, without end.

    The samples of a step are arranged as `accumulation` micro-batches x `world` ranks x b samples. A rank gets its b
    samples of every micro-batch, one micro-batch after the other. So the ranks together compute the same micro-batches
    on any number of processes. The batch size of the order is the total over all micro-batches and ranks.

    Raises `ValueError` if it, or the size of a smaller last batch, is not a multiple of world * accumulation.

    >>> order = Shuffled(10, batch_size=8, seed=0)
    >>> whole = next(iter(StepSampler(order)))
    >>> ranks = [next(iter(StepSampler(order, rank=r, world=2, accumulation=2))) for r in (0, 1)]
    >>> whole[:4] == ranks[0][:2] + ranks[1][:2], whole[4:] == ranks[0][2:] + ranks[1][2:]  # the two micro-batches
    (True, True)
    """

    def __init__(self, order: Order, rank: int = 0, world: int = 1, accumulation: int = 1, start_step: int = 0) -> None:
        assert 0 <= rank < world
        share, size = world * accumulation, order.batch_size
        if size < 1 or size % share:
            below = size // share * share
            sizes = f"{below} or {below + share}" if below > 0 else str(share)
            raise ValueError(
                f"data.batch_size={size} is the total over all processes and must be a positive multiple of "
                f"processes x trainer.accumulation = {world} x {accumulation} = {share}. "
                f"The nearest possible sizes: {sizes}."
            )
        if order.smallest % share:
            raise ValueError(
                f"With data.drop_last=false, the last batch of an epoch has {order.smallest} samples, and these do not "
                f"divide into processes x trainer.accumulation = {world} x {accumulation} = {share} equal parts. Take "
                f"data.drop_last=true, another data.batch_size or another data.train_size."
            )
        self.order = order
        self.rank, self.world, self.accumulation, self.start_step = rank, world, accumulation, start_step

    def __iter__(self) -> Iterator[list[Key]]:
        # Neighbours in a micro-batch go to one rank, because `half_of` numbers the samples rank by rank.
        for batch in self.order.batches(self.start_step):
            each = len(batch) // (self.world * self.accumulation)
            firsts = range(self.rank * each, len(batch), self.world * each)
            yield [key for first in firsts for key in batch[first : first + each]]


def _permutation(length: int, seed: int, *path: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(seed, *path)))
