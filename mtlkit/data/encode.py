"""Makes the blocks of a prepared data set from the samples of another data set."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.blocks import Block, block_file, narrow, widen
from mtlkit.data.children import Loader
from mtlkit.data.dataset import BadSampleError, Camera
from mtlkit.data.samples import Samples

UNKNOWN = (math.nan,) * 4


class Row(NamedTuple):
    """A sample as it is stored, with the types of the restored values. It has arrays, to pass between processes."""

    arrays: dict[str, np.ndarray]
    dtypes: dict[str, str]
    camera: Camera | None


@dataclass(frozen=True)
class BlockMaker:
    """Makes a split's blocks. The content of a block depends only on the samples from its first one on."""

    samples: Samples
    split: str
    block_bytes: int
    workers: int
    advance: Callable[[int], None]  #: called with the number of samples that are done

    def blocks(self, start: int, number: int) -> Iterator[tuple[Block, bytes]]:
        """Yields block `number`, which begins with sample `start` of the split, and all later ones, with their files.

        Raises `BadSampleError` for a sample that cannot be read, unless `samples.skip`, and what the data set raises.
        """
        rows: list[Row] = []
        skipped: list[str] = []
        size = 0
        for index, row in enumerate(self._rows(start), start):
            if isinstance(row, ValueError):
                self._may_skip(row)
                skipped.append(self.samples.dataset.label(index))
            else:
                if size >= self.block_bytes:  # only here, so that it lists what was left out after it
                    yield self._block(number, rows, skipped)
                    rows, skipped, size, number = [], [], 0, number + 1
                rows.append(row)
                size += sum(array.nbytes for array in row.arrays.values())
            self.advance(1)
        if rows:
            yield self._block(number, rows, skipped)

    def _rows(self, start: int) -> Iterator["Row | ValueError"]:
        yield from Loader(
            _Rows(self.samples),
            batch_size=None,
            sampler=range(start, len(self.samples)),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # otherwise the start would draw from torch's global one
        )

    def _may_skip(self, error: ValueError) -> None:
        if not isinstance(error, BadSampleError):
            raise error
        if not self.samples.skip:
            raise BadSampleError(
                f"{error} Preparing has stopped; finished blocks stay. Repair the file, leave out such samples "
                "with data.on_error=skip, or resize images to one size with data.size. Then run prepare again."
            )

    def _block(self, number: int, rows: Sequence[Row], skipped: Sequence[str]) -> tuple[Block, bytes]:
        data = _encode(rows, plain_camera(self.samples.dataset.camera))
        name = block_file(self.split, number)
        return Block(name, len(rows), len(data), hashlib.sha256(data).hexdigest(), tuple(skipped)), data


class _Rows(TorchDataset["Row | ValueError"]):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> "Row | ValueError":
        try:
            sample = self.samples.checked(index)
            camera = plain_camera(self.samples.dataset.camera_of(index))
        except ValueError as error:
            return error  # returned: raised in a worker, its message would be a traceback
        values = {"image": sample["image"]} | {f"target.{name}": value for name, value in sample["targets"].items()}
        dtypes = {name: str(value.dtype).removeprefix("torch.") for name, value in values.items()}
        return Row({name: narrow(value).numpy() for name, value in values.items()}, dtypes, camera)


def plain_camera(camera: Camera | None) -> Camera | None:
    """Returns the camera as Python's floats."""
    if camera is None:
        return None
    a, b, c, d = map(float, camera)
    return a, b, c, d


def _as_it_is(row: Any) -> Any:
    return row


def _encode(rows: Sequence[Row], camera: Camera | None) -> bytes:
    """Returns the content of a block's file. A `camera` that all samples of the split share is not stored in it."""
    tensors: dict[str, Tensor] = {}
    dtypes: dict[str, str] = {}
    for row in rows:
        dtypes |= row.dtypes
    for name, dtype in dtypes.items():
        present = [name in row.arrays for row in rows]
        tensors[name] = _stack([torch.from_numpy(row.arrays[name]) for row in rows if name in row.arrays], dtype)
        if not all(present):
            tensors[f"present.{name}"] = torch.tensor(present)
    if any(row.camera != camera for row in rows):
        tensors["camera"] = torch.tensor([row.camera or UNKNOWN for row in rows], dtype=torch.float64)
        dtypes["camera"] = "float64"
    # Only one entry: safetensors writes several entries in random order, but equal samples must give equal files.
    return save(tensors, {"dtypes": json.dumps(dtypes, sort_keys=True)})


def _stack(values: list[Tensor], dtype: str) -> Tensor:
    if len({value.dtype for value in values}) == 1:
        return torch.stack(values)
    return narrow(torch.stack([widen(value, getattr(torch, dtype)) for value in values]))
