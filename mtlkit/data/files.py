"""Reads the files of a data set. Errors name damaged files, and no file is accepted as something that it is not."""

import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath
from tokenize import TokenError
from typing import BinaryIO, Literal
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from mtlkit.data.dataset import BadSampleError
from mtlkit.data.limits import check_pixels

#: What NumPy raises besides ValueError if the header of an .npy file is damaged.
BAD_HEADER = (SyntaxError, TokenError, TypeError, LookupError, OverflowError, MemoryError)


def names_in(folder: Path, suffixes: str | tuple[str, ...] = "") -> list[str]:
    """Returns the names of a folder's files with one of the suffixes, ordered by the numbers in them (2 before 10).

    It lists the folder once. Hidden files do not count. The result is empty if there is no such folder. Raises
    `FileNotFoundError` for a folder that cannot be listed, such as a link to itself.
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
    except OSError:  # a broken link: reading it will raise an error with its name
        return True


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Returns a key that sorts names in the order of the numbers in them.

    >>> sorted(["img_10", "img_9", "depth_11"], key=natural)
    ['depth_11', 'img_9', 'img_10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(False, int(p), p) if p.isascii() and p.isdigit() else (True, 0, p) for p in parts]


def lacking(folder: Path, names: Sequence[str], present: Collection[str], advice: str) -> str:
    """Returns the text of `Dataset.missing` for a folder that lacks some of the files `names`; empty if it lacks none.

    >>> lacking(Path("depth"), ["1.png", "2.png"], {"1.png"}, "Unpack it again.")
    'depth lacks 1 of 2 files, the first 2.png. Unpack it again.'
    """
    gone = [name for name in names if name not in present]
    return f"{folder} lacks {len(gone)} of {len(names)} files, the first {gone[0]}. {advice}" if gone else ""


def root_folder(root: str | os.PathLike[str] | None, name: str, holds: str) -> Path:
    """Returns the folder `data.root` of the data set `name`. If there is none, the error says what it should hold."""
    if root is None:
        raise ValueError(f"data.root is not set: name the folder of the data set {name!r}, which holds {holds}.")
    path = Path(root).expanduser()
    try:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            what += "" if path.is_absolute() else f" in {Path.cwd()}"  # a run may be evaluated from another folder
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


def inside(root: Path, name: str, source: Path | str) -> Path:
    """Returns root / name for a name that the list `source` has. Raises `ValueError` if it leads out of `root`.

    A list may come from anyone, so it must not reach other files of this machine. Links in the folder are followed:
    who put them there had the right to write there.

    >>> inside(Path("data"), "a/1.png", "list.txt").as_posix()
    'data/a/1.png'
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{source} names {name!r}, which leads out of {root}. A list can only name files in it.")
    return root / path


def first_that_exists(paths: Iterable[Path]) -> Path | None:
    """Returns the first of the paths that exists."""
    return next((path for path in paths if path.exists()), None)


def read_array(path: Path, shape: Sequence[int | None] = ()) -> np.ndarray:
    """Returns the array of an .npy file. If `shape` is given, the array must have it; None means any length.

    Raises `BadSampleError` for a missing or damaged file, for pickled objects, for values that are not numbers, for
    another shape and for too many pixels (`mtlkit.data.limits`).
    """
    try:
        with path.open("rb") as file:  # np.load would leave it open if it fails
            check_pixels(path, _shape_of(file))
            values = np.load(file, allow_pickle=False)
    except BadSampleError:
        raise
    except BAD_HEADER as error:
        raise unreadable(path, ValueError("its header is damaged or asks for too much memory")) from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        if "pickle" in str(error):  # NumPy advises to allow it, but then the file could run code
            raise unreadable(path, ValueError("it holds no array of numbers")) from error
        raise unreadable(path, error) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise BadSampleError(
            f"{path} holds {getattr(values, 'dtype', 'several arrays')}, expected one array of numbers."
        )
    if shape:
        check_shape(path, values, shape)
    return values


def _shape_of(file: BinaryIO) -> tuple[int, ...]:
    """Returns the shape in the header of an .npy file, and () for any other file. The file is at its start again.

    Raises `ValueError` if the file has fewer bytes than the header says: NumPy would first ask for the memory.
    """
    known = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    file.seek(0)
    if not known:
        return ()
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    there, needed = os.fstat(file.fileno()).st_size - file.tell(), math.prod(shape) * dtype.itemsize
    if there < needed and not dtype.hasobject:
        raise ValueError(f"its header says {shape} values of {dtype}, but the file ends before")
    file.seek(0)
    return tuple(shape)


def read_image_array(path: Path) -> np.ndarray:
    """Returns the image (H, W, 3) of an .npy file: uint8, or float32 in [0, 1]. It clips up to 0.001 of overshoot.

    Raises `BadSampleError` as `read_array` does, and for values that are further out of range.
    """
    values = read_array(path, (None, None, 3))
    if values.dtype == np.uint8 or not values.size:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= -0.001 and high <= 1.001):  # this form also refuses NaN
        raise BadSampleError(f"{path} holds values from {low:g} to {high:g}, expected an image in [0, 1].")
    return values.clip(0, 1).astype(np.float32)


def read_label_array(path: Path, shape: Sequence[int | None] = ()) -> np.ndarray:
    """Returns the labels of an .npy file, as `read_array`. In uint8, which has no -1 (ignored), 255 means ignored."""
    values = read_array(path, shape)
    return np.where(values == 255, -1, values.astype(np.int64)) if values.dtype == np.uint8 else values


def check_shape(path: Path, values: np.ndarray, shape: Sequence[int | None]) -> None:
    """Raises `BadSampleError` unless the values from the file have the shape. None means any length."""
    fits = len(shape) == values.ndim and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise BadSampleError(f"{path} holds an array {values.shape}, expected ({expected}).")


def unreadable(path: Path, error: Exception) -> BadSampleError:
    """Returns the error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return BadSampleError(f"{path} is missing.")
    empty = path.is_file() and path.stat().st_size == 0
    what = "it is empty, of 0 bytes" if empty else " ".join(str(error).split())[:300]
    return BadSampleError(f"{path} is damaged or not what its name says: {what}")


def resize(
    values: np.ndarray,
    size: tuple[int, int] | None,
    *,
    exact: bool = False,
    how: Literal["area", "torchvision"] = "area",
) -> np.ndarray:
    """Resizes (H, W) or (H, W, C) values to `size` (width, height). With None or their own size, they do not change.

    A smaller picture is averaged over the area of each pixel, and a larger one is interpolated. With the `how`
    "torchvision", a picture of 8 bits gets the bytes that torchvision's `Resize` makes of it: those of Pillow's
    bilinear filter, which is twice as wide as a pixel of a smaller picture. With `exact`, for targets, every pixel
    takes the value at its centre, so there is no value that was not measured.
    """
    if size is None or (values.shape[1], values.shape[0]) == tuple(size):
        return values
    width, height = size
    if exact:
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in zip((height, width), values.shape, strict=False)
        )
        return values[rows[:, None], columns]
    if how == "torchvision":
        return _resize_by_pillow(values, (width, height))
    if values.ndim == 3 and values.shape[2] not in (3, 4):  # OpenCV drops the axis of one channel, and averages up to 4
        return np.stack([resize(channel, size) for channel in np.moveaxis(values, 2, 0)], axis=2)
    smaller = width <= values.shape[1] and height <= values.shape[0]
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _resize_by_pillow(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a picture (H, W, C), uint8 or float32, by Pillow's bilinear filter."""
    if values.dtype == np.uint8 and values.shape[2] == 3:
        return np.array(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
    channels = [
        Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR) for channel in np.moveaxis(values, 2, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def image_tensor(values: np.ndarray) -> Tensor:
    """Turns (H, W, C) uint8, or floats in [0, 1], into (C, H, W) float32 in [0, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)
    return image / 255 if image.dtype == torch.uint8 else image.float().contiguous()


def map_tensor(values: np.ndarray) -> Tensor:
    """Turns (H, W) into (1, H, W), or (H, W, C) into (C, H, W), as float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()
