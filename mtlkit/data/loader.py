"""From samples to batches: checked, completed, augmented, and the same on any number of processes and workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.dataset import BadSampleError, Dataset, Sample, read_sample
from mtlkit.data.order import Key, Order, StepSampler
from mtlkit.seeding import seed_of
from mtlkit.target import found_values, kinds_of

if TYPE_CHECKING:  # importing albumentations takes seconds; only those who augment pay for it
    from mtlkit.data.transforms import Augment


OF_IMAGES = " Images of several sizes need data.size=[width, height]."  #: advice


class Loaded(Sample):
    """A complete sample: every target of the data set is there, without labels where the sample lacks it.

    `error` is the message for a sample that was left out (it is then black and without labels), else empty; it is
    there with `skip` only.
    """

    error: NotRequired[str]


class Samples(TorchDataset[Loaded]):
    """The samples of a data set by (pass, index): checked, augmented (with `augment`) and completed.

    The augmentation's randomness depends on (seed, pass, index) alone. A target that a sample lacks is filled with
    what its kind has for "no label". Samples that stand for all (`Dataset.probes`) are checked at once.

    Args:
        target_size: (width, height) that targets of pixels are brought to, by taking the nearest; None: the image's.
        skip: a sample that cannot be read, or is out of format, is left out instead of raising.

    Raises `FileNotFoundError` for files that are not there (`Dataset.missing`), without `skip`. Raises `LookupError`
    for a target of a kind that is not registered, `BadSampleError`, naming the sample, for an image or target that is
    not in its format or range or not of the first sample's size, and what `read_sample` raises.
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
        if not isinstance(getattr(dataset, "targets", None), Mapping):
            raise ValueError(
                f"{type(dataset).__name__} does not say which targets its samples have. Write self.targets = "
                f'{{"depth": Target("depth")}} in its constructor, one entry for each.'
            )
        if dataset.missing and not skip:
            raise FileNotFoundError(f"{dataset.missing} To go on without these samples: data.on_error=skip.")
        self.kinds = kinds_of(dataset.targets)
        self.dataset, self.augment, self.seed = dataset, augment, seed
        self.target_size, self.skip = target_size, skip
        index, first = self._first()
        if not isinstance(first, Mapping) or not isinstance(first.get("targets"), Mapping):
            raise ValueError(
                f"{dataset.label(index)}: a data set gives {{'image': tensor, 'targets': {{name: tensor}}}} for a "
                f"sample, found {_found(first)}."
            )
        image = first.get("image")
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"{dataset.label(index)}: the image must be a float32 tensor (3, H, W), found {_found(image)}."
            )
        self._shape = tuple(image.shape)
        for probe in dataset.probes():
            self[0, probe]

    def _first(self) -> tuple[int, Sample]:
        """The first sample that can be read, and its number."""
        for index in range(len(self.dataset)):
            try:
                return index, read_sample(self.dataset, index)
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
        return self._shape[2], self._shape[1]

    def __getitem__(self, key: Key) -> Loaded:
        number, index = key
        try:
            sample = self.checked(index)
            if self.augment is not None:
                # Asking may mean reading a file: only where something is turned by an angle that depends on it.
                camera = self.dataset.camera_of(index) if self.augment.turned else None
                sample = self.augment(sample, seed_of(self.seed, number, index), camera)
        except BadSampleError as error:
            if not self.skip:
                raise
            return {"image": torch.zeros(self._shape), "targets": self._complete({}), "error": str(error)}
        loaded: Loaded = {"image": sample["image"], "targets": self._complete(sample["targets"])}
        return loaded | {"error": ""} if self.skip else loaded

    def checked(self, index: int) -> Sample:
        """A sample as the data set has it, with the targets that it has; raises `BadSampleError`."""
        sample, what = read_sample(self.dataset, index), self.dataset.label(index)
        image = sample["image"]
        _check_format(image, self._shape, torch.float32, f"{what}: the image", OF_IMAGES)
        low, high = (float(bound) for bound in image.aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails, too
            advice = " Divide values of 8 bits by 255." if 1 < high <= 255 else ""
            raise BadSampleError(f"{what}: the image's values must be in [0, 1], found {found_values(image)}.{advice}")
        targets = {name: value for name, value in sample["targets"].items() if value is not None}
        for name, value in targets.items():
            if name not in self.kinds:
                raise ValueError(f"{what}: its target {name!r} is not among the data set's `targets`.")
            kind, named = self.kinds[name], f"{what}: the target {name!r} ({self.dataset.targets[name].type})"
            _check_format(value, kind.shape(*self._shape[1:]), kind.dtype, named)
            if problem := kind.problem(value):
                raise BadSampleError(f"{named} must {problem}.")
        return {"image": image, "targets": targets}

    def plain(self, index: int) -> Sample:
        """A sample without augmentation, with the targets that it has, at their size. Raises `BadSampleError`."""
        sample = self.checked(index)
        return {"image": sample["image"], "targets": {n: self._sized(n, v) for n, v in sample["targets"].items()}}

    def _complete(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All targets at their size; those that are not `given` are invalid."""
        height, width = self._shape[1:]
        return {
            name: self._sized(name, given[name] if name in given else kind.invalid(height, width))
            for name, kind in self.kinds.items()
        }

    def _sized(self, name: str, value: Tensor) -> Tensor:
        return value if self.target_size is None else self.kinds[name].resize(value, *self.target_size)


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


def _check_format(value: object, shape: tuple[int, ...], dtype: torch.dtype, what: str, sizes: str = "") -> None:
    """Raises `BadSampleError` unless the value is a tensor of that shape and type; `sizes` is advice on shapes."""
    if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape:
        advice = sizes if isinstance(value, Tensor) and value.shape != shape else ""
        raise BadSampleError(f"{what} must be {_name(dtype)} {shape}, found {_found(value)}.{advice}")


def _found(value: object) -> str:
    return f"{_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
