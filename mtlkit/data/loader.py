"""From samples to batches: checked, completed, augmented, and the same on any number of processes and workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.dataset import BadSampleError, Dataset, Sample, Target
from mtlkit.data.order import Key, Order, StepSampler
from mtlkit.seeding import seed_of

if TYPE_CHECKING:  # importing albumentations takes seconds; only those who augment pay for it
    from mtlkit.data.transforms import Augment


class Loaded(Sample):
    """A complete sample: every target of the data set is there, invalid where the sample lacks it.

    `error` is the message for a sample that was left out (it is then black and without labels), else empty; it is
    there with `skip` only.
    """

    error: NotRequired[str]


class Samples(TorchDataset[Loaded]):
    """The samples of a data set by (pass, index): checked, augmented (with `augment`) and completed.

    The augmentation's randomness depends on (seed, pass, index) alone. A target that a sample lacks is filled with
    the format's code for invalid. Samples that stand for all (`Dataset.probes`) are checked at once.

    Args:
        target_size: (width, height) that targets of pixels are brought to, by taking the nearest; None: the image's.
        skip: a sample that cannot be read, or is out of format, is left out instead of raising.

    Raises `BadSampleError`, naming the sample, for an image or target that is not in the format of
    `mtlkit.data.dataset.Sample` or not of the first sample's size, and what the data set raises itself.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: "Augment | None" = None,
        seed: int = 0,
        *,
        target_size: tuple[int, int] | None = None,
        skip: bool = False,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("The data set has no samples.")
        self.dataset, self.augment, self.seed = dataset, augment, seed
        self.target_size, self.skip = target_size, skip
        index, first = self._first()
        image = first["image"]
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"{dataset.label(index)}: the image must be a float32 tensor (3, H, W), found {_found(image)}."
            )
        self._image = _Format(tuple(image.shape), torch.float32)
        self._formats = {name: _format(target, *image.shape[1:]) for name, target in dataset.targets.items()}
        for name, known in self._formats.items():  # a type of the user's own: as in the first sample
            if known is None and isinstance(value := first["targets"].get(name), Tensor):
                self._formats[name] = _Format(tuple(value.shape), value.dtype)
        for probe in dataset.probes():
            self[0, probe]

    def _first(self) -> tuple[int, Sample]:
        """The first sample that can be read, and its number."""
        for index in range(len(self.dataset)):
            try:
                return index, self.dataset[index]
            except BadSampleError as error:
                if not self.skip:
                    raise
                last = error
        raise ValueError(f"None of the {len(self.dataset)} samples can be read. The last error: {last}")

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the images."""
        return self._image.shape[2], self._image.shape[1]

    def __getitem__(self, key: Key) -> Loaded:
        number, index = key
        try:
            sample = self.checked(index)
            if self.augment is not None:
                # Asking may mean reading a file: only where something is turned by an angle that depends on it.
                camera = self.dataset.camera_of(index) if self.augment.turned else None
                sample = self.augment(sample, seed_of(self.seed, number, index), camera)
            targets = self._complete(sample["targets"], index)
        except BadSampleError as error:
            if not self.skip:
                raise
            blank = torch.zeros(self._image.shape)
            return {"image": blank, "targets": self._complete({}, index), "error": str(error)}
        loaded: Loaded = {"image": sample["image"], "targets": targets}
        return loaded | {"error": ""} if self.skip else loaded

    def checked(self, index: int) -> Sample:
        """A sample as the data set has it, with the targets that it has; raises `BadSampleError`."""
        sample, what = self.dataset[index], self.dataset.label(index)
        image = sample["image"]
        several = " Images of several sizes need data.size=[width, height]."
        self._image.check(image, f"{what}: the image", several)
        low, high = (float(bound) for bound in image.aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails, too
            raise BadSampleError(f"{what}: the image's values must be in [0, 1], found {low:g} to {high:g}.")
        targets = {name: value for name, value in sample["targets"].items() if value is not None}
        for name, value in targets.items():
            if name not in self._formats:
                raise ValueError(f"{what}: its target {name!r} is not among the data set's `targets`.")
            self._check(name, value, f"{what}: the target {name!r} ({self.dataset.targets[name].type})")
        return {"image": image, "targets": targets}

    def _check(self, name: str, value: Tensor, what: str) -> None:
        known, classes = self._formats[name], self.dataset.targets[name].classes
        if known is None:
            raise ValueError(f"{what} must be a tensor, found {_found(value)}.")
        known.check(value, what)
        if known.labels:
            low, high = (int(value), int(value)) if value.ndim == 0 else map(int, value.aminmax())
            if low < -1 or high >= len(classes):
                raise BadSampleError(
                    f"{what} must hold classes from 0 to {len(classes) - 1} or -1 (ignore), found {low} to {high}."
                )

    def plain(self, index: int) -> Sample:
        """A sample without augmentation, with the targets that it has, at their size. Raises `BadSampleError`."""
        sample = self.checked(index)
        return {"image": sample["image"], "targets": {n: self._sized(n, v) for n, v in sample["targets"].items()}}

    def _complete(self, given: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """All targets at their size; those that are not `given` are invalid."""
        return {
            name: self._sized(name, given[name] if name in given else self._invalid(name, index))
            for name in self.dataset.targets
        }

    def _invalid(self, name: str, index: int) -> Tensor:
        known = self._formats[name]
        if known is None or known.invalid is None:
            raise ValueError(
                f"{self.dataset.label(index)}: the target {name!r} ({self.dataset.targets[name].type}) is missing, "
                "and mtlkit does not know how this type says 'no label'. Let the data set return an all-invalid target."
            )
        return torch.full(known.shape, known.invalid, dtype=known.dtype)

    def _sized(self, name: str, value: Tensor) -> Tensor:
        known = self._formats[name]
        if self.target_size is None or known is None or not known.dense:
            return value
        columns, rows = (
            ((torch.arange(new) + 0.5) * old / new).long()
            for new, old in zip(self.target_size, value.shape[:-3:-1], strict=True)
        )
        return value[..., rows[:, None], columns]


def train_loader(
    samples: Samples, order: Order, *, workers: int = 0, rank: int = 0, world: int = 1, accumulation: int = 1,
    start_step: int = 0
) -> DataLoader:  # fmt: skip
    """One batch an optimizer step, without end: this rank's samples, its micro-batches one after the other.

    A batch is a `Loaded` whose tensors have a batch axis, of order.batch_size / world samples. See `StepSampler` and
    `Samples` for errors.
    """
    sampler = StepSampler(order, rank, world, accumulation, start_step)
    return _loader(samples, workers, batch_sampler=sampler)


def eval_loader(samples: Samples, batch_size: int, *, workers: int = 0, rank: int = 0, world: int = 1) -> DataLoader:
    """This rank's share of a split, once and in order: batches rank, rank + world, ... of those that one process gets.

    `batch_size` counts the samples of one process. Ranks may get different numbers of batches, even none.
    """
    batches: Sequence[list[Key]] = [
        [(0, index) for index in range(start, min(start + batch_size, len(samples)))]
        for start in range(0, len(samples), batch_size)
    ]
    return _loader(samples, workers, batch_sampler=batches[rank::world])


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
        generator=torch.Generator().manual_seed(seed_of(samples.seed)),
        **options,
    )


class _Format(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype
    invalid: float | None = None
    dense: bool = False
    labels: bool = False

    def check(self, value: object, what: str, hint: str = "") -> None:
        if not isinstance(value, Tensor) or value.dtype != self.dtype or value.shape != self.shape:
            raise BadSampleError(f"{what} must be {_name(self.dtype)} {self.shape}, found {_found(value)}.{hint}")


def _format(target: Target, height: int, width: int) -> _Format | None:
    """The format of a type of target, see `Sample`; None for a type that mtlkit does not know."""
    vector = _Format((len(target.classes),), torch.float32, float("nan"))
    formats: Mapping[str, _Format] = {
        "segmentation": _Format((height, width), torch.int64, -1, dense=True, labels=True),
        "depth": _Format((1, height, width), torch.float32, 0, dense=True),
        "disparity": _Format((1, height, width), torch.float32, 0, dense=True),
        "normals": _Format((3, height, width), torch.float32, 0, dense=True),
        "reconstruction": _Format((len(target.classes), height, width), torch.float32, float("nan"), dense=True),
        "multilabel": vector,
        "classification": _Format((), torch.int64, -1, labels=True),
        "regression": vector,
    }
    return formats.get(target.type)


def _found(value: object) -> str:
    return f"{_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
