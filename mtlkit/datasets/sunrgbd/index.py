"""Finds the frames of SUN RGB-D's published splits and their labels."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtlkit.data.files import first_that_exists, inside, lacking, names_in
from mtlkit.data.matlab import reading_mat

PAGE = "https://rgbd.cs.princeton.edu"
PICTURES_PAGE = "https://github.com/ankurhanda/sunrgbd-meta-data"
SENSORS = ("kv1", "kv2", "realsense", "xtion")
SEGMENTATION, META, SPLIT = "Metadata/SUNRGBD2Dseg.mat", "Metadata/SUNRGBDMeta.mat", "traintestSUNRGBD/allsplit.mat"
LISTS = {"train": "sunrgbd_training_images.txt", "test": "sunrgbd_testing_images.txt"}
PICTURES = ("sunrgbd_train_test_labels", "sunrgbd_test_train_labels")
LABELS = "SUNRGBD2Dseg/seglabel"  # inside SEGMENTATION: one reference per frame to a label (width, height)


@dataclass(frozen=True)
class Frame:
    """A frame: its `folder` below SUNRGBD, and its label, a picture or the label number `place` of a .mat file."""

    folder: str
    file: Path
    place: int | None = None

    @property
    def label(self) -> str:
        """Returns the name of the label for messages."""
        return str(self.file) if self.place is None else f"{self.file} (label {self.place + 1}, of {self.folder})"


class Index(NamedTuple):
    """The frames of a published split in order, the number of classes of their labels, and their source."""

    frames: list[Frame]
    classes: int
    source: str


def images_folder(root: Path) -> Path:
    """Returns the folder that contains the sensors' folders: `root` or a folder up to two levels below."""
    inside = [root / name for name in sorted(os.listdir(root)) if not name.startswith(".")]
    candidates = (root, root / "SUNRGBD", *inside, *(folder / "SUNRGBD" for folder in inside))
    for folder in candidates:
        if any(os.path.isdir(folder / sensor) for sensor in SENSORS):  # also False without permission to look there
            return folder
    for folder in (root.resolve(), *root.resolve().parents):
        if folder.name in SENSORS:
            raise FileNotFoundError(
                f"data.root={root} is a part of the data set 'sunrgbd': set data.root={folder.parent.parent}, the "
                "folder with SUNRGBD and SUNRGBDtoolbox."
            )
    raise FileNotFoundError(
        f"data.root={root} holds none of the folders SUNRGBD/{', SUNRGBD/'.join(SENSORS)}. Set it to the folder in "
        f"which SUNRGBD.zip and SUNRGBDtoolbox.zip from {PAGE} were unpacked."
    )


def find_frames(root: Path, images: Path, split: str) -> Index:
    """Returns the frames of the published split ("train" or "test"), with labels of 37 classes if they exist."""
    places = list(dict.fromkeys((root, images, images.parent)))
    toolbox = first_that_exists(
        place / name for place in places for name in ("SUNRGBDtoolbox/SUNRGBDtoolbox", "SUNRGBDtoolbox")
    )
    names = [SEGMENTATION, META, SPLIT]
    lacking = names if toolbox is None else [name for name in names if not (toolbox / name).is_file()]
    if toolbox is not None and not lacking:
        return _from_toolbox(toolbox, split)
    found = _from_pictures([place / name for place in places for name in ("", "sunrgbd-meta-data")], split)
    if found is None:
        raise FileNotFoundError(
            f"data.root={root} holds frames of SUN RGB-D, but no labels. Unpack "
            f"SUNRGBDtoolbox.zip from {PAGE} beside SUNRGBD (missing of {toolbox or 'SUNRGBDtoolbox'}: "
            f"{', '.join(lacking)}), or {', '.join(LISTS.values())} and the pictures {PICTURES[0]}/img-000001.png ... "
            f"(for 13 classes only: {split}13labels/img13labels-000001.png ...) from {PICTURES_PAGE}. The seg.mat and "
            "index.json of the frames themselves hold free names and no classes."
        )
    return found


def _from_toolbox(toolbox: Path, split: str) -> Index:
    """Reads the toolbox. The labels have the order of SUNRGBDMeta, and the split is a list of folders."""
    segmentation, meta, listed = (toolbox / name for name in (SEGMENTATION, META, SPLIT))
    place = {folder: number for number, folder in enumerate(_meta(meta, meta.stat().st_mtime_ns))}
    folders = [frame_folder(path, listed) for path in _strings(_variable(listed, f"all{split}"), listed)]
    unknown = [folder for folder in folders if folder not in place]
    if unknown:
        raise ValueError(
            f"{listed} names {len(unknown)} frames that {meta} lacks, for instance {unknown[0]}. {_again(toolbox)}"
        )
    count = _count(segmentation)
    if count != len(place):
        raise ValueError(f"{segmentation} holds {count} labels, but {meta} {len(place)} frames. {_again(toolbox)}")
    return Index([Frame(f, segmentation, place[f]) for f in folders], 37, f"the toolbox's ({segmentation})")


def _from_pictures(places: Sequence[Path], split: str) -> Index | None:
    """Reads label pictures. Their numbers follow the lists of images: both splits, test first, or each from 1."""
    lists = {part: first_that_exists(place / name for place in places) for part, name in LISTS.items()}
    paths = {part: path.read_text(errors="replace").split() for part, path in lists.items() if path is not None}
    if len(paths) < 2:
        return None
    folders = [frame_folder(path, lists[split]).rsplit("/", 2)[0] for path in paths[split]]
    before = len(paths["test"]) if split == "train" else 0
    kinds = [(name, "img-{:06d}.png", before, 37) for name in PICTURES]
    kinds.append((f"{split}13labels", "img13labels-{:06d}.png", 0, 13))
    for name, pattern, first, ids in kinds:
        folder = first_that_exists(place / name for place in places)
        if folder is not None:
            frames = [Frame(f, folder / pattern.format(first + n)) for n, f in enumerate(folders, 1)]
            return Index(frames, ids, f"the pictures in {folder}")
    return None


def missing_frames(images: Path, frames: Sequence[Frame]) -> str:
    """Returns the text of `Dataset.missing` for folders and label pictures. Each parent folder is listed once."""
    folders = [frame.folder for frame in frames]
    parents = {folder.rpartition("/")[0] for folder in folders}
    there = {f"{parent}/{name}" for parent in parents for name in _names(images / parent)}
    texts = [lacking(images, folders, there, f"They come with SUNRGBD.zip from {PAGE}.")]
    if frames[0].place is None:
        labels, names = frames[0].file.parent, [frame.file.name for frame in frames]
        texts.append(lacking(labels, names, set(names_in(labels, ".png")), f"They come from {PICTURES_PAGE}."))
    return " ".join(filter(None, texts))


def frame_folder(path: str, source: Path | None) -> str:
    """Returns the part of a path below SUNRGBD. The path may come from another computer."""
    parts = [part for part in path.split("/") if part]
    start = next((number for number, part in enumerate(parts) if part in SENSORS), None)
    if start is None:
        raise ValueError(f"{source} names {path!r}, expected one with {', '.join(SENSORS)} in it. Unpack it anew.")
    return inside(Path(), "/".join(parts[start:]), source or "The list").as_posix()


def _names(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return ()


@lru_cache(maxsize=2)  # takes seconds; done once for all splits of a run
def _meta(path: Path, stamp: int) -> tuple[str, ...]:
    """Returns the frames' folders in the order of SUNRGBDMeta.mat. `stamp` is the time of the file."""
    meta = _variable(path, "SUNRGBDMeta")
    if meta.dtype.names is None or "rgbpath" not in meta.dtype.names:
        raise ValueError(f"{path}: its variable SUNRGBDMeta has no field rgbpath. {_again(path.parents[1])}")
    return tuple(frame_folder(file, path).rsplit("/", 2)[0] for file in _strings(meta["rgbpath"], path))


def _variable(path: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat

    with reading_mat(partial(_damaged, path)):
        found = loadmat(path, variable_names=[name])
    if name not in found:
        raise ValueError(f"{path} has no variable {name}. {_again(path.parents[1])}")
    values: np.ndarray = found[name]
    return values


def _strings(cells: np.ndarray, path: Path) -> list[str]:
    try:
        return [str(cell.item()) for cell in cells.ravel()]
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no list of paths where one is expected. {_again(path.parents[1])}") from error


def _count(path: Path) -> int:
    import h5py

    with reading_mat(partial(_damaged, path)), h5py.File(path, "r", locking=False) as file:
        labels: Any = file[LABELS]
        return int(labels.shape[0])


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:300]
    return ValueError(f"{path} is damaged or not what its name says: {reason}. {_again(path.parents[1])}")


def _again(toolbox: Path) -> str:
    return f"Unpack SUNRGBDtoolbox.zip from {PAGE} anew to {toolbox}."
