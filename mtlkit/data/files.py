"""Reading the files of a data set: what is damaged is named, and nothing is taken for what it is not."""

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor

from mtlkit.data.dataset import BadSampleError

#: What NumPy lets out beside ValueError where the header of an .npy file is damaged.
BAD_HEADER = (SyntaxError, TokenError, TypeError, LookupError, OverflowError, MemoryError)


def names_in(folder: Path, suffixes: str | tuple[str, ...] = "") -> list[str]:
    """The names of a folder's files with one of the suffixes, in the order of the numbers in them (2 before 10).

    One look at the folder, however many files it has. Empty where there is no such folder; hidden files do not count.
    Raises `FileNotFoundError` for a folder that cannot be listed, such as a link to itself.
    """
    try:
        with os.scandir(folder) as entries:
            found = [e.name for e in entries if e.name.endswith(suffixes) and e.name[0] != "." and _is_file(e)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FileNotFoundError(f"{folder} cannot be listed: {error}") from error
    return sorted(found, key=natural)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads nowhere, or to itself: reading it will say so, with its name
        return True


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key to sort names by, in the order of the numbers in them.

    >>> sorted(["img_10", "img_9", "depth_11"], key=natural)
    ['depth_11', 'img_9', 'img_10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(False, int(p), p) if p.isascii() and p.isdigit() else (True, 0, p) for p in parts]


def lacking(folder: Path, names: Sequence[str], present: Collection[str], advice: str) -> str:
    """What `Dataset.missing` says of a folder that lacks some of the files `names`; empty where it has all of them.

    >>> lacking(Path("depth"), ["1.png", "2.png"], {"1.png"}, "Unpack it again.")
    'depth lacks 1 of 2 files, the first 2.png. Unpack it again.'
    """
    gone = [name for name in names if name not in present]
    return f"{folder} lacks {len(gone)} of {len(names)} files, the first {gone[0]}. {advice}" if gone else ""


def root_folder(root: str | os.PathLike[str] | None, name: str, holds: str) -> Path:
    """The folder `data.root` of the data set `name`; raises with what it should hold where there is none."""
    if root is None:
        raise ValueError(f"data.root is not set: name the folder of the data set {name!r}, which holds {holds}.")
    path = Path(root).expanduser()
    try:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise FileNotFoundError(f"data.root={path} {what}; expected a folder with {holds}.")
        with os.scandir(path):
            pass
    except PermissionError as error:
        raise PermissionError(f"data.root={path} cannot be read: {error}") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileNotFoundError(
            f"data.root={path} cannot be read ({error}); expected a folder with {holds}."
        ) from error
    return path


def first_that_exists(paths: Iterable[Path]) -> Path | None:
    """The first of the paths at which there is something."""
    return next((path for path in paths if path.exists()), None)


def read_array(path: Path, shape: Sequence[int | None] = ()) -> np.ndarray:
    """The array of an .npy file; `shape`, if given, is what it must have, None standing for any length.

    Raises `BadSampleError` for a missing or damaged file, pickled objects, values that are no numbers and another
    shape.
    """
    try:
        with path.open("rb") as file:  # np.load would leave it open where it fails
            values = np.load(file, allow_pickle=False)
    except BAD_HEADER as error:
        raise unreadable(path, ValueError("its header is damaged or asks for too much memory")) from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        if "pickle" in str(error):  # NumPy's advice to allow it: what is in there could then run as code
            raise unreadable(path, ValueError("it holds no array of numbers")) from error
        raise unreadable(path, error) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise BadSampleError(
            f"{path} holds {getattr(values, 'dtype', 'several arrays')}, expected one array of numbers."
        )
    if shape:
        check_shape(path, values, shape)
    return values


def read_image_array(path: Path) -> np.ndarray:
    """The image (H, W, 3) of an .npy file: uint8, or float32 in [0, 1], what resizing left 0.001 beyond being cut off.

    Raises `BadSampleError` as `read_array` does, and for values out of range.
    """
    values = read_array(path, (None, None, 3))
    if values.dtype == np.uint8 or not values.size:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= -0.001 and high <= 1.001):  # NaN fails, too
        raise BadSampleError(f"{path} holds values from {low:g} to {high:g}, expected an image in [0, 1].")
    return values.clip(0, 1).astype(np.float32)


def read_label_array(path: Path, shape: Sequence[int | None] = ()) -> np.ndarray:
    """The labels of an .npy file, as `read_array`; in uint8, which has no -1 (ignored), 255 stands for it."""
    values = read_array(path, shape)
    return np.where(values == 255, -1, values.astype(np.int64)) if values.dtype == np.uint8 else values


def check_shape(path: Path, values: np.ndarray, shape: Sequence[int | None]) -> None:
    """Raises `BadSampleError` unless the values from the file have the shape, None standing for any length."""
    fits = len(shape) == values.ndim and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise BadSampleError(f"{path} holds an array {values.shape}, expected ({expected}).")


def unreadable(path: Path, error: Exception) -> BadSampleError:
    """The error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return BadSampleError(f"{path} is missing.")
    empty = path.is_file() and path.stat().st_size == 0
    what = "it is empty, of 0 bytes" if empty else " ".join(str(error).split())[:300]
    return BadSampleError(f"{path} is damaged or not what its name says: {what}")


def resize(values: np.ndarray, size: tuple[int, int] | None, *, exact: bool = False) -> np.ndarray:
    """(H, W) or (H, W, C) values at `size` (width, height), None or their own leaving them as they are.

    Pictures are averaged over the area that a pixel covers, or interpolated where they grow. With `exact`, for
    targets, every pixel takes the value at its centre, so that no value arises that was not measured.
    """
    if size is None or (values.shape[1], values.shape[0]) == tuple(size):
        return values
    width, height = size
    if exact:
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in zip((height, width), values.shape, strict=False)
        )
        return values[rows[:, None], columns]
    smaller = width <= values.shape[1] and height <= values.shape[0]
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def image_tensor(values: np.ndarray) -> Tensor:
    """(H, W, 3) uint8, or floats in [0, 1] -> (3, H, W) float32 in [0, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)
    return image / 255 if image.dtype == torch.uint8 else image.float().contiguous()


def map_tensor(values: np.ndarray) -> Tensor:
    """(H, W) -> (1, H, W), (H, W, C) -> (C, H, W), as float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()
