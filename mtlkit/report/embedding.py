"""Puts pictures into the page itself, within a limit on their common size."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from mtlkit.data.pictures import read_picture

SIDES = (320, 240, 160, 96)  #: in pixels: larger pictures are reduced to the first of these sides that fits the limit
LIMIT = 1_200_000  #: in bytes, of all pictures of a page


class Embedder:
    """Makes `<img>` elements. A small picture is kept exactly. If all of them are too large, all become smaller.

    Raises `ValueError`, which names the file, for a picture that cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        for self.side in SIDES:
            self._data = {path: _encoded(path, self.side) for path in paths}
            if sum(len(data) for _, data in self._data.values()) <= LIMIT:
                break

    def __call__(self, path: Path, text: str) -> str:
        """Returns the element. `text` says what the picture shows."""
        small, data = self._data[path]
        return f'<img{" class=small" if small else ""} alt="{escape(text)}" src="data:image/webp;base64,{data}">'


def _encoded(path: Path, side: int) -> tuple[bool, str]:
    """Returns whether the picture keeps its size, and the shorter of its exact and, if reduced, its lossy form."""
    picture = Image.fromarray(read_picture(path))
    small = max(picture.size) <= side
    picture.thumbnail((side, side))
    found = [_webp(picture, lossless=True), *([] if small else [_webp(picture, quality=85)])]
    return small, base64.b64encode(min(found, key=len)).decode()


def _webp(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "webp", method=4, **options)
    return buffer.getvalue()
