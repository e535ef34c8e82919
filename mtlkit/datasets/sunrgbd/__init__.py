"""SUN RGB-D: rooms from four depth sensors, with segmentation, depth and normals computed from depth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, BadSampleError, Camera, Dataset, Sample, Target, check_request
from mtlkit.data.files import image_tensor, map_tensor, resize, root_folder
from mtlkit.data.geometry import normals_from_depth
from mtlkit.data.pictures import picture_size, read_picture
from mtlkit.datasets.nyuv2.classes import CLASSES_13, CLASSES_40, TO_13
from mtlkit.datasets.sunrgbd.index import PAGE, Frame, find_frames, images_folder, missing_frames
from mtlkit.datasets.sunrgbd.scenes import GAP, hold_out
from mtlkit.datasets.sunrgbd.values import (
    CODINGS,
    coding_of,
    metres,
    only_file,
    read_camera,
    read_label,
    read_raw_depth,
)
from mtlkit.typed import ShareBelowOne

COUNTS = {"train": 5285, "test": 5050}  #: the number of frames in the published splits
CLASSES = {"segmentation": CLASSES_13, "segmentation_37": CLASSES_40[:37]}  #: the classes of each target
DEPTHS = {"refined": "depth_bfx", "raw": "depth"}


@DATASETS.register("sunrgbd")
class SunRGBD(Dataset):
    """SUN RGB-D: segmentation, depth and normals of 10,335 frames of rooms (Song, Lichtenberg and Xiao, CVPR 2015).

    `root` is the folder in which SUNRGBD.zip was unpacked, with the sensors' folders kv1, kv2, realsense and xtion.
    The labels come from SUNRGBDtoolbox.zip beside it (SUNRGBD2Dseg.mat, read one frame at a time, in the order of
    SUNRGBDMeta.mat; allsplit.mat defines the split). Without the toolbox, they come from the label pictures and lists
    of github.com/ankurhanda/sunrgbd-meta-data. `notes` says which.

    Sample: image; `segmentation` in 13 classes, into which NYUv2's table groups the 37; `segmentation_37`, the first 37
    of NYUv2's 40, if the labels have them; `depth` in metres, 0 unknown, at most 8 as in the toolbox; `normals`, if you
    ask for them. Void is ignored. The sensors' images differ in size: for several sensors set `size`, (width, height).

    "val" is held out of the 5,285 training frames by scene (see `scenes.scenes`). Frames with numbers next to these may
    show the same scene, so they are not used. "test" are the 5,050 test frames. The toolbox's `trainvalsplit` is not
    used. Normals are computed before resizing, with the frame's own intrinsics. SUN RGB-D itself has no normals.

    Depth is published in millimetres whose bits are rotated by 3, but some copies do not rotate them. mtlkit decides
    from the values of some frames which version it is, and `notes` says so.

    Raises `FileNotFoundError` for missing lists and labels, `ValueError` for options out of range, damaged lists and
    images of several sizes, and `BadSampleError` for a damaged file when its frame is read.
    """

    licence = "SUN RGB-D is for research. Its frames from NYUv2, B3DO and SUN3D keep their own terms; cite these, too."

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            depth: "refined", filled by the authors (depth_bfx), or "raw" (depth)
            normals: "depth" adds normals that are computed from depth; null: no normals
            holdout: the share of the training frames that becomes "val"
        """

        depth: Literal["refined", "raw"] = "refined"
        normals: Literal["depth"] | None = None
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
        check_request("sunrgbd", split, size, limit)
        folder = root_folder(root, "sunrgbd", f"SUNRGBD and SUNRGBDtoolbox, from {PAGE}")
        published = "test" if split == "test" else "train"
        self.images = images_folder(folder)
        frames, self._ids, source = find_frames(folder, self.images, published)
        self._depth, self._normals = DEPTHS[self.options.depth], self.options.normals is not None
        self.notes: list[str] = []
        self._frames = (frames if split == "test" else self._held_out(frames, split, self.options.holdout))[:limit]
        self.missing = " ".join(filter(None, [missing_frames(self.images, self._frames), *self._missing_parts()]))
        self.coding = coding_of([self.images / frame.folder / self._depth for frame in _spread(self._frames, 8)])
        self._tables = _tables(self._ids)
        self._size = None if size is None else (size[0], size[1])
        self.targets: Mapping[str, Target] = {
            **{name: Target("segmentation", CLASSES[name]) for name in self._tables},
            "depth": Target("depth"),
            **({"normals": Target("normals")} if self._normals else {}),
        }
        found = [f"The labels are {source}.", f"The depth pictures are {CODINGS[self.coding]}."]
        if len(frames) != COUNTS[published]:
            found.append(f"There are {len(frames)} {published} frames, {COUNTS[published]} as published.")
        self.notes = [*found, *self.notes, *filter(None, [self.missing])]
        self._check_sizes()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self._frames[index]
        folder = self.images / frame.folder
        image = read_picture(self._picture(frame))
        label = read_label(frame, self._ids)
        depth = metres(read_raw_depth(folder / self._depth), self.coding)
        for what, values in ((frame.label, label), (str(folder / self._depth), depth)):
            if values.shape != image.shape[:2]:
                raise BadSampleError(
                    f"{what} has {values.shape[1]} x {values.shape[0]} pixels, but the image in {folder} "
                    f"{image.shape[1]} x {image.shape[0]}."
                )
        label = resize(label, self._size, exact=True)
        targets = {name: torch.from_numpy(table[label]) for name, table in self._tables.items()}
        targets["depth"] = map_tensor(resize(depth, self._size, exact=True))
        if self._normals:
            normals = normals_from_depth(depth, self._camera(frame, (image.shape[1], image.shape[0])))
            targets["normals"] = map_tensor(resize(normals, self._size, exact=True))
        return {"image": image_tensor(resize(image, self._size)), "targets": targets}

    def label(self, index: int) -> str:
        return str(self.images / self._frames[index].folder)

    def camera_of(self, index: int) -> Camera:
        frame = self._frames[index]
        return self._camera(frame, picture_size(self._picture(frame)))

    def _camera(self, frame: Frame, size: tuple[int, int]) -> Camera:
        """Returns the camera relative to the size of the image, so that resizing does not change it."""
        return read_camera(self.images / frame.folder / "intrinsics.txt", size)

    def _picture(self, frame: Frame) -> Path:
        return only_file(self.images / frame.folder / "image", ".jpg", ".png")

    def _held_out(self, frames: list[Frame], split: str, holdout: float) -> list[Frame]:
        train, val = hold_out([frame.folder for frame in frames], holdout)
        if split == "val" and not len(val):
            raise ValueError(
                f"With data.holdout={holdout:g} the data set 'sunrgbd' has no split 'val': SUN RGB-D comes with none, "
                "so a share of its training frames is held out. Set data.holdout to a share such as 0.1."
            )
        self.notes.append(
            f"Of the {len(frames)} training frames, {len(val)} are held out for validation, by scene, and "
            f"{len(frames) - len(train) - len(val)} of NYUv2 and B3DO within {GAP} numbers of these are left out, as "
            "neighbours may show the same scene."
        )
        return [frames[number] for number in (val if split == "val" else train)]

    def _missing_parts(self) -> Iterator[str]:
        """Yields the images or depth that are missing. It checks one frame of every set of recordings."""
        needed = ["image", self._depth, *(["intrinsics.txt"] if self._normals else [])]
        for frame in _one_a_set(self._frames):
            folder = self.images / frame.folder
            gone = [name for name in needed if not (folder / name).exists()]
            if gone and folder.exists():
                yield f"{folder} has no {' and no '.join(gone)}. Unpack SUNRGBD.zip from {PAGE} completely."

    def _check_sizes(self) -> None:
        """Raises `ValueError` if images have several sizes. It checks one frame of every set of recordings."""
        if self._size is not None:
            return
        sizes: dict[tuple[int, int], str] = {}
        for frame in _one_a_set(self._frames):
            try:
                sizes.setdefault(picture_size(self._picture(frame)), frame.folder)
            except BadSampleError:
                continue  # reported when the frame is read
        if len(sizes) > 1:
            found = ", ".join(f"{width} x {height} ({folder})" for (width, height), folder in sizes.items())
            raise ValueError(f"The images of SUN RGB-D differ in size: {found}. Set data.size=[width,height].")


def _tables(ids: int) -> dict[str, np.ndarray]:
    """Returns per target the class, int64, of each id in label files with 13 or 37 ids. Id 0, void, becomes -1."""
    own = np.arange(-1, ids)
    if ids == 13:
        return {"segmentation": own}
    return {"segmentation": np.array([0, *TO_13[:37]], np.int64) - 1, "segmentation_37": own}


def _spread(frames: Sequence[Frame], count: int) -> Sequence[Frame]:
    """Returns about `count` frames, evenly spread."""
    return frames[:: max(1, len(frames) // count)]


def _one_a_set(frames: Sequence[Frame]) -> list[Frame]:
    """Returns the first frame of every set of recordings, such as kv2/kinect2data."""
    first: dict[str, Frame] = {}
    for frame in frames:
        first.setdefault("/".join(frame.folder.split("/")[:2]), frame)
    return list(first.values())
