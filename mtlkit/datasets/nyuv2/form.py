"""The common part of all forms in which NYUv2 is distributed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from mtlkit.data.dataset import BadSampleError, Camera
from mtlkit.data.files import check_shape, unreadable
from mtlkit.data.geometry import normals_from_depth
from mtlkit.data.limits import check_pixels
from mtlkit.data.matlab import reading_mat
from mtlkit.data.splits import Indices, hold_out_blocks

Key = TypeVar("Key")  # the type of a form's frame keys

WIDTH, HEIGHT = 640, 480
EIGEN = (slice(44, 471), slice(40, 601))  #: the rows and columns that Eigen et al. evaluate: 561 x 427 pixels
GUPTA = (slice(45, 470), slice(40, 600))  #: the rows and columns of Gupta et al.: 560 x 425 pixels
CENTRE = (slice(16, 464), slice(32, 608))  #: the rows and columns of the form with 576 x 448 pixels
WHOLE = (slice(0, HEIGHT), slice(0, WIDTH))
Crop = tuple[slice, slice]


def camera_of(crop: Crop) -> Camera:
    """Returns the camera of the colour frames (`camera_params.m` of the toolbox), cropped.

    The toolbox counts pixels from 1. In our coordinates the centre of the first pixel is at 1/2, so the toolbox's
    centre is half a pixel further left and up.
    """
    rows, columns = crop
    width, height = columns.stop - columns.start, rows.stop - rows.start
    centre_x, centre_y = 325.58244941119034 - 0.5 - columns.start, 253.73616633400465 - 0.5 - rows.start
    return 518.85790117450188 / width, 519.46961112127485 / height, centre_x / width, centre_y / height


class Form(ABC, Generic[Key]):
    """A form in which NYUv2 is distributed. A frame is read on demand. A damaged file raises `BadSampleError`."""

    train: Sequence[Key]  #: the published training frames
    test: Sequence[Key]  #: the published test frames
    classes: int  #: the number of classes of the labels, 13 or 40
    camera: Camera
    has_normals: bool = True
    notes: list[str]

    @abstractmethod
    def label(self, key: Key) -> str:
        """Returns the file of a frame."""

    @abstractmethod
    def image(self, key: Key) -> np.ndarray:
        """Returns the image (H, W, 3), uint8 or float32 in [0, 1]."""

    @abstractmethod
    def labels(self, key: Key) -> np.ndarray:
        """Returns the labels (H, W) int64, from 0. -1 means unlabelled."""

    @abstractmethod
    def depth(self, key: Key) -> np.ndarray:
        """Returns the depth (H, W) float32 in metres. 0 means unknown."""

    @abstractmethod
    def normals(self, key: Key) -> np.ndarray:
        """Returns the normals (H, W, 3) float32, unit or (0, 0, 0), with the channels in the stored order."""

    @abstractmethod
    def normals_file(self, key: Key) -> Path | None:
        """Returns the file of a frame's normals, or None if they are computed."""

    def missing(self, keys: Sequence[Key]) -> str:
        """Returns the text of `Dataset.missing` for these frames."""
        return ""

    def remarks(self, keys: Sequence[Key]) -> list[str]:
        """Returns further notes, on these frames."""
        return []

    def reference(self, key: Key) -> np.ndarray:
        """Returns normals computed from depth, in our frame of axes. Stored normals must be similar to them."""
        depth = self.depth(key)
        return normals_from_depth(depth, self.camera, reach(depth.shape[1]))

    def hold_out(self, share: float) -> tuple[Indices, Indices]:
        """Returns the training frames for training and for validation."""
        self.notes.append(
            "No scene is known in this form: the validation frames are blocks of neighbours, and the frames on both "
            "sides of a block, which may show the same room, are not used."
        )
        return hold_out_blocks(len(self.train), share)


def reach(width: int) -> int:
    """Returns the reach of the normals that find a convention. The Kinect's noise at 5 m must not hide a wall."""
    return max(1, round(width / 40))


def read_mat(path: Path, key: str) -> np.ndarray:
    """Reads an array of numbers from a MATLAB file older than v7.3. Raises `BadSampleError`."""
    from scipy.io import loadmat, whosmat

    with reading_mat(partial(unreadable, path)):
        for name, shape, _ in whosmat(path, appendmat=False):
            if name == key:
                check_pixels(path, shape)
        values = loadmat(path, appendmat=False, variable_names=[key]).get(key)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise BadSampleError(f"{path} holds no array of numbers {key!r}.")
    return values


def whole_numbers(path: Path, values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Returns labels (H, W) as int64. Raises `BadSampleError` for values that are not from `low` to `high`."""
    check_shape(path, values, (None, None))
    with np.errstate(invalid="ignore"):  # NaN and too large values become a number that differs from them
        whole = values.astype(np.int64)
    wrong = values[(whole != values) | (whole < low) | (whole > high)]
    if wrong.size:
        found = ", ".join(f"{value:g}" for value in np.unique(wrong)[:5])
        raise BadSampleError(f"{path} holds the labels {found}; expected whole numbers from {low} to {high}.")
    return whole


def metres(path: Path, values: np.ndarray) -> np.ndarray:
    """Returns depth (H, W) or (H, W, 1) as (H, W) float32. 0 means unknown."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    check_shape(path, values, (None, None))
    with np.errstate(over="ignore"):
        depth = values.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
