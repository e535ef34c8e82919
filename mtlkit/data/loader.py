"""From samples to batches: checked, completed, augmented, and equal for any number of processes and workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.children import Loader
from mtlkit.data.dataset import BadSampleError, Dataset, Sample, read_sample
from mtlkit.data.order import Key, Order, StepSampler
from mtlkit.seeding import seed_of
from mtlkit.target import found_values, kinds_of

if TYPE_CHECKING:  # importing albumentations takes seconds; only those who augment pay for it
    from mtlkit.data.transforms import Augment


OF_IMAGES = " Images of several sizes need data.size=[width, height]."  #: advice


class Loaded(Sample):
    """A complete sample: it has every target of the data set. A target that the sample lacks has no valid label.

    `error` exists only with `skip`. It is the message for a sample that was left out, and otherwise empty. A sample
    that was left out is black and has no labels.
    """

    error: NotRequired[str]


class Samples(TorchDataset[Loaded]):
    """Returns the samples of a data set by (pass, index): checked, augmented (with `augment`) and completed.

    The randomness of the augmentation depends only on (seed, pass, index). A target that a sample lacks is filled with
    the "no label" value of its kind. The constructor checks the samples that represent all others (`Dataset.probes`).

    Args:
        target_size: (width, height) to which maps are resized, by taking the nearest pixel (None: the image's size).
        skip: leave out a sample that cannot be read or has a wrong format, instead of raising an error.

    Raises `FileNotFoundError` for missing files (`Dataset.missing`), unless `skip` is set. Raises `LookupError` for a
    target of a kind that is not registered. Raises `BadSampleError`, which names the sample, for an image or target
    with a wrong format or range, or another size than the first sample. It also raises what `read_sample` raises.
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
                f"{dataset.label(index)}: a sample must be {{'image': tensor, 'targets': {{name: tensor}}}}, "
                f"found {_found(first)}."
            )
        image = first.get("image")
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise ValueError(
                f"{dataset.label(index)}: the image must be a float32 tensor (C, H, W), found {_found(image)}."
            )
        if image.shape[2] in (3, 4) and image.shape[0] > image.shape[2]:  # nobody's images are 3 pixels wide
            raise ValueError(
                f"{dataset.label(index)}: the image must be a float32 tensor (C, H, W), found {_found(image)}. The "
                f"channels come first: image.permute(2, 0, 1)."
            )
        # All images of a batch must have one size, and the first one decides. So a message can name the one that
        # differs.
        self._shape = tuple(image.shape)
        # A wrong range shows now and not after an hour, in the first batch that has such a sample.
        for probe in dataset.probes():
            self[0, probe]

    def _first(self) -> tuple[int, Sample]:
        """Returns the number of the first sample that can be read, and that sample."""
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

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return self._shape[0]

    def __getitem__(self, key: Key) -> Loaded:
        number, index = key
        try:
            sample = self.checked(index)
            if self.augment is not None:
                # Only asked for if a target turns with the image by the camera's angle, because asking may read a file.
                camera = self.dataset.camera_of(index) if self.augment.turned else None
                # Not from a worker's own generator: the result would depend on the number of workers and on a resume.
                sample = self.augment(sample, seed_of(self.seed, number, index), camera)
        except BadSampleError as error:
            if not self.skip:
                raise
            # A black sample without labels instead of none: the batch keeps its size on every process, and the other
            # samples keep their places.
            return {"image": torch.zeros(self._shape), "targets": self._complete({}), "error": str(error)}
        # The targets of all samples have the same names, or torch could not stack them to a batch.
        loaded: Loaded = {"image": sample["image"], "targets": self._complete(sample["targets"])}
        return loaded | {"error": ""} if self.skip else loaded

    def checked(self, index: int) -> Sample:
        """Returns a sample as the data set has it, with the targets that it has. Raises `BadSampleError`."""
        sample, what = read_sample(self.dataset, index), self.dataset.label(index)
        image = sample["image"]
        _check_format(image, self._shape, torch.float32, f"{what}: the image", OF_IMAGES)
        low, high = (float(bound) for bound in image.aminmax())
        if not (low >= 0 and high <= 1):  # this form also refuses NaN
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
        """Returns a sample without augmentation, with its own targets at their size. Raises `BadSampleError`."""
        sample = self.checked(index)
        return {"image": sample["image"], "targets": {n: self._sized(n, v) for n, v in sample["targets"].items()}}

    def _complete(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns all targets at their size. Those that are not `given` have no valid label."""
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
    """Returns one batch per optimizer step, without end: this rank's samples, one micro-batch after the other.

    A batch is a `Loaded` whose tensors have a batch axis of order.batch_size / world samples. `StepSampler` and
    `Samples` list the errors.
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
        targets = {k: t[rows] for k, t in batch["targets"].items()}
        yield {k: targets if k == "targets" else values[rows] for k, values in batch.items()}


def _loader(samples: Samples, workers: int, **options: Any) -> DataLoader:
    return Loader(
        samples,
        num_workers=workers,
        persistent_workers=workers > 0,  # starting them anew at each evaluation takes seconds
        pin_memory=torch.cuda.is_available(),
        # Without a generator of its own, each start of an iteration would draw from torch's global one.
        generator=torch.Generator().manual_seed(seed_of(samples.seed)),
        **options,
    )


def _check_format(value: object, shape: tuple[int, ...], dtype: torch.dtype, what: str, sizes: str = "") -> None:
    """Raises `BadSampleError` unless the value is a tensor of that shape and type. `sizes` is advice about shapes."""
    if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape:
        advice = sizes if isinstance(value, Tensor) and value.shape != shape else ""
        raise BadSampleError(f"{what} must be {_name(dtype)} {shape}, found {_found(value)}.{advice}")


def _found(value: object) -> str:
    return f"{_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
