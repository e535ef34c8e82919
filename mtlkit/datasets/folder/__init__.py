"""A folder of your own: images, labels in files or in a table, described by options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mtlkit.data.bands import read_bands
from mtlkit.data.dataset import DATASETS, Camera, Dataset, Sample, Target, check_request
from mtlkit.data.files import image_tensor, natural, resize, root_folder
from mtlkit.datasets.folder.first_labels import check_first_labels
from mtlkit.datasets.folder.labels import found_classes, resized, table_labels
from mtlkit.datasets.folder.matching import check_some_match, find_files, matched_in_words, without_labels
from mtlkit.datasets.folder.options import Label, Splits, TableOptions, check_images
from mtlkit.datasets.folder.splits import split_images
from mtlkit.datasets.folder.table import Table, read_table
from mtlkit.datasets.folder.values import read_label
from mtlkit.target import kinds_of
from mtlkit.typed import Count

LOOKED_AT = 3  #: so many files of each target are read before any work


@DATASETS.register("folder")
class Folder(Dataset):
    """Images of a folder with labels from files or from a table, described by options alone.

    `images` is a pattern, and so is `files` of each label. Both are below `root`; `*` stands for a part of a name, and
    `**` for any folders. A file belongs to the image for which the wildcards stand for the same text (`matching.stem`):
    `depth/**/*.png` has the depth of `images/**/*.jpg`, and `*/rgb/*.png` goes with `*/depth/*_depth.png`. `labels`
    names the targets. docs/tutorials/your_own_data.md explains all options with examples.

    Sample: image (C, H, W), C from the files or from `channels`; every label of `labels` that the image has.

    Raises:
        FileNotFoundError: no file matches a pattern, or a list or the table is missing.
        ValueError: two files have one stem, no label file has an image, a cell is no value of its target, the splits do
            not go together, or no value of the first files is a label that can be right. `BadSampleError` when
            a damaged file is read.
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            images: one or several patterns, such as images/**/*.jpg
            labels: the targets by name
            table: a table with one row per image
            splits: which samples train, validate and test
            channels: the number of channels of the images; null: 3, or those of the first .npy file
            bounds: the values of black and white; null: those of the files' type
            camera: f_x / width, f_y / height, c_x / width, c_y / height; zooming on normals needs it
        """

        images: str | tuple[str, ...]
        labels: Mapping[str, Label]
        table: TableOptions = field(default_factory=TableOptions)
        splits: Splits = field(default_factory=Splits)
        channels: Count | None = None
        bounds: tuple[float, float] | None = None
        camera: Camera | None = None

        def __post_init__(self) -> None:
            check_images(self.labels, self.bounds)

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
        check_request("folder", split, size, limit)
        given = self.options
        patterns = (given.images,) if isinstance(given.images, str) else given.images
        self._root = root_folder(root, "folder", f"images {' or '.join(patterns)}")
        self._size, self.bounds, self.camera = size, given.bounds, given.camera
        found = find_files(self._root, patterns, "data.images")
        self._files = {
            name: find_files(self._root, [label.files], f"data.labels.{name}.files")
            for name, label in given.labels.items()
            if label.files is not None
        }
        found, left = without_labels(found, self._files)
        self._images = dict(sorted(found.items(), key=lambda item: natural(item[1])))
        notes = [f"{len(self._images)} images match {' or '.join(patterns)} in {self._root}.", *left]
        table = None if given.table.file is None else read_table(self._root, given.table, self._images)
        notes += [] if table is None else table.notes
        self._labels = {name: found_classes(name, label, table) for name, label in given.labels.items()}
        self.targets = {name: Target(label.type, label.class_names) for name, label in self._labels.items()}
        self._kinds = kinds_of(self.targets)
        self._cells: dict[str, dict[str, Tensor]] = {}
        for name, label in self._labels.items():
            notes.append(self._find(name, label, table, patterns))
        parts, how = split_images(self._root, self._images, given.splits, table)
        if not parts.get(split):
            what = ", ".join(f"{len(keys)} {name}" for name, keys in parts.items())
            raise ValueError(
                f"data.splits gives the data set 'folder' no samples of the split {split!r}, but {what}. data.splits "
                "takes folders, lists, column or holdout."
            )
        self._keys = parts[split][:limit]
        self._channels = given.channels
        if self._channels is None:
            first = self._root / self._images[self._keys[0]]
            self._channels = read_bands(first, None, self.bounds).shape[2] if first.suffix == ".npy" else 3
        self.notes = [*notes, *how]
        self._check_some_labels()

    def _find(self, name: str, label: Label, table: Table | None, patterns: Sequence[str]) -> str:
        """Finds the cells of a target or checks its files, and returns a sentence on them."""
        key = f"data.labels.{name}"
        if label.files is None:
            if table is None:
                raise ValueError(f"{key}.columns: they are columns of a table, and there is none. Set data.table.file.")
            self._cells[name] = table_labels(name, label, self._kinds[name], table, self.options.table.decimal)
            return f"{name}: {len(self._cells[name])} of {len(self._images)} images have it in the table."
        check_some_match(f"{key}.files", label.files, self._images, self._files[name], " or ".join(patterns))
        return matched_in_words(name, label.files, self._images, self._files[name])

    def _check_some_labels(self) -> None:
        """Raises `ValueError` if the values of some files of a target cannot be labels."""
        for name, files in self._files.items():
            mine = [self._root / files[key] for key in self._keys if key in files]
            if some := mine[:: max(1, len(mine) // LOOKED_AT)][:LOOKED_AT]:
                check_first_labels(name, self._labels[name], self._kinds[name], some)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        key = self._keys[index]
        path = self._root / self._images[key]
        image = read_bands(path, self._channels, self.bounds)
        targets = {name: found[key] for name, found in self._cells.items() if key in found}
        for name, files in self._files.items():
            if key in files:
                file, kind = self._root / files[key], self._kinds[name]
                value, own = read_label(file, self._labels[name], kind), (image.shape[0], image.shape[1])
                targets[name] = resized(value, kind, own, self._size, str(file), str(path))
        return {"image": image_tensor(resize(image, self._size)), "targets": targets}

    def label(self, index: int) -> str:
        return str(self._root / self._images[self._keys[index]])

    def probes(self) -> Sequence[int]:
        """Returns the first sample, and the first one that has each target."""
        found = {0}
        for name in self.targets:
            labelled = self._files.get(name) or self._cells[name]
            found.add(next((i for i, key in enumerate(self._keys) if key in labelled), 0))
        return sorted(found)
