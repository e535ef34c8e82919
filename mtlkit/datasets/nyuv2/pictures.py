"""Normals as pictures, one file per frame. The official form needs them, because it has no normals of its own."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mtlkit.data.files import check_shape, names_in
from mtlkit.data.pictures import read_exact
from mtlkit.datasets.nyuv2.form import HEIGHT, WIDTH
from mtlkit.datasets.nyuv2.normals import decode
from mtlkit.datasets.nyuv2.sources import EIGEN, LADICKY

FOLDERS = ("normals_gt", "nyu_normals_gt")  #: the names in the archives of Eigen et al. and of Ladicky et al.
SOURCES = f"Eigen's from {EIGEN}, Ladicky's from {LADICKY}"


class Pictures:
    """The normals of whole frames, by the number of the frame from 0.

    The files are Eigen's `normals/0000.png` with `masks/0000.png`, numbered from 0, or Ladicky's `train/00003.png` and
    `test/00001.png`, numbered from 1 and without masks. Raises `FileNotFoundError` for any other folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not find([folder]):
            raise FileNotFoundError(
                f"{folder} holds no normals: expected normals/0000.png ... and masks/0000.png ... (Eigen's normals_gt) "
                "or train/00003.png ... and test/00001.png ... (Ladicky's nyu_normals_gt). To be had: "
                f"{SOURCES}."
            )
        self._normals, self._masks = _numbered(folder / "normals", 0), _numbered(folder / "masks", 0)
        self._eigen = bool(self._normals)
        if not self._eigen:
            self._normals = _numbered(folder / "train", 1) | _numbered(folder / "test", 1)

    def missing(self, frames: Iterable[int]) -> str:
        """Returns the text of `Dataset.missing` for these frames."""
        texts = []
        for what, found in (("normals", self._normals), ("masks", self._masks if self._eigen else None)):
            gone = [] if found is None else [frame for frame in frames if frame not in found]
            if gone:
                texts.append(
                    f"{self.folder} lacks the {what} of {len(gone)} frames, the first being frame {min(gone)} "
                    f"(counted from 0). Unpack its archive again ({EIGEN if self._eigen else LADICKY})."
                )
        return " ".join(texts)

    def file(self, frame: int) -> Path:
        """Returns the file of a frame's normals. If it is missing, returns the path where it should be."""
        name = f"normals/{frame:04}.png" if self._eigen else f"train/{frame + 1:05}.png"
        return self._normals.get(frame, self.folder / name)

    def read(self, frame: int) -> np.ndarray:
        """Reads (480, 640, 3) float32, unit or (0, 0, 0), channels in the stored order. Raises `BadSampleError`."""
        path = self.file(frame)
        values = read_exact(path, channels=3)
        check_shape(path, values, (HEIGHT, WIDTH, 3))
        normals = decode(values)
        if self._eigen:
            path = self._masks.get(frame, self.folder / f"masks/{frame:04}.png")
            mask = read_exact(path)
            check_shape(path, mask, (HEIGHT, WIDTH))
            normals[mask == 0] = 0
        return normals


def find(folders: Iterable[Path]) -> Path | None:
    """Returns the first folder that contains pictures of normals."""
    return next((f for f in folders if any(_numbered(f / name, 0) for name in ("normals", "train", "test"))), None)


def _numbered(folder: Path, first: int) -> dict[int, Path]:
    names = (Path(name) for name in names_in(folder, ".png"))
    return {int(name.stem) - first: folder / name for name in names if name.stem.isdecimal()}
