"""MNIST's four files, with random digits."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder: Path, zipped: bool = False, train: int = 36, test: int = 12) -> dict[str, np.ndarray]:
    """Random digits in MNIST's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    arrays = {}
    for file, n in (("train", train), ("t10k", test)):
        arrays[f"{file}-images-idx3-ubyte"] = random.integers(256, size=(n, 28, 28), dtype=np.uint8)
        arrays[f"{file}-labels-idx1-ubyte"] = random.integers(10, size=n, dtype=np.uint8)
    for name, array in arrays.items():
        data = idx(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return arrays
