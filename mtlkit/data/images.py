"""Turns what people hand in as an image into pixels: a file's name, a PIL image, an array or a tensor."""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mtlkit.data.pictures import picture_pixels, read_picture

Given = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
OVERSHOOT = 0.001  #: how far out of [0, 1] numbers may be, as interpolation leaves them; they are clipped
FORMS = (
    "the name of a file, a PIL image, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor (3, H, W) or "
    "(B, 3, H, W) of floats in [0, 1]"
)


def pixels_of(image: Given) -> np.ndarray:
    """Returns the pixels (H, W, 3) of one image: uint8, or float32 in [0, 1].

    Files and PIL images are read as `read_picture` says, so the right side is up. A tensor is (3, H, W).

    Raises:
        ValueError: it is none of these, has another shape or has numbers out of range.
        FileNotFoundError: there is no such file.

    >>> import torch
    >>> pixels_of(torch.zeros(3, 4, 5)).shape, pixels_of(np.zeros((4, 5, 3), np.uint8)).dtype
    ((4, 5, 3), dtype('uint8'))
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected an image. A list of images works, too.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no image {path}.")
        return read_picture(path)
    if isinstance(image, Image.Image):
        return picture_pixels(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
            raise _unknown(f"a tensor {tuple(image.shape)} of {image.dtype}")
        return _in_range(image.detach().float().permute(1, 2, 0).cpu().numpy())
    if not isinstance(image, np.ndarray):
        raise _unknown(type(image).__name__)
    if image.ndim != 3 or image.shape[2] != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise _unknown(f"an array {image.shape} of {image.dtype}")
    return _in_range(image)


def _in_range(values: np.ndarray) -> np.ndarray:
    if not values.size:
        raise _unknown(f"no pixels, {values.shape}")
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # this form also refuses NaN
        hint = " Divide it by 255." if 1 < high <= 255 and low >= 0 else ""
        raise ValueError(f"The image holds values from {low:g} to {high:g}, expected numbers in [0, 1].{hint}")
    return values.clip(0, 1).astype(np.float32)


def _unknown(found: str) -> ValueError:
    return ValueError(f"Expected an image: {FORMS}. Found {found}.")
