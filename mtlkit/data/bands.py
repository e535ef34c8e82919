"""Reads images of any number of channels: colours, grey, colours with depth, or many spectral bands."""

from pathlib import Path

import numpy as np

from mtlkit.data.dataset import BadSampleError
from mtlkit.data.files import read_array
from mtlkit.data.pictures import read_exact, read_picture, read_tiff

TIFF = (".tif", ".tiff")


def read_bands(
    path: Path, channels: int | None = 3, bounds: tuple[float, float] | None = None, *, data: bytes | None = None
) -> np.ndarray:
    """Returns an image (H, W, C): uint8, or float32 in [0, 1].

    | file                      | channels                                                                             |
    |---------------------------|--------------------------------------------------------------------------------------|
    | .npy, (H, W) or (H, W, C) | those of the array                                                                   |
    | any picture               | 3, as `read_picture`; or 1, if the picture is grey; or 4 of its own, such as RGBA    |
    | .tif with other bands     | `channels` of them, (H, W, C) or (C, H, W); this needs tifffile                      |

    Args:
        path: the file.
        channels: how many the image must have. None: those of the array in an .npy file, 3 in any other file.
        bounds: the values of black and white. None: those of the type (0 and 255, 0 and 65535, 0.0 and 1.0).
        data: the content of the file, if it is not on the disk. `path` is then its name in messages.

    Raises `BadSampleError`, which names the file, if it cannot be read, has another number of channels or has values
    out of `bounds`.
    """
    if path.suffix == ".npy" and data is None:
        return bands_of(read_array(path), str(path), channels, bounds)
    if path.suffix.lower() in TIFF and channels is not None and channels not in (1, 3) and data is None:
        return bands_of(read_tiff(path, channels), str(path), channels, bounds)
    if channels == 4:
        return bands_of(read_exact(path, 4, data=data), str(path), 4, bounds)
    picture = read_picture(path, bounds, data=data)
    if channels == 1 and (picture == picture[..., :1]).all():
        return picture[..., :1]
    if channels not in (None, 3):
        found = "colours" if channels == 1 else "a picture of at most 4 channels"
        raise BadSampleError(f"{path} holds {found}, expected an image of {channels} channels (data.channels).")
    return picture


def bands_of(
    values: np.ndarray, name: str, channels: int | None = None, bounds: tuple[float, float] | None = None
) -> np.ndarray:
    """Returns the image (H, W, C) of an array (H, W) or (H, W, C), as `read_bands` does. `name` is for messages.

    >>> bands_of(np.full((2, 3), 65535, np.uint16), "a.npy").shape
    (2, 3, 1)
    """
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size or channels not in (None, values.shape[2]):
        expected = "(height, width, channels)" if channels is None else f"(height, width, {channels})"
        raise BadSampleError(f"{name} holds an array {values.shape}, expected {expected}.")
    if bounds is None and values.dtype == np.uint8:
        return np.require(values, requirements=["C", "W"])  # torch needs arrays that can be written to
    black, white = bounds or _bounds_of(values.dtype, name)
    low, high = float(values.min()), float(values.max())
    if not (low >= black and high <= white):  # this form also refuses NaN
        advice = "" if bounds else " Say the values of black and white: data.bounds=[BLACK,WHITE]."
        raise BadSampleError(f"{name} holds values from {low:g} to {high:g}, expected {black:g} to {white:g}.{advice}")
    return ((values.astype(np.float64) - black) / (white - black)).astype(np.float32)


def _bounds_of(dtype: np.dtype, name: str) -> tuple[float, float]:
    if dtype.kind == "f":
        return 0, 1
    if dtype == np.uint16:
        return 0, 65535
    raise BadSampleError(
        f"{name} holds {dtype}, which does not say which values are black and white. Say data.bounds=[BLACK,WHITE]."
    )
