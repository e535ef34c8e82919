"""Multi-MNIST: two overlapping digits, five tasks."""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from mtlkit.data.dataset import DATASETS, Dataset, Sample, Split, Target
from mtlkit.registry import suggest

SIZE = (28, 28)
DIGITS = tuple("0123456789")
SPLITS: tuple[str, ...] = get_args(Split)  # their order is part of the recipe: it numbers the random streams


@DATASETS.register("multimnist")
class MultiMNIST(Dataset):
    """Two overlapping MNIST digits a picture: classify both, regress their sum, product and the lit area.

    The five tasks of RotoGrad's first version (Javaloy and Valera, OpenReview, 2020) on the pictures of MGDA (Sener
    and Koltun, arXiv 1810.04650), made deterministic: image i of a split is the left digit; its right digit is drawn
    from the same split by `Generator(PCG64([dataset_seed, split])).integers(N, size=N)` with split 0, 1, 2 for
    train, val, test. On a canvas of 36 x 36 the left digit covers rows and columns 0 to 27, the right one 6 to 33, and
    the brighter pixel wins; the canvas is resized to 28 x 28 by taking pixel floor((j + 1/2) 36 / 28). `val` is the
    last sixth of MNIST's training file (10,000 images), `train` the rest (50,000), `test` MNIST's test file.

    Sample: image (3, 28, 28), grey; left and right are classes; sum, product and density (1,), not standardised;
    density is the share of pixels above 0.5 in percent. A mirrored digit is no digit: augment without flips.

    `root` holds MNIST's four files as torchvision lays them out (`root/MNIST/raw/train-images-idx3-ubyte`, plain or
    `.gz`; `root/raw` and `root` itself are looked at, too). `download` fetches them where they are missing. `size`
    must be (28, 28) or None.

    Raises `FileNotFoundError` for missing and `ValueError` for damaged files and for options out of range.
    """

    targets: Mapping[str, Target] = {
        "left": Target("classification", DIGITS),
        "right": Target("classification", DIGITS),
        "sum": Target("regression", ("sum",)),
        "product": Target("regression", ("product",)),
        "density": Target("regression", ("density",)),
    }

    def __init__(
        self,
        root: str | Path | None,
        split: str = "train",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        dataset_seed: int = 0,
        download: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"The data set 'multimnist' has no split {split!r}. {suggest(str(split), SPLITS)}")
        if size is not None and tuple(size) != SIZE:
            raise ValueError(f"The data set 'multimnist' comes in size {list(SIZE)} only, got {list(size)}.")
        if limit is not None and limit < 1:
            raise ValueError(f"The number of samples must be at least 1, got {limit}.")
        if dataset_seed < 0:
            raise ValueError(f"dataset_seed must not be negative, got {dataset_seed}.")
        if root is None:
            raise ValueError("data.root is not set: name the folder with MNIST's files, or one for data.download=true.")
        digits, labels = _read(Path(root).expanduser(), "t10k" if split == "test" else "train", download)
        if split != "test":
            kept = len(digits) - len(digits) // 6
            part = slice(kept) if split == "train" else slice(kept, None)
            digits, labels = digits[part], labels[part]
        random = np.random.Generator(np.random.PCG64([dataset_seed, SPLITS.index(split)]))
        right = random.integers(len(digits), size=len(digits))[:limit]
        images = _overlay(digits[:limit], digits[right])
        pairs = np.stack([labels[:limit], labels[right]], axis=1).astype(np.int64)
        density = (images > 127).mean(axis=(1, 2)) * 100
        self._images = torch.from_numpy(images)
        self._pairs = torch.from_numpy(pairs)
        self._values = torch.from_numpy(np.stack([pairs.sum(1), pairs.prod(1), density], axis=1).astype(np.float32))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        vectors = (*self._pairs[index].clone().unbind(), *self._values[index].clone().split(1))
        image = (self._images[index] / 255).repeat(3, 1, 1)
        return {"image": image, "targets": dict(zip(self.targets, vectors, strict=True))}


def _overlay(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two (N, 28, 28) uint8 -> (N, 28, 28) uint8."""
    canvas = np.zeros((len(left), 36, 36), np.uint8)
    canvas[:, :28, :28] = left
    canvas[:, 6:34, 6:34] = np.maximum(canvas[:, 6:34, 6:34], right)
    pixels = np.floor((np.arange(28) + 0.5) * 36 / 28).astype(np.intp)
    return canvas[:, pixels[:, None], pixels]


def _read(root: Path, file: str, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """The digits (N, 28, 28) and labels (N,) of MNIST's `train` or `t10k` files, both uint8."""
    names = f"{file}-images-idx3-ubyte", f"{file}-labels-idx1-ubyte"
    folders = [root / "MNIST" / "raw", root / "raw", root]
    if download and any(_find(folders, name) is None for name in names):
        _download(root)
    paths = []
    for name in names:
        path = _find(folders, name)
        if path is None:
            raise FileNotFoundError(
                f"MNIST's file {name} (or {name}.gz) is in none of {', '.join(map(str, folders))}. "
                "Set data.root to the folder that holds MNIST/raw, or fetch the files with data.download=true."
            )
        paths.append(path)
    digits, labels = _idx(paths[0], 3), _idx(paths[1], 1)
    if digits.shape[1:] != SIZE or len(digits) < 6:
        raise ValueError(f"{paths[0]} holds images of shape {digits.shape}, expected (at least 6, 28, 28).")
    if len(digits) != len(labels):
        raise ValueError(f"{paths[0]} holds {len(digits)} images, but {paths[1]} {len(labels)} labels.")
    if labels.max() > 9:
        raise ValueError(f"{paths[1]} holds the label {labels.max()}, expected digits from 0 to 9.")
    return digits, labels


def _download(root: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(root, download=True)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"MNIST could not be downloaded to {root / 'MNIST' / 'raw'}: {error}") from error


def _find(folders: list[Path], name: str) -> Path | None:
    paths = (folder / (name + suffix) for folder in folders for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _idx(path: Path, axes: int) -> np.ndarray:
    """An array of bytes in MNIST's idx format: magic 0x0800 + axes, the shape, the values; integers big-endian."""
    advice = "Delete it and get it again, for instance with data.download=true."
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}). {advice}") from error
    if len(data) < 4 + 4 * axes:
        raise ValueError(f"{path} holds {len(data)} bytes, less than the header of an idx file. {advice}")
    magic, *shape = struct.unpack_from(f">{1 + axes}I", data)
    if magic != 0x0800 + axes:
        raise ValueError(
            f"{path} is no idx file of {axes} axes: it starts with 0x{magic:08x}, not 0x{0x0800 + axes:08x}. {advice}"
        )
    expected = 4 + 4 * axes + math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"{path} holds {len(data)} bytes, expected {expected} for the shape {shape}. {advice}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
