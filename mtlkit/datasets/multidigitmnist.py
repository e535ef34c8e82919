"""MultiDigitMNIST: two digits side by side. Each pair of classes is in one split only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, Dataset, Sample, Target, check_request
from mtlkit.data.files import resize
from mtlkit.datasets.mnist import LICENCE, SIZE, read_digits
from mtlkit.typed import Count

SEED = 123
SIDE = 64
# The share of the shuffled pairs per split, as in the generator's code (its page swaps 16 and 20).
PAIRS = {"train": range(64), "val": range(64, 80), "test": range(80, 100)}
CLASSES = {"parity": (range(0, 10, 2), range(1, 10, 2)), "all": (range(10), range(10))}  # digits left and right


@DATASETS.register("multidigitmnist")
class MultiDigitMNIST(Dataset):
    """Two MNIST digits side by side. Classify both. Every split has other pairs of classes.

    This is MultiDigitMNIST (S.-H. Sun, github.com/shaohua0116/MultiDigitMNIST, 2019) for two digits and with its
    default seed. mtlkit makes it from MNIST's files each time it is opened. `classes` are

    - `parity`, as in CosReg (Suteu and Guo, arXiv 1912.06844): even digits on the left, odd ones on the right, 5
      classes each; 16, 4 and 5 pairs in train, val and test. With the default of 1,000 pictures per pair these are the
      paper's 16,000, 4,000 and 5,000;
    - `all`: 10 classes on each side; 64, 16 and 20 pairs.

    The recipe uses NumPy's legacy random streams, which are the same in every version. `RandomState(123)` shuffles the
    pairs 00 to 99: the first 64 are for train, the next 16 for val. A second `RandomState(123)` draws for all pairs in
    that order. For each of the `per_class` pictures of a pair it draws the left and the right digit among all digits of
    their classes, two rows below 36 and two columns below 4. The column of the right digit counts from the middle.
    Therefore `per_class` changes the pictures of every pair except the first. CosReg gives neither a seed nor a recipe.
    This recipe has the paper's numbers of pairs. Nothing else shows that its pictures are the same.

    Every split has its own pairs, but its digits come from MNIST's training and test files alike, and one digit may be
    in several splits. In `parity` a 7 on the right is in 1 of 16 pairs of train and in 2 of 5 of test.

    Sample i shows pair i mod (number of pairs), so the first samples contain all pairs: image (3, 64, 64), grey, or of
    another `size`; left and right are classes. A mirrored digit is no digit, so augment without flips.

    `root` and `download` are as in `multimnist`. Every split needs all four files. Raises `FileNotFoundError` for
    missing files, and `ValueError` for damaged files and for options out of range.
    """

    licence = LICENCE

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            classes: even digits on the left and odd ones on the right, or all digits on both sides
            per_class: the number of pictures of each pair
            download: downloads missing files
        """

        classes: Literal["parity", "all"] = "parity"
        per_class: Count = 1000
        download: bool = False

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
        check_request("multidigitmnist", split, size, limit)
        per_class = self.options.per_class
        parts = [read_digits(root, file, self.options.download) for file in ("train", "t10k")]
        self._digits, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        missing = set(range(10)) - set(labels.tolist())
        if missing:
            raise ValueError(f"MNIST's files in {root} hold no {min(missing)}, of which pictures are to be made.")
        left, right = CLASSES[self.options.classes]
        self.targets = {
            "left": Target("classification", tuple(map(str, left))),
            "right": Target("classification", tuple(map(str, right))),
        }
        pairs, draws = _draw(labels, per_class)
        kept = [i for i in PAIRS[split] if pairs[i, 0] in left and pairs[i, 1] in right]
        self._draws = draws[kept].swapaxes(0, 1).reshape(-1, 6)[:limit]  # the pairs alternate
        numbers = [(left.index(a), right.index(b)) for a, b in pairs[kept].tolist()]
        self._labels = torch.tensor(numbers).repeat(per_class, 1)[:limit]
        self._size = size

    def __len__(self) -> int:
        return len(self._draws)

    def __getitem__(self, index: int) -> Sample:
        left, right, top_left, top_right, x_left, x_right = self._draws[index].tolist()
        picture = np.zeros((SIDE, SIDE), np.uint8)
        for digit, y, x in ((left, top_left, x_left), (right, top_right, SIDE // 2 + x_right)):
            picture[y : y + SIZE[1], x : x + SIZE[0]] = self._digits[digit]
        image = torch.from_numpy(resize(picture, self._size)) / 255
        labels = self._labels[index].clone().unbind()
        return {"image": image.repeat(3, 1, 1), "targets": dict(zip(self.targets, labels, strict=True))}


def _draw(labels: np.ndarray, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws the shuffled pairs of classes (100, 2), and the random numbers of their pictures (100, `per_class`, 6).

    These numbers are the indices of the left and the right digit, their two top rows, and their two left columns inside
    their halves.
    """
    pairs = np.stack(np.divmod(np.random.RandomState(SEED).permutation(100), 10), axis=1)
    counts = np.bincount(labels)
    free = np.repeat([SIDE - SIZE[1], SIDE // 2 - SIZE[0]], 2)
    below = np.concatenate([counts[pairs], np.tile(free, (100, 1))], axis=1)
    # One call draws the same numbers in the same order as one call per number.
    draws = np.random.RandomState(SEED).randint(np.broadcast_to(below[:, None], (100, per_class, 6)), dtype=np.int64)
    of_class = np.argsort(labels, kind="stable")
    draws[..., :2] = of_class[(counts.cumsum() - counts)[pairs][:, None] + draws[..., :2]]
    return pairs, draws
