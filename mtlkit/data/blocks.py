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
NARROWER = {torch.int64: (torch.int8, torch.int16, torch.int32), torch.float32: (torch.int8, torch.uint8)}


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
        if name not in self.tensors:
            return None
        if (present := self.tensors.get(f"present.{name}")) is not None:
            if not present[row]:
                return None
            row = int(present[:row].sum())
        return widen(self.tensors[name][row], self.dtypes[name])


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
    becomes -1. It becomes uint8 if all values are k / 255.

    >>> narrow(torch.tensor([1.0, float("nan")])), narrow(torch.tensor([0.0, 0.2])), narrow(torch.tensor([-1, 300]))
    (tensor([ 1, -1], dtype=torch.int8), tensor([ 0, 51], dtype=torch.uint8), tensor([ -1, 300], dtype=torch.int16))
    """
    for dtype in NARROWER.get(values.dtype, ()):
        if _converted(values.reshape(-1)[:256], dtype) is None:
            continue  # the first values already exclude this type
        if (small := _converted(values, dtype)) is not None:
            return small
    return values


def widen(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns new values of the type `dtype`, restored from the result of `narrow`."""
    if stored.dtype == dtype:
        return stored.clone()
    values = stored.to(dtype)
    if dtype == torch.float32:
        return values.div_(255) if stored.dtype == torch.uint8 else values.masked_fill_(stored < 0, math.nan)
    return values


def _converted(values: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Returns the values in a smaller type, or None if they cannot be restored from it."""
    scaled = values
    if values.dtype == torch.float32:  # kept in range, because a conversion of larger values is undefined
        low, high, scale = (0, 255, 255) if dtype == torch.uint8 else (-1, 127, 1)
        scaled = (values * scale).round().nan_to_num(-1).clamp(low, high)
    small = scaled.to(dtype)
    return small if torch.equal(_bits(widen(small, values.dtype)), _bits(values)) else None


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.int32) if values.dtype == torch.float32 else values
