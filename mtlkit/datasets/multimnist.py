"""Multi-MNIST: two overlapping digits, five tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, SPLITS, Dataset, Sample, Target, check_request
from mtlkit.datasets.mnist import DIGITS, LICENCE, SIZE, read_digits
from mtlkit.typed import Natural

DIGIT = Target("classification", DIGITS)
SUM, DENSITY = Target("regression", ("sum",)), Target("regression", ("density",))


@dataclass(frozen=True)
class PairOptions:
    """The options of `overlapping_digits`.

    Args:
        dataset_seed: draws the pairs
        download: downloads missing files
    """

    dataset_seed: Natural = 0
    download: bool = False


@DATASETS.register("multimnist")
class MultiMNIST(Dataset):
    """Two overlapping MNIST digits per picture: classify both; regress their sum, product and the lit area.

    These are the five tasks of RotoGrad's first version (Javaloy and Valera, OpenReview, 2020) on the pictures of MGDA
    (Sener and Koltun, arXiv 1810.04650), made deterministic. Image i of a split is the left digit. Its right digit is
    drawn from the same split by `Generator(PCG64([dataset_seed, split])).integers(N, size=N)` with split 0, 1, 2 for
    train, val, test. On a canvas of 36 x 36 the left digit covers rows and columns 0 to 27, and the right one 6 to 33.
    Where they overlap, the brighter pixel is used. The canvas is resized to 28 x 28 by taking pixel
    floor((j + 1/2) 36 / 28). `val` is the last sixth of MNIST's training file (10,000 images), `train` is the rest
    (50,000), and `test` is MNIST's test file.

    Sample: image (3, 28, 28), grey; left and right are classes; sum, product and density are (1,), not standardised.
    density is the share of pixels above 0.5 in percent. A mirrored digit is no digit, so augment without flips.

    With `parity`, the tasks are the five of RotoGrad's later version (arXiv 2103.02631), on the same pictures: parity
    replaces product. It is a multilabel target (1,) with the attribute "odd". It is 1 if the product is odd, that is,
    if both digits are odd. The type multilabel has the paper's binary cross-entropy and F1. This project chose that F1
    counts odd products, which are rarer (about a quarter).

    `root` holds MNIST's four files as torchvision stores them (`root/MNIST/raw/train-images-idx3-ubyte`, with or
    without `.gz`; `root/raw` and `root` itself work, too). `download` downloads missing files. `size` must be (28, 28)
    or None.

    Raises `FileNotFoundError` for missing files, and `ValueError` for damaged files and for options out of range.
    """

    licence = LICENCE
    targets: Mapping[str, Target] = {
        "left": DIGIT,
        "right": DIGIT,
        "sum": SUM,
        "product": Target("regression", ("product",)),
        "density": DENSITY,
    }

    @dataclass(frozen=True)
    class Options(PairOptions):
        """The options of the data set.

        Args:
            parity: the tasks of RotoGrad's later version
        """

        parity: bool = False

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
        images, pairs, _ = overlapping_digits("multimnist", root, split, size, limit, self.options)
        density = (images > 127).mean(axis=(1, 2)) * 100
        values = [pairs.sum(1), pairs.prod(1), density]
        if self.options.parity:
            odd = Target("multilabel", ("odd",))
            self.targets = {"left": DIGIT, "right": DIGIT, "parity": odd, "sum": SUM, "density": DENSITY}
            values = [pairs.prod(1) % 2, pairs.sum(1), density]
        self._images = torch.from_numpy(images)
        self._pairs = torch.from_numpy(pairs)
        self._values = torch.from_numpy(np.stack(values, axis=1).astype(np.float32))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        vectors = (*self._pairs[index].clone().unbind(), *self._values[index].clone().split(1))
        image = (self._images[index] / 255).repeat(3, 1, 1)
        return {"image": image, "targets": dict(zip(self.targets, vectors, strict=True))}


def overlapping_digits(
    name: str,
    root: str | Path | None,
    split: str,
    size: tuple[int, int] | None,
    limit: int | None,
    options: PairOptions,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes the pictures of `MultiMNIST` for the data set `name`. Arguments and errors are those of the class.

    Returns the pictures (N, 28, 28) uint8, the labels (N, 2) int64, left and right, and the right digits alone
    (N, 28, 28) uint8, as in MNIST.
    """
    check_request(name, split, None, limit)
    if size is not None and tuple(size) != SIZE:
        raise ValueError(f"The data set {name!r} comes in size {list(SIZE)} only, got {list(size)}.")
    digits, labels = read_digits(root, "t10k" if split == "test" else "train", options.download)
    if split != "test":
        kept = len(digits) - len(digits) // 6
        part = slice(kept) if split == "train" else slice(kept, None)
        digits, labels = digits[part], labels[part]
    # The recipe depends on the order of SPLITS.
    random = np.random.Generator(np.random.PCG64([options.dataset_seed, SPLITS.index(split)]))
    partners = random.integers(len(digits), size=len(digits))[:limit]
    pairs = np.stack([labels[:limit], labels[partners]], axis=1).astype(np.int64)
    right = digits[partners]
    return _overlay(digits[:limit], right), pairs, right


def _overlay(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two (N, 28, 28) uint8 -> (N, 28, 28) uint8."""
    canvas = np.zeros((len(left), 36, 36), np.uint8)
    canvas[:, :28, :28] = left
    canvas[:, 6:34, 6:34] = np.maximum(canvas[:, 6:34, 6:34], right)
    pixels = np.floor((np.arange(28) + 0.5) * 36 / 28).astype(np.intp)
    return canvas[:, pixels[:, None], pixels]
