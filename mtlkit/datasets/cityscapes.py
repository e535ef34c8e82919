"""Cityscapes with two tasks, segmentation and inverse depth, in the files published with MTAN."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, BadSampleError, Dataset, Sample, Target, check_request
from mtlkit.data.files import (
    check_shape,
    image_tensor,
    lacking,
    map_tensor,
    names_in,
    natural,
    read_array,
    read_image_array,
    read_label_array,
    resize,
    root_folder,
)
from mtlkit.data.splits import hold_out_blocks
from mtlkit.typed import ShareBelowOne

COUNTS = {"train": 2975, "val": 500}
SIZES = {(128, 256): "small archive (cityscapes2.zip)", (256, 512): "large archive (cityscapes.zip)"}
SOURCE = "the archive cityscapes2.zip (128 x 256) or cityscapes.zip (256 x 512) of https://github.com/lorenmt/mtan"
HOLDS = "train/ and val/, each with image, depth and label_7 (or label_19, label_2, label)"
CLASSES = {
    2: ("background", "foreground"),
    7: ("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
    19: (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ),
}


@DATASETS.register("cityscapes")
class Cityscapes(Dataset):
    """Cityscapes (Cordts et al., arXiv 1604.01685) with two tasks, as MTAN (Liu et al., arXiv 1803.10704) prepared it.

    `root` holds `{train,val}/{image,label_2,label_7,label_19,depth}/{0,1,...}.npy`. An image is (H, W, 3) in [0, 1]. A
    label is (H, W), from -1 (ignored; 255 in bytes) to classes - 1. Depth is (H, W, 1). LibMTL's folder `label` instead
    of `label_7` also works. There are two archives, of 128 x 256 and 256 x 512 pixels (H x W), and `notes` says which
    one this is. The tables of the balancers (CAGrad, Nash-MTL, FAMO, ...) use the small one and 7 classes.

    Sample: image; `segmentation`; `depth`, which here is *inverse* depth: Cityscapes' 16-bit disparity / 65535, in
    [0, 0.5), not in metres. Nearer points have larger values, and 0 means unknown. The metrics `abs` and `rel` of a
    task of the type `depth` then describe inverse depth, as in published tables: `rel` is the mean ratio itself, and
    values next to 0 raise it to 20 and more.

    "val" is held out of the 2,975 training frames in blocks of neighbours, because the frames are in the order of
    cities. "test" is the archive's `val`, Cityscapes' 500 validation frames, which published tables use for testing.

    Raises `FileNotFoundError` for missing folders, `ValueError` for options out of range and labels of other classes,
    and `BadSampleError` for a damaged file or values out of range when a sample is read.
    """

    licence = (
        "Cityscapes is for non-commercial research and teaching, after registration at cityscapes-dataset.com; its "
        "frames must not be passed on."
    )

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            classes: 7 categories, 19 classes, or 2 (people and vehicles, and everything else)
            holdout: the share of the training frames that becomes "val"
        """

        classes: Literal[2, 7, 19] = 7
        holdout: ShareBelowOne = 0.1

    options: Options

    def __init__(
        self,
        root: str | Path | None,
        split: str = "train",
        size: Sequence[int] | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_request("cityscapes", split, size, limit)
        classes, holdout = self.options.classes, self.options.holdout
        published = "val" if split == "test" else "train"
        self.folder = _find(root_folder(root, "cityscapes", f"{HOLDS}, from {SOURCE}")) / published
        self._label = _label_folder(self.folder, classes)
        found = _names(self.folder, self._label)
        names = sorted({name for part in found.values() for name in part}, key=natural)
        if self._label == "label":
            _check_classes(self.folder / "label", names, classes)
        self._size = None if size is None else (size[0], size[1])
        self.targets: Mapping[str, Target] = {
            "segmentation": Target("segmentation", CLASSES[classes]),
            "depth": Target("disparity"),
        }
        self.notes: list[str] = [
            *_recognised(self.folder / "image" / names[0]),
            "Its depth is inverse depth, disparity / 65535.",
        ]
        if len(names) != COUNTS[published]:
            self.notes.append(f"{self.folder} has {len(names)} frames, {COUNTS[published]} as published.")
        self._files = (names if split == "test" else self._held_out(names, split, holdout))[:limit]
        gone = (lacking(self.folder / k, self._files, set(v), f"Unpack {SOURCE} again.") for k, v in found.items())
        self.missing = " ".join(filter(None, gone))
        self.notes += filter(None, [self.missing])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        name = self._files[index]
        image = read_image_array(self.folder / "image" / name)
        label = _read_label(
            self.folder / self._label / name, image.shape[:2], len(self.targets["segmentation"].classes)
        )
        depth = _read_depth(self.folder / "depth" / name, image.shape[:2])
        return {
            "image": image_tensor(resize(image, self._size)),
            "targets": {
                "segmentation": torch.from_numpy(resize(label, self._size, exact=True)),
                "depth": map_tensor(resize(depth, self._size, exact=True)),
            },
        }

    def label(self, index: int) -> str:
        return str(self.folder / "image" / self._files[index])

    def _held_out(self, names: list[str], split: str, holdout: float) -> list[str]:
        train, val = hold_out_blocks(len(names), holdout)
        if split == "val" and not len(val):
            raise ValueError(
                f"With data.holdout={holdout:g} the data set 'cityscapes' has no split 'val': its folder val holds the "
                "frames on which published results are tested, the split 'test', so a share of the training frames "
                "is held out. Set data.holdout to a share such as 0.1."
            )
        self.notes.append(
            f"Of the {len(names)} training frames, {len(val)} are held out for validation and "
            f"{len(names) - len(train) - len(val)} beside them are left out, as neighbours may show the same place."
        )
        return [names[number] for number in (val if split == "val" else train)]


def _find(root: Path) -> Path:
    """Returns the folder that contains train and val: `root`, or the folder in it."""
    if _holds_frames(root):
        return root
    if found := [root / name for name in sorted(os.listdir(root)) if _holds_frames(root / name)]:
        if len(found) > 1:
            raise ValueError(
                f"data.root={root} holds {len(found)} folders with train and val: {', '.join(map(str, found))}. Set "
                "data.root to one of them. MTAN has two archives, and published tables of balancers are for 128 x 256 "
                "pixels, those of cityscapes2.zip."
            )
        return found[0]
    if os.path.isdir(root / "image"):
        raise FileNotFoundError(f"data.root={root} is one split of Cityscapes: set data.root={root.resolve().parent}.")
    if os.path.isdir(root / "leftImg8bit") or os.path.isdir(root / "gtFine"):
        raise FileNotFoundError(
            f"data.root={root} holds Cityscapes as cityscapes-dataset.com has it (leftImg8bit, gtFine), which is not "
            f"read here. Unpack {SOURCE} and set data.root to that."
        )
    raise FileNotFoundError(f"data.root={root} does not hold {HOLDS}. Unpack {SOURCE} there.")


def _holds_frames(folder: Path) -> bool:
    return any(os.path.isdir(folder / part / "image") for part in COUNTS)


def _label_folder(folder: Path, classes: int) -> str:
    """Returns the name of the folder with labels of this number of classes."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing. Unpack {SOURCE} again.")
    for name in (f"label_{classes}", "label"):
        if (folder / name).is_dir():
            return name
    there = sorted(name for name in os.listdir(folder) if name.startswith("label"))
    raise FileNotFoundError(
        f"{folder} has no folder label_{classes} for data.classes={classes}, only {', '.join(there) or 'no labels'}. "
        f"Choose other data.classes or unpack {SOURCE} again."
    )


def _names(folder: Path, label: str) -> dict[str, list[str]]:
    """Returns the names of the files of each part of the frames. Raises `FileNotFoundError` if there are none."""
    found = {part: names_in(folder / part, ".npy") for part in ("image", label, "depth")}
    if not any(found.values()):
        raise FileNotFoundError(f"{folder}: there are no .npy files in {', '.join(found)}. Unpack {SOURCE} again.")
    return found


def _check_classes(folder: Path, names: list[str], classes: int) -> None:
    """Raises `ValueError` if the folder `label` has another number of classes. Its name does not tell the number."""
    highest = 0
    for name in names[:: max(1, len(names) // 8)]:
        try:
            highest = max(highest, int(read_label_array(folder / name).max()))
        except (BadSampleError, ValueError):  # empty or damaged: reported when the frame is read
            continue
    found = next((count for count in sorted(CLASSES) if highest < count), None)
    if found != classes:
        raise ValueError(
            f"{folder} holds labels up to {highest}, so {found or 'unknown'} classes, but data.classes={classes}."
        )


def _recognised(path: Path) -> list[str]:
    """Describes the archive that an image of this size belongs to."""
    try:
        height, width = read_array(path).shape[:2]
    except (BadSampleError, ValueError):
        return []  # reported when the frame is read
    what = SIZES.get((height, width), "size of neither of MTAN's archives")
    wrong = "" if (height, width) == (128, 256) else " Published tables of balancers are for 128 x 256 pixels."
    return [f"The frames have {height} x {width} pixels (height x width), the {what}.{wrong}"]


def _read_label(path: Path, shape: tuple[int, ...], classes: int) -> np.ndarray:
    """Reads the labels (H, W), int64."""
    label = read_label_array(path, shape)
    low, high = label.min(initial=0), label.max(initial=0)
    if not (low >= -1 and high < classes) or (label.dtype.kind == "f" and (label % 1).any()):
        raise BadSampleError(
            f"{path} holds values from {low:g} to {high:g}, expected whole numbers from -1 (ignored) to {classes - 1}."
        )
    return label.astype(np.int64)


def _read_depth(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads inverse depth (H, W), float32. 0 means unknown."""
    depth = read_array(path)
    if depth.ndim == 3 and depth.shape[2] == 1:
        depth = depth[..., 0]
    check_shape(path, depth, shape)
    depth = np.where(np.isnan(depth), 0, depth).astype(np.float32)
    low, high = depth.min(initial=0), depth.max(initial=0)
    if not (low >= 0 and high <= 1):
        raise BadSampleError(
            f"{path} holds values from {low:g} to {high:g}, expected inverse depth (disparity / 65535) in [0, 1]."
        )
    return depth
