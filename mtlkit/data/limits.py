"""The largest picture that is read. A small file can say that it has so many pixels that no memory holds them."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mtlkit.data.dataset import BadSampleError

MAX_PIXELS = "MTLKIT_MAX_PIXELS"


def check_pixels(name: Path | str, shape: Sequence[int]) -> None:
    """Raises `BadSampleError` if an array of this shape, (H, W) or with further axes, has more pixels than the limit.

    The limit is Pillow's, 178,956,970, or the number in the environment variable MTLKIT_MAX_PIXELS. The shortest of
    three or more axes holds the channels.
    """
    pixels = math.prod(shape) // (min(shape) if len(shape) > 2 and min(shape) else 1)
    limit = pixel_limit() or (2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None)
    if limit is not None and pixels > limit:
        raise too_large(name, f"{' x '.join(map(str, shape))}, {pixels} pixels, exceed the limit of {limit}")


def pixel_limit() -> int | None:
    """Returns the limit that the user has set. None: there is none. Raises `ValueError` if it is no number."""
    text = os.environ.get(MAX_PIXELS)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ValueError(f"The environment variable {MAX_PIXELS} must be a number of pixels, found {text!r}.")
    return int(text)


def too_large(name: Path | str, problem: str) -> BadSampleError:
    """Returns the error for a picture with too many pixels."""
    return BadSampleError(
        f"{name} is too large: {problem}. Make it smaller or, if you trust it and have the memory, set the environment "
        f"variable {MAX_PIXELS} to the number of pixels to allow."
    )
