"""NYU Depth V2 in the forms in which it is distributed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, BadSampleError, Dataset, Sample, Target, check_request
from mtlkit.data.files import image_tensor, map_tensor, resize
from mtlkit.datasets.nyuv2.classes import CLASSES_13, CLASSES_40, TO_13
from mtlkit.datasets.nyuv2.form import EIGEN, GUPTA, WHOLE
from mtlkit.datasets.nyuv2.normals import find_convention, parse, turn
from mtlkit.datasets.nyuv2.recognise import open_form, recognise
from mtlkit.datasets.nyuv2.sources import FILE
from mtlkit.typed import OptionError, ShareBelowOne

CROPS = {"eigen": EIGEN, "gupta": GUPTA, None: WHOLE}
DEPTHS = {"filled": "depths", "raw": "rawDepths"}
CLASSES = {13: CLASSES_13, 14: ("background", *CLASSES_13), 40: CLASSES_40}


@DATASETS.register("nyuv2")
class NYUv2(Dataset):
    """NYU Depth V2: rooms with classes of surfaces, depth and surface normals.

    Silberman et al., Indoor segmentation and support inference from RGBD images, ECCV 2012: 1449 frames, 795 of them
    published for training and 654 for testing. `root`, or a folder in it, has one of three forms, and `notes` says
    which one. Published results depend on the form. `form` is the only form to accept, or None for any form.

    - "official": `nyu_depth_v2_labeled.mat` or its folder, with `splits.mat` and `classMapping40.mat` (or
      `labels40.mat`) beside it. A frame is 640 x 480 pixels before the crop. The file has no normals: see `normals`.
    - "mtan": MTAN's and LibMTL's `{train,val}/{image,label,depth,normal}/0.npy ...`, 384 x 288 pixels, 13 classes.
    - "astmt": the layout of ASTMT, Vandenhende, ATRC and InvPT: `gt_sets/{train,val}.txt` with `images`,
      `segmentation`, `normals` and `depth`, 560 x 425 or 576 x 448 pixels, 40 classes.

    The folders called "val" hold the official test data, which is the split `test` here. `val` holds out a share
    `holdout` of the training frames: whole scenes in the official form. The other forms name no scenes, so there it
    holds out blocks of frames with neighbouring numbers.

    Targets: `segmentation`, 13 classes (Couprie et al., arXiv 1301.3572) or the 40 of Gupta et al. (CVPR 2013);
    `depth` in metres; `normals`, if they exist. Published results of balancers use MTAN's arrays.

    Raises `FileNotFoundError` and `ValueError` for parts that are missing or do not fit.
    """

    licence = (
        "NYU Depth V2 states no licence; research with a citation of Silberman et al. (ECCV 2012) is customary. "
        "Do not pass its frames on."
    )

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            classes: 13 or 40; MTAN's arrays have only 13. With 14, `background` (the unlabelled pixels) comes before
                the 13.
            crop: the part of each frame of the official form that is used: "eigen" (561 x 427 pixels), "gupta"
                (560 x 425) or null. Whole frames have white borders, and Eigen's normals end at Eigen's crop.
            depth: "filled", or "raw", the sensor's own values with holes; of the official form.
            normals: of the official form: the path of a folder of normals, or "depth" to compute them from the filled
                depth. null uses `normals_gt` (Eigen's) or `nyu_normals_gt` (Ladicky's) beside the .mat.
            convention: which axis each stored channel of the normals holds. "auto" finds it by a comparison with
                normals from depth. A name sets it, such as "zyx" (Ladicky's files: z, y, x) or "x-yz" (y up).
            holdout: the share of the training frames that becomes "val".
            form: the only form of the data to accept; null: any.
        """

        classes: Literal[13, 14, 40] = 13
        crop: Literal["eigen", "gupta"] | None = "eigen"
        depth: Literal["filled", "raw"] = "filled"
        normals: str | None = None
        convention: str = "auto"
        holdout: ShareBelowOne = 0.12
        form: Literal["official", "mtan", "astmt"] | None = None

        def __post_init__(self) -> None:
            if self.convention != "auto":
                try:
                    parse(self.convention)
                except ValueError as error:
                    raise OptionError("convention", str(error)) from None

    options: Options

    def __init__(
        self,
        root: str | Path | None,
        split: str = "train",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_request("nyuv2", split, size, limit)
        kind, path = recognise(root, self.options.form)
        if kind != "official":
            _check_folders(path, self.options)
        crop, depth, classes = CROPS[self.options.crop], DEPTHS[self.options.depth], self.options.classes
        frames = self._form = open_form(kind, path, crop, depth, self.options.normals)
        if (counts := (len(frames.train), len(frames.test))) != (795, 654):
            frames.notes.append(
                f"{counts[0]} training and {counts[1]} test frames; the published data has 795 and 654."
            )
        if classes == 40 and frames.classes == 13:
            raise ValueError(
                f"data.classes={classes}: the labels of this form have {frames.classes} classes only. "
                f"Set data.classes={frames.classes}, or use {FILE}."
            )
        joined = frames.classes == 40 and classes != 40
        if joined:
            frames.notes.append("The 40 classes are joined to 13; data.classes=40 keeps them.")
        ids = np.array([0, *TO_13]) if joined else np.arange(frames.classes + 1)
        self._ids = ids if classes == 14 else ids - 1  # indexed by label + 1
        self._keys = self._part(split, self.options.holdout)[:limit]
        self.missing = frames.missing(self._keys)
        self._size = size
        self._convention = self._find_convention(self.options.convention)
        self.camera = frames.camera
        self.notes = (*frames.notes, *frames.remarks(self._keys), *filter(None, [self.missing]))
        self.targets = {
            "segmentation": Target("segmentation", CLASSES[classes]),
            "depth": Target("depth"),
            **({"normals": Target("normals")} if frames.has_normals else {}),
        }

    def __len__(self) -> int:
        return len(self._keys)

    def label(self, index: int) -> str:
        return self._form.label(self._keys[index])

    def __getitem__(self, index: int) -> Sample:
        key, form = self._keys[index], self._form
        image = form.image(key)
        maps = {"segmentation": self._ids[form.labels(key) + 1], "depth": form.depth(key)}
        if form.has_normals:
            maps["normals"] = turn(form.normals(key), self._convention)
        for name, values in maps.items():
            if values.shape[:2] != image.shape[:2]:
                raise BadSampleError(
                    f"{self.label(index)} has {image.shape[0]} rows and {image.shape[1]} columns, but its {name} "
                    f"{values.shape[0]} and {values.shape[1]}."
                )
        maps = {name: resize(values, self._size, exact=True) for name, values in maps.items()}
        targets = {"segmentation": torch.from_numpy(np.ascontiguousarray(maps.pop("segmentation")))}
        targets |= {name: map_tensor(values) for name, values in maps.items()}
        return {"image": image_tensor(resize(image, self._size)), "targets": targets}

    def _part(self, split: str, holdout: float) -> Sequence[Any]:
        """Returns the frames of a split."""
        form = self._form
        if split == "test":
            keys = form.test
        elif holdout == 0 and split == "train":
            keys = form.train
        elif holdout == 0:
            raise ValueError(
                "The split 'val' is empty with data.holdout=0: NYUv2 has no validation data of its own, and a share "
                "data.holdout of the training frames stands in for it."
            )
        else:
            keys = [form.train[i] for i in form.hold_out(holdout)[split == "val"]] if form.train else []
        if not keys:
            raise ValueError(
                f"The split {split!r} has no frames in data.root, with data.holdout={holdout:g}. {' '.join(form.notes)}"
            )
        return keys

    def _find_convention(self, convention: str) -> str:
        form = self._form
        stored = form.has_normals and form.normals_file(self._keys[0]) is not None
        if convention == "auto":
            if not stored:
                return "xyz"
            convention, note = find_convention(form)
            form.notes.append(note)
        elif not stored:
            raise ValueError(f"data.convention={convention} is of no use: there are no files of normals. Leave it out.")
        return convention


def _check_folders(path: Path, options: NYUv2.Options) -> None:
    """Raises `ValueError` for options that folders do not support."""
    official, default = ("crop", "depth", "normals"), NYUv2.Options()
    if given := [f"data.{name}" for name in official if getattr(options, name) != getattr(default, name)]:
        raise ValueError(
            f"{' and '.join(given)}: for {FILE} only. The folders in data.root={path} come cropped, with normals and "
            "with one kind of depth. Leave it out."
        )
