"""Turns what people hand in as an image into pixels: a file's name, a PIL image, an array or a tensor."""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mtlkit.data.bands import bands_of, read_bands
from mtlkit.data.pictures import picture_pixels

Given = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
OVERSHOOT = 0.001  #: how far out of [0, 1] numbers may be, as interpolation leaves them; they are clipped
FORMS = (
    "the name of a file, a PIL image, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor (3, H, W) or "
    "(B, 3, H, W) of floats in [0, 1]"
)


def pixels_of(image: Given, channels: int = 3, bounds: tuple[float, float] | None = None) -> np.ndarray:
    """Returns the pixels (H, W, C) of one image with so many channels: uint8, or float32 in [0, 1].

    Files are read as `read_bands` says, and PIL images as `read_picture`, so the right side is up. A tensor is
    (C, H, W).

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
        return read_bands(path, channels, bounds)
    if isinstance(image, Image.Image):
        return _of_picture(image, channels, bounds)
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != channels or not image.is_floating_point():
            raise _unknown(f"a tensor {tuple(image.shape)} of {image.dtype}", channels)
        return _in_range(image.detach().float().permute(1, 2, 0).cpu().numpy())
    if not isinstance(image, np.ndarray):
        raise _unknown(type(image).__name__, channels)
    if image.ndim != 3 or image.shape[2] != channels or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise _unknown(f"an array {image.shape} of {image.dtype}", channels)
    return _in_range(image)


def _of_picture(image: Image.Image, channels: int, bounds: tuple[float, float] | None) -> np.ndarray:
    if channels not in (1, 3):
        return bands_of(np.asarray(image), "The picture", channels, bounds)
    picture = picture_pixels(image)
    if channels == 1 and not (picture == picture[..., :1]).all():
        raise ValueError("The picture holds colours, expected an image of 1 channel.")
    return picture[..., :channels]


def _in_range(values: np.ndarray) -> np.ndarray:
    if not values.size:
        raise _unknown(f"no pixels, {values.shape}", values.shape[-1])
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # this form also refuses NaN
        hint = " Divide it by 255." if 1 < high <= 255 and low >= 0 else ""
        raise ValueError(f"The image holds values from {low:g} to {high:g}, expected numbers in [0, 1].{hint}")
    return values.clip(0, 1).astype(np.float32)


def _unknown(found: str, channels: int) -> ValueError:
    return ValueError(f"Expected an image: {FORMS.replace('3', str(channels))}. Found {found}.")
