"""Samples of a data set: checked, completed and augmented."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NotRequired

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.dataset import BadSampleError, Camera, Dataset, Sample, named_errors, read_sample
from mtlkit.data.order import Key
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
        augment_on: where the batches of a loader are augmented: in the loading processes (`loader`), as this class does
            it, or as a whole on the device (`mtlkit.data.crossing`). Kinds that move only single values need `loader`.
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
        augment_on: Literal["device", "loader"] = "loader",
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
        #: the targets that keep the augmentation in the loader although it was asked for on the device
        self.only_in_loader = list(augment.only_here) if augment and augment_on == "device" else []
        self.augment_on = "loader" if augment is None or self.only_in_loader else augment_on
        self.target_size, self.skip = target_size, skip
        self._right = bytearray(len(dataset))  # which samples this process has checked
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
                sample = self.augment(sample, *self._chance(self.augment, number, index))
        except BadSampleError as error:
            if not self.skip:
                raise
            # A black sample without labels instead of none: the batch keeps its size on every process, and the other
            # samples keep their places.
            return {"image": torch.zeros(self._shape), "targets": self._complete({}), "error": str(error)}
        # The targets of all samples have the same names, or torch could not stack them to a batch.
        loaded: Loaded = {"image": sample["image"], "targets": self._complete(sample["targets"])}
        return loaded | {"error": ""} if self.skip else loaded

    def drawn(self, augment: "Augment", number: int, index: int, sample: Sample) -> tuple[np.ndarray, ...]:
        """Returns how the augmentation changes the sample in the pass `number`: the result of `Augment.draw`."""
        return augment.draw(sample, *self._chance(augment, number, index))

    def _chance(self, augment: "Augment", number: int, index: int) -> tuple[int, Camera | None]:
        """Returns the seed of the sample's augmentation, and its camera."""
        # Only asked for if a target turns with the image by the camera's angle, because asking may read a file.
        camera = self.dataset.camera_of(index) if augment.turned else None
        # Not from a worker's own generator: the result would depend on the number of workers and on a resume.
        return seed_of(self.seed, number, index), camera

    def stored(self, index: int) -> Sample:
        """Returns a sample in the types in which the data set keeps it (`Dataset.stored`). Raises `BadSampleError`.

        Stored values are checked when a process reads them for the first time, all others always.
        """
        checked = None if self._right[index] else self.checked(index)
        self._right[index] = True
        with named_errors(self.dataset, index):
            found = self.dataset.stored(index)
        if found is None:
            return checked or self.checked(index)
        return found

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


def _check_format(value: object, shape: tuple[int, ...], dtype: torch.dtype, what: str, sizes: str = "") -> None:
    """Raises `BadSampleError` unless the value is a tensor of that shape and type. `sizes` is advice about shapes."""
    if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape:
        advice = sizes if isinstance(value, Tensor) and value.shape != shape else ""
        raise BadSampleError(f"{what} must be {_name(dtype)} {shape}, found {_found(value)}.{advice}")


def _found(value: object) -> str:
    return f"{_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
