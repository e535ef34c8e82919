"""Reads the values in SUN RGB-D's files: labels, depth, intrinsics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtlkit.data.dataset import BadSampleError, Camera
from mtlkit.data.files import names_in, unreadable
from mtlkit.data.matlab import reading_mat
from mtlkit.data.pictures import read_exact
from mtlkit.datasets.sunrgbd.index import LABELS, Frame

FARTHEST = 8.0  # metres
CODINGS = {
    "rotated": "in millimetres with their bits rotated by 3, as published",
    "tenths": "in tenths of a millimetre, as re-exported",
    "plain": "in millimetres, as re-exported",
}


def read_label(frame: Frame, classes: int) -> np.ndarray:
    """Returns the label (H, W) of a frame. 0 is void, 1 to `classes` are the classes. Raises `BadSampleError`."""
    values = read_exact(frame.file) if frame.place is None else _from_mat(frame, frame.place)
    if values.ndim != 2 or values.dtype.kind not in "uif" or not values.size:
        raise BadSampleError(f"{frame.label} holds {values.dtype} {values.shape}, expected numbers (height, width).")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= classes) or (values.dtype.kind == "f" and (values % 1).any()):
        raise BadSampleError(
            f"{frame.label} holds values from {low:g} to {high:g}, expected whole numbers from 0 (void) to {classes}."
        )
    return values.astype(np.intp)


def _from_mat(frame: Frame, place: int) -> np.ndarray:
    import h5py

    def told(error: Exception) -> BadSampleError:
        return BadSampleError(f"{frame.label} cannot be read: {' '.join(str(error).split())[:300]}")

    # Opened each time, so that no handle is shared with worker processes.
    with reading_mat(told), h5py.File(frame.file, "r", locking=False) as file:
        return np.asarray(file[file[LABELS][place, 0]]).T


def only_file(folder: Path, *suffixes: str) -> Path:
    """Returns the only file with such a suffix in a folder. Its name differs per frame. Raises `BadSampleError`."""
    names = names_in(folder, suffixes)
    if len(names) != 1:
        found = f"holds {', '.join(names)}" if names else "is missing or holds none"
        raise BadSampleError(f"{folder} {found}, expected one {' or '.join(suffixes)} file.")
    return folder / names[0]


def read_raw_depth(folder: Path) -> np.ndarray:
    """Returns the unchanged values (H, W) of the depth picture, uint16. Raises `BadSampleError`."""
    path = only_file(folder, ".png")
    values = read_exact(path)
    if values.dtype not in (np.uint16, np.int32):  # int32: older versions of Pillow read 16 bits so
        raise BadSampleError(f"{path} holds {values.dtype} values, expected a PNG of 16 bits.")
    return values.astype(np.uint16)


def coding_of(folders: Sequence[Path]) -> str:
    """Returns which of `CODINGS` the depth pictures in the folders of some frames have.

    A depth d in millimetres is published as (d << 3) | (d >> 13). Its three lowest bits are 0 or 1 up to 16 m. For
    other values this is so at only a quarter of the pixels. Millimetres that are not rotated rarely exceed 10,000.
    Tenths of millimetres do.

    Raises the `BadSampleError` of the first picture if none can be read.
    """
    values, errors = [np.zeros(0, np.uint16)], []
    for folder in folders:
        try:
            picture = read_raw_depth(folder)
        except BadSampleError as error:
            errors.append(error)
        else:
            values.append(picture[picture > 0])
    if errors and len(errors) == len(folders):
        raise errors[0]
    known = np.concatenate(values)
    if not len(known) or (known & 7 <= 1).mean() > 0.9:
        return "rotated"
    return "tenths" if (known > 10_000).mean() > 0.05 else "plain"


def metres(values: np.ndarray, coding: str) -> np.ndarray:
    """Converts uint16 in one of `CODINGS` to float32 metres. 0 means unknown; at most 8 as in the toolbox."""
    if coding == "rotated":
        values = (values >> 3) | (values << 13)
    return np.minimum(values.astype(np.float32) / (10_000 if coding == "tenths" else 1000), FARTHEST)


def read_camera(path: Path, size: tuple[int, int]) -> Camera:
    """Reads a frame's camera from intrinsics.txt, a 3 x 3 matrix in pixels of its image. Raises `BadSampleError`."""
    try:
        fx, skew, cx, _, fy, cy, *last = map(float, path.read_text().split())
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    width, height = size
    if not (fx > 0 and fy > 0 and skew == 0 and last == [0, 0, 1] and 0 < cx < width and 0 < cy < height):
        raise BadSampleError(
            f"{path} holds f_x, f_y, c_x, c_y = {fx:g}, {fy:g}, {cx:g}, {cy:g}, no pinhole camera of an image of "
            f"{width} x {height} pixels."
        )
    # Sources count pixels from different places: from 1 in the toolbox's read3dPoints, from 0 in NYUv2's crop, and from
    # the corner (as here) in Kinect v2, whose centre is half the size. The error is at most half a pixel.
    return fx / width, fy / height, cx / width, cy / height
