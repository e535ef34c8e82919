"""What crosses from the loading processes to the device: batches in the types in which their values are stored.

A picture and its labels have one byte per value there, and four or eight in float32 and int64. They get those types
only on the device (`mtlkit.data.finish`), where the augmentation can run, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from mtlkit.data.blocks import narrow, widen
from mtlkit.data.dataset import BadSampleError, Sample
from mtlkit.data.finish import Finish, sized_by_index
from mtlkit.data.order import Key
from mtlkit.data.samples import Samples


@dataclass
class Item:
    """A sample that crosses. `moves` says how the device augments it: a row of each of the three tensors of a batch."""

    image: Tensor
    targets: dict[str, Tensor]
    moves: tuple[np.ndarray, ...]
    error: str


class Crossing(TorchDataset[Item]):
    """The samples of `Samples` by (pass, index), as they cross to the device, and the batches made of them.

    A batch has `image`, `targets` and, with `skip`, `error`, as one of `Samples` has. Where something is left to do on
    the device, it also has `finish`, the `Finish` that does it, and with augmentation there `moves`, its arguments.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        on_device = samples.augment is not None and samples.augment_on == "device"
        self._augment = samples.augment if on_device else None
        self._whole = samples.augment is not None and not on_device  # nothing is left to the device
        height, width = samples.image_size[::-1]
        self._unknown = {name: kind.invalid(height, width) for name, kind in samples.kinds.items()}
        self._unknown_stored = {name: narrow(value) for name, value in self._unknown.items()}
        if self._augment is None:
            self.finish = Finish(samples.kinds)
        else:
            colour = self._augment.colour > 0
            self.finish = Finish(samples.kinds, samples.target_size, self._augment.compat, colour)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        samples, (number, index) = self.samples, key
        if self._whole:
            loaded = samples[key]
            return Item(loaded["image"], loaded["targets"], (), loaded.get("error", ""))
        try:
            sample, error = samples.stored(index), ""
            moves = () if self._augment is None else samples.drawn(self._augment, number, index, sample)
        except BadSampleError as problem:
            if not samples.skip:
                raise
            black = torch.zeros(samples.channels, *samples.image_size[::-1])
            sample, error = {"image": black, "targets": {}}, str(problem)
            moves = () if self._augment is None else self._augment.still(samples.image_size)
        return Item(sample["image"], self._complete(sample), moves, error)

    def _complete(self, sample: Sample) -> dict[str, Tensor]:
        given, kinds, size = sample["targets"], self.samples.kinds, self.samples.target_size
        stored = self._is_stored(sample["image"], given)
        unknown = self._unknown_stored if stored else self._unknown
        targets = {name: given.get(name, unknown[name]) for name in kinds}
        if size is None or self._augment is not None:
            return targets
        for name, kind in kinds.items():
            value = targets[name] if sized_by_index(kind) else widen(targets[name], kind.dtype)
            targets[name] = kind.resize(value, *size)
        return targets

    def batch(self, items: Sequence[Item]) -> dict[str, Any]:
        """Returns the batch of some samples: the `collate_fn` of torch's `DataLoader`."""
        dtypes = {name: kind.dtype for name, kind in self.samples.kinds.items()}
        image = _joined([item.image for item in items], torch.float32)
        targets = {name: _joined([item.targets[name] for item in items], dtype) for name, dtype in dtypes.items()}
        batch: dict[str, Any] = {"image": image, "targets": targets}
        if self.samples.skip:
            batch["error"] = [item.error for item in items]
        if self._augment is not None:
            rows = zip(*(item.moves for item in items), strict=True)
            batch["moves"] = tuple(default_collate([torch.from_numpy(row) for row in part]) for part in rows)
        if "moves" in batch or self._is_stored(image, targets):
            batch["finish"] = self.finish
        return batch

    def _is_stored(self, image: Tensor, targets: Mapping[str, Tensor]) -> bool:
        """Returns whether some values have still to be restored."""
        wide = {name: kind.dtype for name, kind in self.samples.kinds.items()}
        return image.dtype != torch.float32 or any(value.dtype != wide[name] for name, value in targets.items())


def _joined(values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Returns the values along a new first axis: in their stored type if all have the same, otherwise restored."""
    if len({value.dtype for value in values}) > 1:
        values = [value if value.dtype == dtype else widen(value, dtype) for value in values]
    joined: Tensor = default_collate(list(values))  # in a loading process, it writes into shared memory
    return joined
