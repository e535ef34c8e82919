"""How the augmentation moves an image: as numbers of one sample, and as tensors of a batch on the device."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Motion:
    """Describes how the augmentation changes an image of `size` (width, height): it enlarges a crop, then mirrors it.

    The crop has 1 / `scale` of the image's width and height. `corner` is its (left, top), as shares of the image's.
    `ray` is the viewing ray (t_x, t_y, 1) that becomes the optical axis, or None if the camera is not known. `compat`
    is the augmentation's option of that name. With `mtan`, `corner` lies between whole pixels.
    """

    size: tuple[int, int]
    scale: float
    corner: np.ndarray
    ray: np.ndarray | None
    mirrored: bool
    compat: str | None = None

    def sources(self, axis: int) -> np.ndarray:
        """Returns, for the columns (axis 0) or rows (axis 1), the pixels that the enlarged pixels take values from."""
        size, start = self.size[axis], self.corner[axis] * self.size[axis]
        if self.compat == "mtan":
            # As torch's interpolation `nearest` computes it, in float32: the pixel to the left of the centre, or above.
            part = int(size / self.scale)
            places = np.arange(size, dtype=np.float32) * np.float32(part / size)
            return round(start) + np.minimum(places.astype(np.intp), part - 1)
        return (start + (np.arange(size) + 0.5) / self.scale).astype(np.intp)  # those that contain the centres

    def places(self, axis: int) -> np.ndarray:
        """Returns where between pixels the enlarged pixels lie, for interpolation: as indices, within the image."""
        size, start = self.size[axis], self.corner[axis] * self.size[axis]
        if self.compat == "mtan":
            return round(start) + np.arange(size) * ((int(size / self.scale) - 1) / max(size - 1, 1))
        return (start + (np.arange(size) + 0.5) / self.scale - 0.5).clip(0, size - 1)

    def interpolated(self, values: np.ndarray) -> np.ndarray:
        """Returns the enlarged crop of (C, H, W), interpolated as with `compat: mtan`: corners lie on corners."""
        width, height = self.size
        left, top = (round(share * size) for share, size in zip(self.corner, self.size, strict=True))
        part = values[:, top : top + int(height / self.scale), left : left + int(width / self.scale)]
        crop = torch.from_numpy(np.ascontiguousarray(part))[None]
        return F.interpolate(crop, size=(height, width), mode="bilinear", align_corners=True)[0].numpy()


class Packed(NamedTuple):
    """The motions of a batch in two tensors, which cross to the device at once: `places` int32, `numbers` float32."""

    places: Tensor
    numbers: Tensor


def pack(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Returns a row of each tensor of `Packed`, which `Motions.of` reads."""
    columns, rows = motion.sources(0), motion.sources(1)
    x, y = motion.places(0), motion.places(1)
    if motion.mirrored:  # a mirrored pixel comes from where its counterpart would come
        columns, x = columns[::-1], x[::-1]
    ray = (0.0, 0.0, 1.0) if motion.ray is None else motion.ray
    places = np.concatenate([columns, rows, x, y])
    shares = np.concatenate([x % 1, y % 1, [motion.scale, motion.mirrored], ray])
    return places.astype(np.int32), shares.astype(np.float32)


@dataclass(frozen=True)
class Motions:
    """A batch of `Motion`s as tensors on one device, from which a kind moves its values without reading any of them.

    `columns` (B, W) and `rows` (B, H) are the pixels that the moved pixels take their values from. `scale` and
    `mirrored` (1 or 0) are (B,), and `ray` is (B, 3). `compat` is the augmentation's option of that name.
    """

    columns: Tensor
    rows: Tensor
    left: Tensor  #: (B, W), the left one of the two columns to interpolate between
    above: Tensor  #: (B, H)
    across: Tensor  #: (B, W), the share of the right one
    down: Tensor  #: (B, H)
    scale: Tensor
    mirrored: Tensor
    ray: Tensor
    compat: str | None

    @staticmethod
    def of(packed: Packed, size: tuple[int, int], compat: str | None) -> "Motions":
        """Returns the motions of a batch of images of `size` (width, height)."""
        width, height = size
        columns, rows, left, above = packed.places.long().split([width, height, width, height], dim=1)
        across, down, scale, mirrored, ray = packed.numbers.split([width, height, 1, 1, 3], dim=1)
        return Motions(columns, rows, left, above, across, down, scale[:, 0], mirrored[:, 0], ray, compat)

    def nearest(self, values: Tensor) -> Tensor:
        """Returns (B, ..., H, W) with the values of the nearest pixels."""
        return _columns(_rows(values, self.rows), self.columns)

    def interpolated(self, values: Tensor) -> Tensor:
        """Returns (B, C, H, W) float32, interpolated bilinearly. Values that did not move keep their bits."""
        height, width = values.shape[-2:]
        # First the rows: they are copied whole, and bytes are fastest.
        moved = _between(
            _rows(values, self.above),
            _rows(values, (self.above + 1).clamp(max=height - 1)),
            self.down[:, None, :, None],
        )
        right = (self.left + 1).clamp(max=width - 1)
        return _between(_columns(moved, self.left), _columns(moved, right), self.across[:, None, None, :])


def spread(numbers: Tensor, like: Tensor) -> Tensor:
    """Returns a number per sample (B,) in the shape (B, 1, ...), to compute with the values of a batch."""
    return numbers.view(-1, *[1] * (like.dim() - 1))


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Returns these rows (B, H) of (B, ..., H, W)."""
    batch, height, width = len(values), *values.shape[-2:]
    parts = values.numel() // (batch * height * width)
    first = torch.arange(batch * parts, device=values.device).view(batch, parts, 1) * height
    chosen = values.reshape(-1, width).index_select(0, (first + rows[:, None]).flatten())
    return chosen.view(values.shape)


def _columns(values: Tensor, columns: Tensor) -> Tensor:
    """Returns these columns (B, W) of (B, ..., H, W)."""
    batch, width = columns.shape
    return values.gather(-1, columns.view(batch, *[1] * (values.dim() - 2), width).expand(values.shape))


def _between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Returns one + share (other - one), in float32."""
    one = one.float()
    return other.to(torch.float32, copy=True).sub_(one).mul_(share).add_(one)
