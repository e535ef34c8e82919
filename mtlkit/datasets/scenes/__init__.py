"""Rendered rooms: an endless substitute for NYUv2 that needs no download."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, Dataset, Sample, Target, check_request
from mtlkit.datasets.scenes import cache
from mtlkit.datasets.scenes.attributes import ATTRIBUTES
from mtlkit.datasets.scenes.camera import intrinsics
from mtlkit.datasets.scenes.render import CONTROLS, SPLITS, Frame, Knobs, render_frame, stream
from mtlkit.datasets.scenes.things import CLASSES
from mtlkit.typed import Bound

__all__ = ["ATTRIBUTES", "CLASSES", "Frame", "Knobs", "Scenes", "intrinsics", "render_frame"]

TARGETS = {
    "segmentation": Target("segmentation", CLASSES),
    "depth": Target("depth"),
    "normals": Target("normals"),
    "attributes": Target("multilabel", ATTRIBUTES),
}
CONTROL_TARGETS = {
    "noise": Target("segmentation", CLASSES),
    "opposite": Target("normals"),
    "duplicate": Target("segmentation", CLASSES),
}
UNITS = {"m": 1.0, "dm": 10.0}
SMALLEST = 16  # pixels, of a width or a height


@DATASETS.register("scenes")
class Scenes(Dataset):
    """Rooms rendered by ray casting, with segmentation (NYUv2's 13 classes), depth, normals and 12 attributes.

    The frames are rendered once for each set of options and stored under `root`, the cache folder
    (~/.cache/mtlkit/scenes by default; $XDG_CACHE_HOME changes it). Frame i of a split depends only on `dataset_seed`,
    the knobs, the split, i and `size`. Every frame shows its own room. `size` is (width, height), each at least 16. The
    frames are rendered at this size, not resized. `limit` uses only so many first frames of the 800, 200 and 650 frames
    of train, val and test.

    Of the tasks that `controls` adds, "noise" should be ignored, and "opposite" has x and y of the normals negated.

    Raises `ValueError` for options out of range and for a cache folder that cannot be written.
    """

    @dataclass(frozen=True)
    class Options(Knobs):
        """The options of the data set.

        Args:
            dataset_seed: decides which rooms are rendered
            depth_unit: "m", or "dm" for values ten times as large, which increases the difference of the losses' scales
            controls: adds tasks whose right treatment is known: "noise" (a random class per pixel), "opposite" (normals
                turned by 180 degrees about the optical axis), "duplicate" (the segmentation a second time)
        """

        dataset_seed: Annotated[int, Bound(0, 2**64 - 1)] = 0
        depth_unit: Literal["m", "dm"] = "m"
        controls: tuple[Literal["noise", "opposite", "duplicate"], ...] = ()

    options: Options

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str = "train",
        size: Sequence[int] | None = (64, 48),
        limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_request("scenes", split, size, limit)
        width, height = size if size is not None else (64, 48)
        if min(width, height) < SMALLEST:
            raise ValueError(
                f"data.size must be [width, height], whole numbers of at least {SMALLEST} for scenes, got "
                f"{[width, height]}."
            )
        knobs = Knobs(**{field.name: getattr(self.options, field.name) for field in fields(Knobs)})
        count = min(limit or SPLITS[split], SPLITS[split])
        self.targets = TARGETS | {name: CONTROL_TARGETS[name] for name in self.options.controls}
        self.settings = cache.Settings(split, (width, height), count, self.options.dataset_seed, knobs)
        fx, fy, cx, cy = self.intrinsics()
        self.camera = (fx / width, fy / height, cx / width, cy / height)
        self.unit = UNITS[self.options.depth_unit]
        self.folder = cache.cached(_root(root), self.settings)
        self._arrays = cache.load_arrays(self.folder)
        if root is not None:  # many users expect here the folder of data to read
            self.notes = [f"scenes reads no files: data.root is where its rendered frames are kept, {_root(root)}."]

    def __len__(self) -> int:
        return self.settings.count

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        frame = {name: torch.from_numpy(np.array(values[index])) for name, values in self._arrays.items()}
        normals = frame["normals"].permute(2, 0, 1).float() / 32767
        targets = {
            "segmentation": frame["label"].long(),
            "depth": frame["depth"].float()[None] * (self.unit / 1000),
            "normals": normals,
            "attributes": frame["attributes"].float(),
        }
        if "noise" in self.targets:
            random = stream(self.settings.dataset_seed, self.settings.split, index, CONTROLS)
            targets["noise"] = torch.from_numpy(random.integers(0, len(CLASSES), frame["label"].shape))
        if "opposite" in self.targets:
            targets["opposite"] = normals * torch.tensor([-1.0, -1.0, 1.0])[:, None, None]
        if "duplicate" in self.targets:
            targets["duplicate"] = targets["segmentation"].clone()
        return {"image": frame["image"].permute(2, 0, 1).float() / 255, "targets": targets}

    def intrinsics(self) -> tuple[float, float, float, float]:
        """The camera's (fx, fy, cx, cy) in pixels at the size of this data set."""
        return intrinsics(*self.settings.size)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}  # do not copy maps

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._arrays = cache.load_arrays(self.folder)


def _root(root: str | os.PathLike[str] | None) -> Path:
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mtlkit" / "scenes"
