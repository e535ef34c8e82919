"""Two forms of NYUv2 made by others: folders of arrays (MTAN), and folders of pictures and arrays (ASTMT, others)."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mtlkit.data.dataset import BadSampleError, Camera
from mtlkit.data.files import (
    inside,
    lacking,
    names_in,
    natural,
    read_array,
    read_image_array,
    read_label_array,
)
from mtlkit.data.pictures import read_exact, read_picture
from mtlkit.datasets.nyuv2.form import (
    CENTRE,
    EIGEN,
    GUPTA,
    HEIGHT,
    WHOLE,
    WIDTH,
    Form,
    camera_of,
    metres,
    read_mat,
    whole_numbers,
)
from mtlkit.datasets.nyuv2.normals import decode, lengths_in_words
from mtlkit.datasets.nyuv2.sources import ASTMT, MTAN

LOOKED_AT = 8  #: at most so many frames of a split, to say how long MTAN's normals are
PARTS = ("image", "label", "depth", "normal")
AGAIN = f"The download or unpacking of MTAN's archive is not complete; it is to be had from {MTAN}."


class Mtan(Form[tuple[str, str]]):
    """`train|val/{image,label,depth,normal}/{i}.npy` of MTAN and LibMTL. "val" is the official test data.

    A frame exists if any folder has a file of it. Raises `FileNotFoundError` for a folder that cannot be listed.
    """

    classes = 13
    # Their preprocessing script is lost. The author says that the borders were cropped and the rest was resized. The
    # normals are Eigen's, which are known only inside Eigen's crop. So this is the camera of that crop, resized.
    camera = camera_of(EIGEN)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes = [
            "The arrays of MTAN and LibMTL; their folder val holds the official test frames: split test.",
            "How they were cropped is not known: the camera is that of Eigen's crop.",
        ]
        self._present: dict[tuple[str, str], set[str]] = {}
        self.train, self.test = self._frames("train"), self._frames("val")

    def _frames(self, part: str) -> list[tuple[str, str]]:
        folder = self.root / part
        self._present |= {(part, kind): set(names_in(folder / kind, ".npy")) for kind in PARTS}
        names = sorted(set().union(*(self._present[part, kind] for kind in PARTS)), key=natural)
        if not names:
            self.notes.append(f"{folder} {'holds no .npy files' if folder.is_dir() else 'is missing'}. {AGAIN}")
        numbers = {int(stem) for stem in (name.removesuffix(".npy") for name in names) if stem.isdecimal()}
        if gaps := max(numbers, default=-1) + 1 - len(numbers):
            first = next(number for number in itertools.count() if number not in numbers)
            self.notes.append(f"{folder} lacks {gaps} frames between the others, the first being {first}.npy.")
        return [(part, name) for name in names]

    def missing(self, keys: Sequence[tuple[str, str]]) -> str:
        part, names = keys[0][0], [name for _, name in keys]  # all frames of a split are in one folder
        found = (lacking(self.root / part / kind, names, self._present[part, kind], AGAIN) for kind in PARTS)
        return " ".join(filter(None, found))

    def _file(self, kind: str, key: tuple[str, str]) -> Path:
        return self.root / key[0] / kind / key[1]

    def label(self, key: tuple[str, str]) -> str:
        return str(self._file("image", key))

    def image(self, key: tuple[str, str]) -> np.ndarray:
        return read_image_array(self._file("image", key))

    def labels(self, key: tuple[str, str]) -> np.ndarray:
        path = self._file("label", key)
        return whole_numbers(path, read_label_array(path), -1, 12)

    def depth(self, key: tuple[str, str]) -> np.ndarray:
        path = self._file("depth", key)
        return metres(path, read_array(path))

    def normals(self, key: tuple[str, str]) -> np.ndarray:
        return decode(self._stored_normals(key))

    def _stored_normals(self, key: tuple[str, str]) -> np.ndarray:
        return read_array(self._file("normal", key), (None, None, 3))

    def remarks(self, keys: Sequence[tuple[str, str]]) -> list[str]:
        """Returns how many normals are not of unit length, in a few frames that are evenly spread."""
        found = []
        for key in keys[:: -(-len(keys) // LOOKED_AT)]:
            with suppress(BadSampleError):  # raised again when that sample is read
                found.append(self._stored_normals(key))
        return [lengths_in_words(found)] if found else []

    def normals_file(self, key: tuple[str, str]) -> Path:
        return self._file("normal", key)


KINDS = {
    "images": (".jpg", ".png"),
    "segmentation": (".png", ".mat"),
    "normals": (".npy", ".png", ".jpg"),
    "depth": (".npy", ".mat"),
}


#: By the size (height, width) of frames: their crop, and a note about it.
CAMERAS = {
    (HEIGHT, WIDTH): (WHOLE, "The camera is that of whole frames."),
    (425, 560): (GUPTA, "The camera is that of the crop of Gupta et al."),
    (448, 576): (CENTRE, "The camera is that of InvPT's crop of 448 x 576 pixels, taken as a centre crop."),
}
UNKNOWN = (
    "Frames of {} x {} pixels (height x width) are of no known crop, so that their camera is not known: it is taken to "
    "be that of the crop of Gupta et al., resized."
)


class Astmt(Form[str]):
    """`images`, `segmentation`, `normals` and `depth` of the frames in `gt_sets/{train,val}.txt`.

    This is the layout of ASTMT (arXiv 1904.08918). Vandenhende et al., ATRC and InvPT use it with other kinds of files.
    "val" is the official test data. Raises `FileNotFoundError` and `ValueError`.
    """

    classes = 40
    again = f"The download or unpacking is not complete; InvPT's archive is to be had from {ASTMT}."

    def __init__(self, root: Path) -> None:
        self.root = root
        self._present: dict[str, set[str]] = {}
        self.train, self.test = (_ids(root / "gt_sets" / name) for name in ("train.txt", "val.txt"))
        if both := set(self.train) & set(self.test):
            raise ValueError(f"{root / 'gt_sets'}: {len(both)} frames, such as {min(both)}, are in both lists.")
        self._suffixes = {kind: self._suffix(kind, suffixes) for kind, suffixes in KINDS.items()}
        kinds = ", ".join(f"{kind} {suffix}" for kind, suffix in self._suffixes.items())
        self.notes = [f"The folders of ASTMT, Vandenhende, ATRC and InvPT ({kinds}); val.txt is our split test."]
        if self._suffixes["normals"] == ".jpg":
            self.notes.append("The normals are JPEG files, as ASTMT made them, and so not exact.")
        self.camera = self._camera()

    def _suffix(self, kind: str, suffixes: tuple[str, ...]) -> str:
        folder, ids = self.root / kind, [*self.train, *self.test]
        names = self._present[kind] = set(names_in(folder, suffixes))
        best = max(suffixes, key=lambda suffix: sum(name + suffix in names for name in ids))
        if not any(name + best in names for name in ids):
            raise FileNotFoundError(
                f"{folder} lacks {len(ids)} of the {len(ids)} frames in gt_sets, the first being {ids[0]} (expected "
                f"{' or '.join(suffixes)}). {self.again}"
            )
        return best

    def missing(self, keys: Sequence[str]) -> str:
        found = (
            lacking(self.root / kind, [key + suffix for key in keys], self._present[kind], self.again)
            for kind, suffix in self._suffixes.items()
        )
        return " ".join(filter(None, found))

    def _camera(self) -> Camera:
        """Returns the camera for the crop that belongs to the size of the first frame."""
        for key in (*self.train, *self.test):
            try:
                size = self.image(key).shape[:2]
            except BadSampleError:
                continue  # reported when that sample is read
            crop, note = CAMERAS.get(size, (GUPTA, UNKNOWN))
            self.notes.append(note.format(*size))
            return camera_of(crop)
        raise ValueError(f"None of the pictures in {self.root / 'images'} can be read.")

    def _file(self, kind: str, key: str) -> Path:
        return self.root / kind / (key + self._suffixes[kind])

    def label(self, key: str) -> str:
        return str(self._file("images", key))

    def image(self, key: str) -> np.ndarray:
        return read_picture(self._file("images", key))

    def labels(self, key: str) -> np.ndarray:
        path = self._file("segmentation", key)
        values = read_mat(path, "segmentation") if path.suffix == ".mat" else read_exact(path)
        return whole_numbers(path, values, 0, 40) - 1

    def depth(self, key: str) -> np.ndarray:
        path = self._file("depth", key)
        return metres(path, read_mat(path, "depth") if path.suffix == ".mat" else read_array(path))

    def normals(self, key: str) -> np.ndarray:
        path = self._file("normals", key)
        if path.suffix == ".npy":
            return decode(read_array(path, (None, None, 3)))
        return decode(read_exact(path, channels=3, lossy=path.suffix == ".jpg"))

    def normals_file(self, key: str) -> Path:
        return self._file("normals", key)


def _ids(file: Path) -> list[str]:
    """Returns the frames in a list, in the order of their numbers. Frames with near numbers are neighbours."""
    try:
        ids = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FileNotFoundError(
            f"{file} cannot be read: {error}. InvPT's archive is to be had from {ASTMT}."
        ) from error
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"{file} names {'some frames twice' if ids else 'no frames'}.")
    for name in ids:
        inside(file.parents[1], name, file)
    return sorted(ids, key=natural)
