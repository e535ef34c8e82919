"""From samples to batches: the same samples in every step on any number of processes and workers."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.dataset import Dataset, Sample, Target

if TYPE_CHECKING:  # importing albumentations takes seconds; only those who augment pay for it
    from mtlkit.data.transforms import Augment

Key = tuple[int, int]  # (epoch, index): a sample as an epoch augments it


class StepSampler(Sampler[list[Key]]):
    """Without end, this rank's samples of one optimizer step after the other, as a list of (epoch, index).

    An epoch is a permutation of the data set that depends on (seed, epoch) alone; step t takes the next
    `batch_size` of it. The samples that are left over at the end of an epoch are dropped. A step's samples are laid
    out as `accumulation` micro-batches x `world` ranks x b samples; a rank gets its b samples of every micro-batch,
    one micro-batch after the other, so that the ranks together compute the same micro-batches on any number of
    processes. `batch_size` is the total over all processes and micro-batches.

    Starting at `start_step` gives what a sampler that started at 0 gives from that step on.

    Raises `ValueError` where `batch_size` is no multiple of world * accumulation or larger than the data set.

    >>> whole = next(iter(StepSampler(10, batch_size=8, seed=0)))
    >>> ranks = [next(iter(StepSampler(10, batch_size=8, seed=0, rank=r, world=2, accumulation=2))) for r in (0, 1)]
    >>> whole[:4] == ranks[0][:2] + ranks[1][:2], whole[4:] == ranks[0][2:] + ranks[1][2:]  # the two micro-batches
    (True, True)
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        start_step: int = 0,
    ) -> None:
        assert 0 <= rank < world
        share = world * accumulation
        if batch_size < 1 or batch_size % share:
            below = batch_size // share * share
            sizes = f"{below} or {below + share}" if below > 0 else str(share)
            raise ValueError(
                f"data.batch_size={batch_size} is the total over all processes and must be a positive multiple of "
                f"processes x trainer.accumulation = {world} x {accumulation} = {share}. "
                f"The nearest that would do: {sizes}."
            )
        if length < batch_size:
            raise ValueError(
                f"The training split has {length} samples, fewer than data.batch_size={batch_size}. "
                "Use a smaller batch or more samples."
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.start_step = start_step

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, step = divmod(self.start_step, self.steps_per_epoch)
        while True:
            generator = torch.Generator().manual_seed(_seed(self.seed, epoch))
            order = torch.randperm(self.length, generator=generator)
            while step < self.steps_per_epoch:
                batch = order[step * self.batch_size :][: self.batch_size]
                mine = batch.view(self.accumulation, self.world, -1)[:, self.rank].flatten()
                yield [(epoch, index) for index in mine.tolist()]
                step += 1
            epoch, step = epoch + 1, 0


class Samples(TorchDataset[Sample]):
    """The samples of a data set by (epoch, index): checked, completed and, with `augment`, augmented.

    The augmentation's randomness depends on (seed, epoch, index) alone. A target that a sample lacks is filled with
    the format's code for invalid. The first sample is checked at once.

    Raises `ValueError`, naming the sample, for an image or target that is not in the format of
    `mtlkit.data.dataset.Sample` or not of the first sample's size.
    """

    def __init__(self, dataset: Dataset, augment: "Augment | None" = None, seed: int = 0) -> None:
        if len(dataset) == 0:
            raise ValueError("The data set has no samples.")
        self.dataset, self.augment, self.seed = dataset, augment, seed
        first = dataset[0]
        image = first["image"]
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"Sample 0: the image must be a float32 tensor (3, H, W), found {_found(image)}.")
        self._image = _Format(tuple(image.shape), torch.float32)
        self._formats = {name: _format(target, *image.shape[1:]) for name, target in dataset.targets.items()}
        for name, known in self._formats.items():  # a type of the user's own: as in the first sample
            if known is None and isinstance(value := first["targets"].get(name), Tensor):
                self._formats[name] = _Format(tuple(value.shape), value.dtype)
        self._complete(first, 0)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        sample = self._complete(self.dataset[index], index)
        if self.augment is None:
            return sample
        return self.augment(sample, _seed(self.seed, epoch, index))

    def _complete(self, sample: Sample, index: int) -> Sample:
        """The sample with all its targets, after checks."""
        image = sample["image"]
        self._image.check(image, f"Sample {index}: the image")
        low, high = (float(bound) for bound in image.aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails, too
            raise ValueError(f"Sample {index}: the image's values must be in [0, 1], found {low:g} to {high:g}.")
        for name in sample["targets"]:
            if name not in self._formats:
                raise ValueError(f"Sample {index}: its target {name!r} is not among the data set's `targets`.")
        given = sample["targets"]
        targets = {name: self._target(name, given.get(name), index) for name in self.dataset.targets}
        return {"image": image, "targets": targets}

    def _target(self, name: str, value: Tensor | None, index: int) -> Tensor:
        target, known = self.dataset.targets[name], self._formats[name]
        what = f"Sample {index}: the target {name!r} ({target.type})"
        if value is None:
            if known is None or known.invalid is None:
                raise ValueError(
                    f"{what} is missing, and mtlkit does not know how this type says 'no label'. "
                    "Let the data set return an all-invalid target."
                )
            return torch.full(known.shape, known.invalid, dtype=known.dtype)
        assert known is not None
        known.check(value, what)
        if value.dtype == torch.int64 and target.type in ("segmentation", "classification"):
            low, high = (int(value), int(value)) if value.ndim == 0 else map(int, value.aminmax())
            if low < -1 or high >= len(target.classes):
                raise ValueError(
                    f"{what} must hold classes from 0 to {len(target.classes) - 1} or -1 (ignore), "
                    f"found {low} to {high}."
                )
        return value


def train_loader(
    dataset: Dataset,
    augment: "Augment | None",
    batch_size: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    start_step: int = 0,
) -> DataLoader:
    """One batch an optimizer step, without end: this rank's samples, its micro-batches one after the other.

    A batch is a `Sample` whose tensors have a batch axis, of batch_size / world samples. See `StepSampler` and
    `Samples` for the arguments and errors; `loader.batch_sampler.steps_per_epoch` counts the steps.
    """
    sampler = StepSampler(len(dataset), batch_size, seed, rank, world, accumulation, start_step)
    return _loader(Samples(dataset, augment, seed), workers, batch_sampler=sampler)


def eval_loader(dataset: Dataset, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1) -> DataLoader:
    """This rank's share of a split, once and in order: samples rank, rank + world, ...; no padding, no duplicates.

    `batch_size` counts the samples of one process. Ranks may get different numbers of batches, even none.
    """
    keys = [(0, index) for index in range(rank, len(dataset), world)]
    return _loader(Samples(dataset), workers, sampler=keys, batch_size=batch_size)


def micro_batches(batch: dict[str, Any], accumulation: int) -> Iterator[dict[str, Any]]:
    """A batch of `train_loader` in its micro-batches."""
    size = len(batch["image"]) // accumulation
    for start in range(0, size * accumulation, size):
        rows = slice(start, start + size)
        yield {"image": batch["image"][rows], "targets": {k: t[rows] for k, t in batch["targets"].items()}}


def _loader(samples: Samples, workers: int, **options: Any) -> DataLoader:
    return DataLoader(
        samples,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Of its own: without one, each start of an iteration would draw from torch's global generator.
        generator=torch.Generator().manual_seed(_seed(samples.seed)),
        **options,
    )


class _Format(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype
    invalid: float | None = None

    def check(self, value: object, what: str) -> None:
        if not isinstance(value, Tensor) or value.dtype != self.dtype or value.shape != self.shape:
            raise ValueError(f"{what} must be {_name(self.dtype)} {self.shape}, found {_found(value)}.")


def _format(target: Target, height: int, width: int) -> _Format | None:
    """The format of a type of target, see `Sample`; None for a type that mtlkit does not know."""
    vector = _Format((len(target.classes),), torch.float32, float("nan"))
    formats: Mapping[str, _Format] = {
        "segmentation": _Format((height, width), torch.int64, -1),
        "depth": _Format((1, height, width), torch.float32, 0),
        "normals": _Format((3, height, width), torch.float32, 0),
        "multilabel": vector,
        "classification": _Format((), torch.int64, -1),
        "regression": vector,
    }
    return formats.get(target.type)


def _seed(seed: int, *path: int) -> int:
    """A seed for `path` (epoch, index, ...) that is independent of all others."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0] >> 1)


def _found(value: object) -> str:
    return f"{_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
