"""NYU's own form: nyu_depth_v2_labeled.mat, with the splits and the classes in files beside it."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlkit.data.dataset import BadSampleError
from mtlkit.data.files import unreadable
from mtlkit.data.geometry import normals_from_depth
from mtlkit.data.matlab import reading_mat
from mtlkit.data.splits import Indices, hold_out_groups
from mtlkit.datasets.nyuv2.form import (
    HEIGHT,
    WHOLE,
    WIDTH,
    Crop,
    Form,
    camera_of,
    metres,
    reach,
    read_mat,
    whole_numbers,
)
from mtlkit.datasets.nyuv2.pictures import FOLDERS, SOURCES, Pictures, find
from mtlkit.datasets.nyuv2.sources import FILE, META, PAGE

if TYPE_CHECKING:
    import h5py

MAP = (WIDTH, HEIGHT)  # HDF5 stores the axes of MATLAB's arrays in reverse order
SHAPES = {"images": (3, *MAP), "depths": MAP, "rawDepths": MAP, "labels": MAP}


class Official(Form[int]):
    """Cropped frames, by their number in the .mat, from 0.

    `depth` is "depths" or "rawDepths". `normals` is None for a known folder beside the .mat, if it exists; or a folder;
    or "depth", which computes them. Raises `ValueError` and `FileNotFoundError`.
    """

    classes = 40

    def __init__(self, file: Path, crop: Crop, depth: str, normals: str | None) -> None:
        self.file, self.crop, self._depth = file, crop, depth
        rows, columns = crop
        self.notes = [
            f"The official {FILE}, rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}."
        ]
        self.camera = camera_of(crop)
        count = _check(file)
        self.train, self.test = _splits(file.parent, count)
        self._find_classes(count)
        self._find_normals(normals)
        self._open: tuple[int, h5py.File] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def label(self, key: int) -> str:
        return f"{self.file}, frame {key}"

    def image(self, key: int) -> np.ndarray:
        return np.ascontiguousarray(self._read("images", key)[self.crop])

    def labels(self, key: int) -> np.ndarray:
        if self._labels40 is not None:
            return whole_numbers(self._classes_file, self._labels40[..., key][self.crop], 0, 40) - 1
        ids = whole_numbers(Path(self.label(key)), self._read("labels", key)[self.crop], 0, 2**16 - 1)
        if ids.max() >= len(self._to_40):
            raise BadSampleError(
                f"{self.label(key)} holds the label {ids.max()}, but {self._classes_file} knows 1 to "
                f"{len(self._to_40) - 1} only."
            )
        return self._to_40[ids] - 1

    def depth(self, key: int) -> np.ndarray:
        return metres(self.file, self._read(self._depth, key)[self.crop])

    def reference(self, key: int) -> np.ndarray:
        return self._computed(key, reach(WIDTH))

    def normals(self, key: int) -> np.ndarray:
        return self._pictures.read(key)[self.crop] if self._pictures else self._computed(key)

    def normals_file(self, key: int) -> Path | None:
        return self._pictures.file(key) if self._pictures else None

    def missing(self, keys: Sequence[int]) -> str:
        return self._pictures.missing(keys) if self._pictures else ""

    def hold_out(self, share: float) -> tuple[Indices, Indices]:
        import h5py

        with reading_mat(partial(unreadable, self.file)), h5py.File(self.file, "r", locking=False) as data:
            names = data["scenes"][()].ravel()
            scenes = ["".join(map(chr, data[names[key]][()].ravel())) for key in self.train]
        train, val = hold_out_groups(scenes, share)
        held = len({scenes[i] for i in val})
        self.notes.append(f"Validation: {len(val)} training frames, all those of {held} of {len(set(scenes))} scenes.")
        return train, val

    def _computed(self, key: int, reach: int | None = None) -> np.ndarray:
        # Computed from whole frames, so that the crop's border has normals, and always from filled depth.
        return normals_from_depth(self._read("depths", key), camera_of(WHOLE), reach)[self.crop]

    def _read(self, name: str, key: int) -> np.ndarray:
        """Reads one frame of an array, (H, W) or (H, W, 3)."""
        with reading_mat(partial(unreadable, Path(self.label(key)))):
            values: np.ndarray = self._data()[name][key].T
        if values.dtype.kind not in "fiu":
            raise BadSampleError(f"{self.label(key)} holds no numbers in {name}, but {values.dtype}.")
        return values

    def _data(self) -> Mapping[str, Any]:
        """Returns the file, opened by this process. A child process must not use the handle of its parent."""
        import h5py

        if self._open is None or self._open[0] != os.getpid():
            self._open = None  # first of all, because HDF5 would reuse the parent's open descriptor
            self._open = os.getpid(), h5py.File(self.file, "r", locking=False)
        return self._open[1]

    def _find_classes(self, count: int) -> None:
        """Finds what maps the 894 classes to 40: `_to_40` by id, or `_labels40`, the mapped labels."""
        folder = self.file.parent
        self._labels40: np.ndarray | None = None
        self._classes_file = folder / "classMapping40.mat"
        if self._classes_file.exists():
            self._to_40 = np.concatenate([[0], read_mat(self._classes_file, "mapClass").ravel()]).astype(np.int64)
            if not ((self._to_40[1:] >= 1) & (self._to_40[1:] <= 40)).all():
                raise ValueError(f"mapClass in {self._classes_file} must hold ids from 1 to 40. Get it from {META}.")
            return
        self._classes_file = folder / "labels40.mat"
        if not self._classes_file.exists():
            raise FileNotFoundError(
                f"{folder} lacks classMapping40.mat, which takes the 894 classes of {FILE} to 40 (labels40.mat, the "
                f"mapped labels, would do). Both are to be had from {META}."
            )
        self._labels40 = read_mat(self._classes_file, "labels40")
        if self._labels40.shape != (HEIGHT, WIDTH, count):
            raise ValueError(
                f"labels40 in {self._classes_file} has the shape {self._labels40.shape}, expected "
                f"{(HEIGHT, WIDTH, count)} for the frames of {self.file}."
            )
        self.notes.append(
            f"The labels of labels40.mat take {self._labels40.nbytes / 1e6:.0f} MB of memory; with classMapping40.mat "
            "labels are read a frame at a time."
        )

    def _find_normals(self, normals: str | None) -> None:
        self._pictures: Pictures | None = None
        if normals == "depth":
            self.notes.append("The normals are computed from the filled depth.")
            return
        root = self.file.parent if normals is None else Path(normals).expanduser()
        folder = find([*([] if normals is None else [root]), *(root / name for name in FOLDERS)])
        if folder is None and normals is None:
            self.has_normals = False
            self.notes.append(
                f"No normals: {FILE} has none, and {' or '.join(FOLDERS)} is not beside it. To be had: "
                f"{SOURCES}. Name such a folder by data.normals, or set data.normals=depth to compute them from depth."
            )
            return
        self._pictures = Pictures(folder or root)
        self.notes.append(f"The normals are those in {self._pictures.folder}.")


def _check(file: Path) -> int:
    """Returns the number of frames. Raises `ValueError` for another file."""
    import h5py

    advice = f"Expected {FILE} from {PAGE}: MATLAB v7.3, that is HDF5, and 2,972,037,809 bytes."

    def told(error: Exception) -> ValueError:
        return ValueError(f"{file} cannot be read: {_what(file) or ' '.join(str(error).split())}. {advice}")

    with reading_mat(told), h5py.File(file, "r", locking=False) as data:
        shapes = {name: item.shape for name, item in data.items() if isinstance(item, h5py.Dataset)}
    if missing := [name for name in (*SHAPES, "scenes") if name not in shapes]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; found {', '.join(sorted(shapes)) or 'nothing'}. {advice}")
    count = shapes["images"][0]
    for name, shape in SHAPES.items():
        if shapes[name] != (count, *shape):
            raise ValueError(f"{name} in {file} has the shape {shapes[name]}, expected {(count, *shape)}. {advice}")
    return count


def _what(file: Path) -> str:
    """Describes a file that may be mistaken for HDF5."""
    try:
        with file.open("rb") as stream:
            head = stream.read(10)
    except OSError:
        return ""
    kinds = {b"PK": "it is a zip archive, to be unpacked first", b"MATLAB 5.0": "it is a MATLAB file older than v7.3"}
    return next((kind for start, kind in kinds.items() if head.startswith(start)), "")


def _splits(folder: Path, count: int) -> tuple[list[int], list[int]]:
    file = folder / "splits.mat"
    if not file.exists():
        raise FileNotFoundError(
            f"{folder} lacks splits.mat, which tells training from test frames: get it from {META}."
        )
    train, test = (read_mat(file, key).ravel().astype(np.int64) - 1 for key in ("trainNdxs", "testNdxs"))
    both = np.concatenate([train, test])
    if len(np.unique(both)) < len(both) or both.min(initial=0) < 0 or both.max(initial=0) >= count:
        raise ValueError(f"{file} does not split {count} frames: it names frames twice or beyond 1 to {count}.")
    return train.tolist(), test.tolist()
