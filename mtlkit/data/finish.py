"""What happens to a batch on the device: stored values are restored, then the whole batch is augmented.

Nothing is read there, so a device never waits for it. All random numbers were drawn before, in the loading processes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlkit.data.blocks import widen
from mtlkit.motion import Motions, Packed, spread
from mtlkit.target import DenseKind, Kind

GREY = (0.299, 0.587, 0.114)  #: the shares of red, green and blue in the brightness, as OpenCV has them


@dataclass(frozen=True)
class Finish:
    """Makes float32 images and targets in the types of their kinds from a batch as it crossed to the device.

    Args:
        kinds: of the targets, by name.
        target_size: (width, height) to which maps are resized here; None: they have their size already.
        compat: the augmentation's option of that name.
        colour: whether images change their colours.
    """

    kinds: Mapping[str, Kind]
    target_size: tuple[int, int] | None = None
    compat: str | None = None
    colour: bool = False

    def __call__(
        self, image: Tensor, targets: Mapping[str, Tensor], moves: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns image and targets of a batch. All tensors are on one device. `targets` may be some of the loader's.

        `moves` are the places and numbers of `Packed` and the `colours` of `coloured`; None: no augmentation here.
        """
        if moves is None:
            return _restored(image, torch.float32), {
                name: _restored(value, self.kinds[name].dtype) for name, value in targets.items()
            }
        places, numbers, colours = moves
        height, width = image.shape[-2:]
        motions = Motions.of(Packed(places, numbers), (width, height), self.compat)
        # Restored before the interpolation: prepared data must train as the files do, to the last bit.
        moved = motions.interpolated(_restored(image, torch.float32))
        if self.colour:
            moved = coloured(moved, colours)
        return moved, dict(self._moved(targets, motions))

    def _moved(self, targets: Mapping[str, Tensor], motions: Motions) -> Iterator[tuple[str, Tensor]]:
        for name, value in targets.items():
            kind = self.kinds[name]
            if isinstance(kind, DenseKind) and type(kind).move_batch is DenseKind.move_batch:
                # The pixels move first, as long as they are small.
                moved = kind.change_batch(_restored(motions.nearest(value), kind.dtype), motions)
            else:
                moved = kind.move_batch(_restored(value, kind.dtype), motions)
            if self.target_size is not None:
                moved = self._sized(kind, moved)
            yield name, moved

    def _sized(self, kind: Kind, values: Tensor) -> Tensor:
        assert self.target_size is not None
        if sized_by_index(kind):
            return kind.resize(values, *self.target_size)
        return torch.stack([kind.resize(value, *self.target_size) for value in values])


def sized_by_index(kind: Kind) -> bool:
    """Returns whether resizing takes values as they are, so that it works on batches and on stored values."""
    return type(kind).resize in (DenseKind.resize, Kind.resize)


def coloured(images: Tensor, colours: Tensor) -> Tensor:
    """Returns images (B, C, H, W) in new colours. It works in place.

    One row of `colours` (B, 3, 3) is one change: x <- f x + m mean + g grey, kept in [0, 1], with (f, m, g). Here grey
    is the brightness of the pixel, and mean that of the picture. So (f, 0, 0) is brightness, (f, 1 - f, 0) is contrast
    and (f, 0, 1 - f) is saturation.
    """
    weights = (1.0,) if images.shape[1] == 1 else GREY
    for change in colours.unbind(1):
        own, mean, grey = (spread(part, images) for part in change.unbind(1))
        brightness = sum(weight * images[:, i : i + 1] for i, weight in enumerate(weights))
        assert isinstance(brightness, Tensor)
        # In float64, and then rounded: the sum of a picture must not depend on how many pictures are in the batch.
        average = brightness.mean((2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
        images = images.mul_(own).add_(brightness.mul_(grey).add_(mean * average)).clamp_(0, 1)
    return images


def _restored(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype == dtype else widen(values, dtype)
