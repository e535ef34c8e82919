"""The common part of CelebA and ChestX-ray14: pictures with lists that say whether each label is present."""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mtlkit.data.dataset import Dataset, Sample, Target
from mtlkit.data.files import image_tensor, inside, resize
from mtlkit.data.pictures import read_picture

Labels = bytes  # the labels of one picture: 0 or 1 per label


class LabelledPictures(Dataset):
    """Pictures that all have the same labels. Groups of labels become the targets, of type multilabel."""

    def _hold(
        self,
        paths: Sequence[str],
        rows: Iterable[Labels],
        names: Sequence[str],
        groups: Mapping[str, tuple[str, ...]],
        size: tuple[int, int] | None,
    ) -> None:
        """Sets the samples. The constructor of a subclass calls it.

        Args:
            paths: the picture files.
            rows: the labels of each picture, one value for each of `names`.
            names: the names of the labels.
            groups: the label names of each target.
            size: (width, height) of the images. None: the size of the pictures.
        """
        self.targets = {target: Target("multilabel", group) for target, group in groups.items()}
        self._columns = {target: [names.index(name) for name in group] for target, group in groups.items()}
        self._paths, self._size = paths, size
        self._labels = np.frombuffer(b"".join(rows), np.uint8).reshape(len(paths), len(names))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        image = image_tensor(resize(read_picture(Path(self._paths[index])), self._size, how=self.resizing))
        labels = self._labels[index].astype(np.float32)
        targets = {target: torch.from_numpy(labels[columns]) for target, columns in self._columns.items()}
        return {"image": image, "targets": targets}

    def label(self, index: int) -> str:
        return self._paths[index]


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yields the rows of a list: the cells of a .csv file, or the words of another file. Blank lines are skipped.

    Raises `ValueError` for a file that is empty, no text, or a web page, which a failed download can leave.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").lstrip()
        if text.startswith("<"):
            raise ValueError(f"{path} is a web page, not a list: it begins with {text[:20]!r}. Get it again.")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{path} is empty.")
        yield from csv.reader(lines, skipinitialspace=True) if path.suffix == ".csv" else map(str.split, lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a list: {error}") from error


def check_once(path: Path, name: str, found: Collection[str]) -> None:
    """Raises `ValueError` if a list names a picture twice, or one outside of the folder of the pictures."""
    if "/" in name:
        inside(path.parent, name, path)
    if name in found:
        raise ValueError(f"{path} has two rows of {name!r}.")


def check_same(first: str, names: Collection[str], second: str, others: Collection[str], page: str) -> None:
    """Raises `ValueError` if the two lists `first` and `second` do not name the same pictures."""
    for a, b, more, fewer in ((first, second, names, others), (second, first, others, names)):
        if extra := [name for name in more if name not in fewer]:
            raise ValueError(
                f"{a} names {len(extra)} pictures that {b} does not name, the first of them {extra[0]}: they are not "
                f"of one data set, or one was downloaded only in part. To be had on {page}."
            )


def missing_pictures(names: Collection[str], present: Collection[str], where: str, source: str) -> str:
    """Returns the text of `Dataset.missing` for listed pictures that are not `present`."""
    missing = [name for name in names if name not in present]
    if not missing:
        return ""
    return (
        f"{len(missing)} of the {len(names)} pictures that the lists name are not in {where}, the first of them "
        f"{missing[0]}. To be had from {source}."
    )
