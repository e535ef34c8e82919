"""Reads MNIST's files, for all data sets that are made of its digits."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

SIZE = (28, 28)
DIGITS = tuple("0123456789")
LICENCE = "MNIST (Y. LeCun, C. Cortes, C. J. C. Burges): usually given as Creative Commons BY-SA 3.0."


def read_digits(root: str | Path | None, file: str, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """Reads the digits (N, 28, 28) and labels (N,) of MNIST's `train` or `t10k` files, both uint8.

    The files are in `root/MNIST/raw`, `root/raw` or `root`, with or without `.gz`. With `download`, torchvision
    downloads missing files to the first of these folders.

    Raises `FileNotFoundError` for missing files, and `ValueError` for damaged files and if `root` is None.
    """
    if root is None:
        raise ValueError("data.root is not set: name the folder with MNIST's files, or one for data.download=true.")
    root = Path(root).expanduser()
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
    """Reads an array of bytes in MNIST's idx format: magic 0x0800 + axes, shape, values; integers are big-endian."""
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
