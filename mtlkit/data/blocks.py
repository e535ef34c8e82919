"""Blocks of a prepared data set: consecutive samples in one file that is mapped into memory.

A block is a safetensors file with a tensor `image` and one tensor `target.NAME` per target. The samples are along the
first axis. If some samples lack the target, there is a boolean `present.target.NAME` (N,), and the target's tensor has
only the samples that have it. If the cameras differ within a split, there is `camera` (N, 4) float64, with NaN for an
unknown camera. Values are stored in the smallest type from which they can be restored bit for bit. `dtypes` in the
file's metadata is JSON with the types of the restored values.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtlkit.data.dataset import BadSampleError
from mtlkit.typed import Count

AGAIN = "Run prepare again with the same settings and folder: it keeps whole blocks and makes the others again."
NARROWER = {
    torch.int64: (torch.int8, torch.int16, torch.int32),
    torch.float32: (torch.int8, torch.uint8, torch.int16, torch.float16),
}
LEVELS = {torch.uint8: 255.0, torch.int16: 1000.0}  #: what a stored k stands for is k / LEVELS, where that is a float


@dataclass(frozen=True)
class Block:
    """A manifest's entry for a block, with the names of the source's samples in its range that were left out."""

    file: str
    count: Count
    bytes: Count
    sha256: str
    skipped: tuple[str, ...]


class OpenBlock(NamedTuple):
    """A block's tensors, mapped into memory (no file stays open), and the types of the restored values."""

    tensors: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]

    def value(self, name: str, row: int) -> Tensor | None:
        """Returns a row of a tensor as a new tensor, or None if the sample has no such value."""
        found = self.stored(name, row)
        return None if found is None else widen(found, self.dtypes[name])

    def stored(self, name: str, row: int) -> Tensor | None:
        """Returns the same in the type of the file. It is a part of the map, so it must not be written to."""
        if name not in self.tensors:
            return None
        if (present := self.tensors.get(f"present.{name}")) is not None:
            if not present[row]:
                return None
            row = int(present[:row].sum())
        return self.tensors[name][row]


def open_block(path: Path, block: Block) -> OpenBlock:
    """Maps a block's file. Raises `BadSampleError` if it is missing or differs from the manifest."""
    try:
        if (size := path.stat().st_size) != block.bytes:
            raise ValueError(f"it has {size} bytes, expected {block.bytes}")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            dtypes = {name: getattr(torch, dtype) for name, dtype in json.loads(file.metadata()["dtypes"]).items()}
        _check(tensors, dtypes, block.count)
    except FileNotFoundError as error:
        raise BadSampleError(f"{path} is missing. {AGAIN}") from error
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadSampleError(f"{path} is damaged: {error}. {AGAIN}") from error
    return OpenBlock(tensors, dtypes)


def _check(tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], count: int) -> None:
    """Raises `ValueError` if the tensors of a block do not belong together. A sample without a target is no error."""
    for name in ["image", *sorted((dtypes.keys() | tensors.keys()) - {"image"})]:
        present = tensors.get(f"present.{name}")
        rows = count if present is None else int(present.sum())
        if name.startswith("present."):
            if tensors[name].shape != (count,) or tensors[name].dtype != torch.bool:
                raise ValueError(f"{name} is no list of {count} true or false")
        elif name not in tensors:
            raise ValueError(f"it lacks {name}, which its head names")
        elif name not in dtypes:
            raise ValueError(f"its head does not name {name}")
        elif not tensors[name].ndim or len(tensors[name]) != rows:
            raise ValueError(f"{name} has the shape {list(tensors[name].shape)}, expected {rows} samples")


def is_whole(path: Path, block: Block) -> bool:
    """Returns whether a block's file exists as it was written, by its SHA-256."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == block.sha256
    except FileNotFoundError:
        return False


def block_file(split: str, number: int) -> str:
    """Returns the file name of a split's block."""
    return f"{split}/{number:06}.safetensors"


def narrow(values: Tensor) -> Tensor:
    """Returns the values in the smallest type from which `widen` restores them bit for bit, or unchanged.

    Int64 becomes int8, int16 or int32. Float32 becomes int8 if all values are integers from 0 to 127 or NaN, which
    becomes -1. It becomes uint8 if all values are k / 255 (a picture), int16 if all are k / 1000 (depth in whole
    millimetres, up to 32.767 m), and float16 if that is exact.

    >>> narrow(torch.tensor([1.0, float("nan")])), narrow(torch.tensor([0.0, 0.2])), narrow(torch.tensor([-1, 300]))
    (tensor([ 1, -1], dtype=torch.int8), tensor([ 0, 51], dtype=torch.uint8), tensor([ -1, 300], dtype=torch.int16))
    >>> narrow(torch.tensor([0.0, 2.345])), narrow(torch.tensor([2.0**-9]))
    (tensor([   0, 2345], dtype=torch.int16), tensor([0.0020], dtype=torch.float16))
    """
    for dtype in NARROWER.get(values.dtype, ()):
        if _converted(values.reshape(-1)[:256], dtype) is None:
            continue  # the first values already exclude this type
        if (small := _converted(values, dtype)) is not None:
            return small
    return values


def widen(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns new values of the type `dtype`, restored from the result of `narrow`: the same bits on any device."""
    if stored.dtype == dtype:
        return stored.clone()
    values = stored.to(dtype)
    if dtype != torch.float32:
        return values
    if levels := LEVELS.get(stored.dtype):
        # By a tensor: for a number, CUDA multiplies by its reciprocal, which gives other bits.
        return values.div_(torch.full((), levels, device=values.device))
    return values.masked_fill_(stored < 0, math.nan) if stored.dtype == torch.int8 else values


def _converted(values: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Returns the values in a smaller type, or None if they cannot be restored from it."""
    scaled = values
    if values.dtype == torch.float32 and dtype != torch.float16:
        low, high = (-1, 127) if dtype == torch.int8 else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        # Kept in range, because a conversion of larger values is undefined.
        scaled = (values * LEVELS.get(dtype, 1.0)).round().nan_to_num(-1).clamp(low, high)
    small = scaled.to(dtype)
    return small if torch.equal(_bits(widen(small, values.dtype)), _bits(values)) else None


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.int32) if values.dtype == torch.float32 else values
