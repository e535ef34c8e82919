"""Data sets of the library `datasets` (Hugging Face) on the disk, read by the names of their columns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mtlkit.data.bands import bands_of, read_bands
from mtlkit.data.dataset import DATASETS, SPLITS, Camera, Dataset, Sample, Target, check_request
from mtlkit.data.files import image_tensor, inside, resize, root_folder
from mtlkit.data.splits import hold_out_blocks
from mtlkit.datasets.folder.labels import resized
from mtlkit.datasets.folder.options import Stored, check_images
from mtlkit.datasets.folder.splits import ADVICE, HOLDOUT
from mtlkit.datasets.folder.table import text_of
from mtlkit.datasets.folder.values import label_of, label_of_cells, read_label
from mtlkit.registry import suggest
from mtlkit.target import Kind, kinds_of
from mtlkit.typed import Count, Natural, OptionError, ShareBelowOne

NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}


@DATASETS.register("hf")
class HuggingFace(Dataset):
    """What `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, read by the names of its columns.

    Needs the package `datasets` (`pip install 'mtlkit[hf]'`). Nothing is downloaded. `image` is the column of the
    images, and `labels` names the targets with their kinds and columns, with the options of the data set `folder`. A
    column of pictures or of arrays is a map, and a column of class labels brings the names of its classes. Cells that
    are null mean "no label".

    Without a split for validation, blocks of neighbours of the training split are held out.

    Raises:
        FileNotFoundError: `root` is not such a folder.
        ValueError: the package is not installed, or the folder has no such column or split. When a sample is read: a
            value is none of its target.
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            labels: the targets by name
            image: the column of the images
            splits: {train: NAME, val: NAME, test: NAME}; null: those of these names
            holdout: the share of the training data that becomes val; null: 0.2
            block: neighbours that are held out together
            gap: unused neighbours on both sides of a block
            channels: the number of channels of the images; null: 3, or those of the first array
            bounds: the values of black and white; null: those of the type
            camera: f_x / width, f_y / height, c_x / width, c_y / height; for zooming on normals
        """

        labels: Mapping[str, Stored]
        image: str = "image"
        splits: Mapping[str, str] | None = None
        holdout: ShareBelowOne | None = None
        block: Count = 20
        gap: Natural = 5
        channels: Count | None = None
        bounds: tuple[float, float] | None = None
        camera: Camera | None = None

        def __post_init__(self) -> None:
            check_images(self.labels, self.bounds)
            for name, stored in self.labels.items():
                if not stored.columns:
                    raise OptionError(f"labels.{name}.columns", "missing", "Name the columns that hold it.")
            for name in self.splits or ():
                if name not in SPLITS:
                    raise OptionError(f"splits.{name}", "no split has this name", suggest(str(name), SPLITS))

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
        check_request("hf", split, size, limit)
        self._root = root_folder(root, "hf", "what save_to_disk of the package datasets wrote")
        self._split, self._size = split, size
        self.bounds, self.camera = self.options.bounds, self.options.camera
        self._rows, self.notes = self._of_split(_load(self._root), split)
        if limit is not None:
            self._rows = self._rows.select(range(min(limit, len(self._rows))))
        columns = self._rows.column_names
        wanted = {"image": [self.options.image]}
        wanted |= {f"labels.{name}.columns": list(stored.columns or ()) for name, stored in self.options.labels.items()}
        for option, names in wanted.items():
            for name in names:
                if name not in columns:
                    raise ValueError(f"data.{option}: {self._root} has no column {name!r}. {suggest(name, columns)}")
        self._labels = {name: self._named(name, stored) for name, stored in self.options.labels.items()}
        self.targets = {name: Target(stored.type, stored.class_names) for name, stored in self._labels.items()}
        self._kinds: Mapping[str, Kind] = kinds_of(self.targets)
        self._channels = self.options.channels
        for column in {name for names in wanted.values() for name in names}:
            if _is_picture(self._rows, column):  # its bytes: mtlkit reads all pictures in one way
                self._rows = self._rows.cast_column(column, type(self._rows.features[column])(decode=False))

    def _of_split(self, found: Any, split: str) -> tuple[Any, list[str]]:
        """Returns the rows of a split and sentences on how they were chosen."""
        parts = found if isinstance(found, dict) else {"train": found}
        names = {name: other for name in SPLITS for other in NAMES[name] if other in parts}
        names = names if self.options.splits is None else dict(self.options.splits)
        for name, other in names.items():
            if other not in parts:
                raise ValueError(f"data.splits.{name}: {self._root} has no split {other!r}. {suggest(other, parts)}")
        notes = [f"{self._root} has {', '.join(f'{len(rows)} {name}' for name, rows in parts.items())}."]
        if "val" in names and self.options.holdout is not None:
            raise ValueError("data.holdout: there is a split for validation. Leave one of the two out.")
        if split == "test" or "val" in names or "train" not in names:
            if split not in names:
                raise ValueError(
                    f"{self._root} has no split {split!r}, but {', '.join(parts)}. Name it in data.splits."
                )
            return parts[names[split]], notes
        rows = parts[names["train"]]
        share = HOLDOUT if self.options.holdout is None else self.options.holdout
        try:
            train, val = hold_out_blocks(len(rows), share, self.options.block, self.options.gap)
        except ValueError as error:
            raise ValueError(f"data.{error} {ADVICE.replace('splits.', '')}") from None
        notes.append(f"Of {len(rows)} training rows, {len(val)} are held out for validation in blocks of neighbours.")
        if split == "val" and not len(val):
            raise ValueError("data.holdout=0 leaves no split 'val'.")
        return rows.select(train if split == "train" else val), notes

    def _named(self, name: str, stored: Stored) -> Stored:
        """Returns the options of a target with the classes that its column has, if the options name none."""
        if stored.class_names or stored.kind().dtype.is_floating_point:
            return stored
        names = getattr(self._rows.features[(stored.columns or ("",))[0]], "names", None)
        if not names:
            raise ValueError(f"data.labels.{name}.classes: missing; the column does not name its classes.")
        return replace(stored, classes=tuple(names))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[range(len(self))[index]]
        where = self.label(index)
        image = self._image(row[self.options.image], where)
        targets: dict[str, Tensor] = {}
        for name, stored in self._labels.items():
            value = self._label(row, name, stored, f"{where}, {name}")
            if value is not None:
                own = (image.shape[0], image.shape[1])
                targets[name] = resized(value, self._kinds[name], own, self._size, f"{where}, {name}", where)
        return {"image": image_tensor(resize(image, self._size)), "targets": targets}

    def _image(self, value: Any, where: str) -> np.ndarray:
        if isinstance(value, dict):
            return read_bands(
                self._file(value, where), data=value["bytes"], channels=self._channels, bounds=self.bounds
            )
        return bands_of(np.asarray(value), where, self._channels, self.bounds)

    def _label(self, row: Mapping[str, Any], name: str, stored: Stored, where: str) -> Tensor | None:
        cells, kind = [row[column] for column in stored.columns or ()], self._kinds[name]
        value = cells[0]
        if isinstance(value, dict):
            return read_label(self._file(value, where), stored, kind, data=value["bytes"])
        if isinstance(value, list):
            return label_of(np.asarray(value), stored, kind, where)
        if isinstance(value, int) and not kind.dtype.is_floating_point:
            return label_of(np.asarray([value]), stored, kind, where)[0]
        return label_of_cells([text_of(cell) for cell in cells], stored, kind, ".", where)

    def _file(self, value: Mapping[str, Any], where: str) -> Path:
        """Returns the path of a picture, or what messages call it if its bytes are in the table."""
        if value["bytes"] is not None:
            return Path(where)
        path = Path(value["path"])  # `save_to_disk` puts the bytes into the table, but others may write tables, too
        return inside(self._root, str(path.relative_to(self._root) if path.is_relative_to(self._root) else path), where)

    def label(self, index: int) -> str:
        return f"{self._root}, row {index} of {self._split}"


def _load(root: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError("data.name=hf needs the package datasets. Install it: pip install 'mtlkit[hf]'.") from error
    try:
        return datasets.load_from_disk(str(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"data.root={root} is not what save_to_disk of the package datasets wrote. In Python: "
            f"datasets.load_dataset(...).save_to_disk({str(root)!r})."
        ) from error


def _is_picture(rows: Any, column: str) -> bool:
    return type(rows.features[column]).__name__ == "Image"
