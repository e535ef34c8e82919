"""What all forms have in common in which NYUv2 is handed on."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from mtlkit.data.dataset import BadSampleError, Camera
from mtlkit.data.files import check_shape, unreadable
from mtlkit.data.geometry import normals_from_depth
from mtlkit.data.splits import Indices, hold_out_blocks

Key = TypeVar("Key")  # what a form calls its frames

WIDTH, HEIGHT = 640, 480
EIGEN = (slice(44, 471), slice(40, 601))  #: rows and columns that Eigen et al. evaluate: 561 x 427 pixels
GUPTA = (slice(45, 470), slice(40, 600))  #: those of Gupta et al.: 560 x 425 pixels
CENTRE = (slice(16, 464), slice(32, 608))  #: of 576 x 448 pixels
WHOLE = (slice(0, HEIGHT), slice(0, WIDTH))
Crop = tuple[slice, slice]


def camera_of(crop: Crop) -> Camera:
    """The camera of the colour frames (`camera_params.m` of the toolbox), cropped.

    The toolbox counts pixels from 1, so that its centre lies half a pixel further left and up in our coordinates,
    in which the first pixel's centre is at 1/2.
    """
    rows, columns = crop
    width, height = columns.stop - columns.start, rows.stop - rows.start
    centre_x, centre_y = 325.58244941119034 - 0.5 - columns.start, 253.73616633400465 - 0.5 - rows.start
    return 518.85790117450188 / width, 519.46961112127485 / height, centre_x / width, centre_y / height


class Form(ABC, Generic[Key]):
    """A form in which NYUv2 is handed on; a frame is read when it is asked for. Damage raises `BadSampleError`."""

    train: Sequence[Key]  #: the published training frames
    test: Sequence[Key]  #: the published test frames
    classes: int  #: of the labels, 13 or 40
    camera: Camera
    has_normals: bool = True
    notes: list[str]

    @abstractmethod
    def label(self, key: Key) -> str:
        """The file of a frame."""

    @abstractmethod
    def image(self, key: Key) -> np.ndarray:
        """(H, W, 3), uint8 or float32 in [0, 1]."""

    @abstractmethod
    def labels(self, key: Key) -> np.ndarray:
        """(H, W) int64 from 0 on, -1 unlabelled."""

    @abstractmethod
    def depth(self, key: Key) -> np.ndarray:
        """(H, W) float32, metres, 0 unknown."""

    @abstractmethod
    def normals(self, key: Key) -> np.ndarray:
        """(H, W, 3) float32, unit or (0, 0, 0), channels as they are stored."""

    @abstractmethod
    def normals_file(self, key: Key) -> Path | None:
        """The file of a frame's normals, None where they are not read but computed."""

    def missing(self, keys: Sequence[Key]) -> str:
        """What `Dataset.missing` says of these frames."""
        return ""

    def reference(self, key: Key) -> np.ndarray:
        """Normals as depth has them, in our frame, which stored ones must resemble."""
        depth = self.depth(key)
        return normals_from_depth(depth, self.camera, reach(depth.shape[1]))

    def hold_out(self, share: float) -> tuple[Indices, Indices]:
        """The training frames in training and validation."""
        self.notes.append(
            "No scene is known in this form: the validation frames are blocks of neighbours, and the frames on both "
            "sides of a block, which may show the same room, are not used."
        )
        return hold_out_blocks(len(self.train), share)


def reach(width: int) -> int:
    """Of normals that a convention is found by: so wide that the Kinect's noise at 5 m does not hide a wall."""
    return max(1, round(width / 40))


def read_mat(path: Path, key: str) -> np.ndarray:
    """An array of numbers from a MATLAB file older than v7.3. Raises `BadSampleError`."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    damage = (MatReadError, OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error)
    try:
        values = loadmat(path, appendmat=False, variable_names=[key]).get(key)
    except damage as error:
        raise unreadable(path, error) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise BadSampleError(f"{path} holds no array of numbers {key!r}.")
    return values


def whole_numbers(path: Path, values: np.ndarray, low: int, high: int) -> np.ndarray:
    """(H, W) labels as int64; raises `BadSampleError` for others than `low` to `high`."""
    check_shape(path, values, (None, None))
    with np.errstate(invalid="ignore"):  # NaN and what is too large become some number that they do not equal
        whole = values.astype(np.int64)
    wrong = values[(whole != values) | (whole < low) | (whole > high)]
    if wrong.size:
        found = ", ".join(f"{value:g}" for value in np.unique(wrong)[:5])
        raise BadSampleError(f"{path} holds the labels {found}; expected whole numbers from {low} to {high}.")
    return whole


def metres(path: Path, values: np.ndarray) -> np.ndarray:
    """Depth (H, W) or (H, W, 1) as (H, W) float32, 0 where it is not known."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    check_shape(path, values, (None, None))
    with np.errstate(over="ignore"):
        depth = values.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
