"""Cityscapes in small, as in MTAN's archives of .npy files."""

from pathlib import Path

import numpy as np

SIZE = (12, 8)  # width, height


def image(number: int, split: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) float64 in [0, 1]."""
    x, y = _grid(size)
    return np.stack([x / size[0], y / size[1], np.full_like(x, _code(number, split) / 200)], axis=-1)


def label(number: int, split: str, classes: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) float64 from -1 to classes - 1."""
    x, y = _grid(size)
    return (x + 2 * y + _code(number, split)) % (classes + 1) - 1


def depth(number: int, split: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 1) float64, disparity / 65535, with holes."""
    x, y = _grid(size)
    disparity = np.where((x + y) % 5 == 0, 0, 100 + x + 20 * y + 200 * _code(number, split))
    return disparity[..., None] / 65535


def write(
    root: Path,
    train: int = 60,
    test: int = 12,
    labels: tuple[str, ...] = ("label_2", "label_7", "label_19"),
    classes: int = 7,
    size: tuple[int, int] = SIZE,
) -> None:
    """The folders; `classes` are those of a folder called `label`."""
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            arrays = {"image": image(number, split, size), "depth": depth(number, split, size)}
            for name in labels:
                arrays[name] = label(number, split, int(name[6:] or classes), size)
            for name, values in arrays.items():
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{number}.npy", values)


def _grid(size: tuple[int, int]) -> list[np.ndarray]:
    return np.meshgrid(np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64))


def _code(number: int, split: str) -> int:
    return number + 100 * (split == "val")
