"""Targets: the kind of their values, and the names of their classes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mtlkit.contract import check_hooks
from mtlkit.motion import Motion as Motion
from mtlkit.motion import Motions
from mtlkit.registry import Registry, suggest

Camera = tuple[float, float, float, float]  # a pinhole's f_x / width, f_y / height, c_x / width, c_y / height


@dataclass(frozen=True)
class Target:
    """Describes one target of a data set: the kind of its values, and the names of its classes or outputs.

    `type` is a name in `KINDS`. `classes` names the classes (segmentation, classification), the attributes
    (multilabel), the outputs (regression) or the channels (reconstruction); it is empty for depth and normals.
    """

    type: str
    classes: tuple[str, ...] = ()


class Kind(ABC):
    """The format of one kind of target. All code that handles targets asks the kind and knows no kind by name.

    A value is what a data set returns for one sample, without a batch axis. For a kind of your own, write a subclass
    with a `shape` and register it under a name; `Target.type` then accepts this name. `DenseKind` is the base of kinds
    with one value per pixel. The default methods fit float32 vectors in which NaN means "no label".

    >>> @KINDS.register("pose")
    ... class Pose(Kind):
    ...     '''Position (x, y, z) of the camera in metres.'''
    ...     unit = "m"
    ...     def shape(self, height: int, width: int) -> tuple[int, ...]:
    ...         return (3,)
    >>> pose = KINDS.build("pose")
    >>> pose.invalid(480, 640), pose.problem(torch.tensor([0.0, 1.0, torch.inf]))
    (tensor([nan, nan, nan]), 'hold finite numbers (NaN: no label), found 1 of 3 that are NaN or infinite')
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    unknown: ClassVar[float] = math.nan  #: the value that means "no label"
    unit: ClassVar[str] = ""  #: of the values, such as "m"; empty if there is none, or if each data set has its own
    frame: ClassVar[str] = ""  #: of vectors: where their axes point to; empty for other values
    plausible: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  #: should contain a data set's median
    advice: ClassVar[str] = ""  #: a sentence about the probable cause of a median out of `plausible`

    def __init__(self, classes: tuple[str, ...] = ()) -> None:
        self.classes = tuple(classes)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [base for base in cls.__mro__ if base.__module__ == __name__])

    @abstractmethod
    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Returns the shape of a value for an image (C, height, width)."""

    @property
    def admitted(self) -> tuple[float, float]:
        """Returns the lowest and highest number of a value that is not `unknown`. A value must also be finite."""
        return -math.inf, math.inf

    def invalid(self, height: int, width: int) -> Tensor:
        """Returns the value of a sample without the label."""
        return torch.full(self.shape(height, width), self.unknown, dtype=self.dtype)

    def valid(self, value: Tensor) -> Tensor:
        """Returns which elements (pixels, labels) are known: bool, over the value's first axes. Batches work, too."""
        return self._is_labelled(value)

    def problem(self, value: Tensor) -> str:
        """Returns what is wrong in a value of the right shape and type, as "hold ..., found ...", or an empty text."""
        low, high = self.admitted
        if value.numel() == 0 or _within(value, low, high):  # most values need only this one pass
            return ""
        known = value[self._is_labelled(value)]
        if known.numel() == 0 or _within(known, low, high):
            return ""
        bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        bounds = f" of at least {low:g}" if bounds and math.isinf(high) else bounds
        unknown = "NaN" if math.isnan(self.unknown) else f"{self.unknown:g}"
        return f"hold finite numbers{bounds} ({unknown}: no label), found {found_values(known)}"

    def _is_labelled(self, value: Tensor) -> Tensor:
        """Returns which numbers are not `unknown`. A kind's `valid` may ask for more; all these must be in range."""
        return ~value.isnan() if math.isnan(self.unknown) else value != self.unknown

    def counts(self, value: Tensor) -> tuple[Tensor, Tensor] | None:
        """Returns how often each class occurs, (C,), and among how many known elements, for the summary of a data set.

        Returns None for a kind without classes to count.
        """
        return None

    def example(self, height: int, width: int, draw: torch.Generator) -> Tensor:
        """Returns a random value with unknown parts, with which `mtlkit.testing.check_task` tries a task.

        Each number is drawn from `admitted`. Override it if `problem` asks for more than that range.
        """
        shape, (low, high) = self.shape(height, width), self.admitted
        if not self.dtype.is_floating_point:
            low = max(low, -5)
            drawn = torch.randint(int(low), int(min(high, low + 5)) + 1, shape, generator=draw).to(self.dtype)
        elif math.isinf(low) or math.isinf(high):
            drawn = torch.randn(shape, generator=draw, dtype=self.dtype)
            if not (math.isinf(low) and math.isinf(high)):
                drawn = low + 0.1 + drawn.abs() if math.isinf(high) else high - 0.1 - drawn.abs()
        else:
            drawn = low + (high - low) * torch.rand(shape, generator=draw, dtype=self.dtype)
        return drawn.masked_fill(torch.rand(shape, generator=draw) < 0.3, self.unknown)

    def numbers(self, value: Tensor) -> Mapping[str, Tensor]:
        """Returns the known numbers, in the unit, for the median and range in the summary: by part, "" for all of them.

        The result is empty for a kind whose values are not quantities.
        """
        return {"": value[self.valid(value)].flatten()} if value.is_floating_point() else {}

    def needs_camera(self, compat: str | None) -> bool:
        """Returns whether zooming in on the values needs `Motion.ray`."""
        return False

    def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """Returns the values after the image has moved, by default unchanged. It does not work in place."""
        return values

    def move_batch(self, values: Tensor, motions: Motions) -> Tensor:
        """Does the same for a batch (B, ...) on the device, without reading values there. Unknown values stay unknown.

        A kind that has only `move` is augmented in the loading processes (`data.augment_on`).
        """
        return values

    def resize(self, value: Tensor, width: int, height: int) -> Tensor:
        """Returns the value at the size of maps, if that is not the image's size. By default it does not change."""
        return value

    def map_size(self, target: Tensor) -> tuple[int, int] | None:
        """Returns (height, width) of a batch's map, to which the task's output is resized; None if it is not a map."""
        return None


class DenseKind(Kind):
    """A kind with one value per pixel: the last two axes are the image's rows and columns.

    When pixels move, each one takes the value of the nearest pixel, so there is no value that was not measured. Then
    `flip` and `zoom` change the values themselves, and `change_batch` those of a batch. By default they change nothing.
    """

    def flip(self, values: np.ndarray) -> np.ndarray:
        """Returns the values of mirrored pixels."""
        return values

    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """Returns the values of pixels that were enlarged by `motion.scale`."""
        return values

    def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        if motion.scale != 1:
            columns, rows = motion.sources(0), motion.sources(1)
            values = self.zoom(values.take(rows, axis=-2).take(columns, axis=-1), motion)
        return self.flip(values[..., ::-1]) if motion.mirrored else values

    def change_batch(self, values: Tensor, motions: Motions) -> Tensor:
        """Returns the values of pixels (B, ..., H, W) that have moved on the device: `zoom`, and then `flip`.

        A sample that was not zoomed (scale 1) or not mirrored has its values as they are.
        """
        return values

    def move_batch(self, values: Tensor, motions: Motions) -> Tensor:
        return self.change_batch(motions.nearest(values), motions)

    def resize(self, value: Tensor, width: int, height: int) -> Tensor:
        columns, rows = (
            ((torch.arange(new, device=value.device) + 0.5) * old / new).long()
            for new, old in zip((width, height), value.shape[:-3:-1], strict=True)
        )
        return value[..., rows[:, None], columns]

    def map_size(self, target: Tensor) -> tuple[int, int] | None:
        return target.shape[-2], target.shape[-1]


KINDS: Registry[Kind] = Registry("kind of target", Kind, own="kinds")


def kinds_of(targets: Mapping[str, Target]) -> dict[str, Kind]:
    """Returns the kind of every target, by the target's name. Raises `LookupError` for an unregistered kind."""
    known = KINDS.names()
    for name, target in targets.items():
        if target.type not in known:
            raise LookupError(
                f"The target {name!r} is of the kind {target.type!r}, which is not registered. "
                f"{suggest(target.type, known)} A kind of your own is a subclass of mtlkit.Kind (or mtlkit.DenseKind: "
                f"one value per pixel) under @mtlkit.KINDS.register({target.type!r}), in a module that is named in "
                '`plugins`. docs/how_to/data.md, "A kind of target of your own", has an example.'
            )
    return {name: KINDS.build(target.type, target.classes) for name, target in targets.items()}


def found_values(values: Tensor) -> str:
    """Returns words for values that were found: how many are not finite, or the range if all are finite.

    >>> found_values(torch.tensor([1.0, 2.5])), found_values(torch.tensor([1.0, torch.nan]))
    ('1 to 2.5', '1 of 2 that are NaN or infinite')
    """
    if wrong := int((~values.isfinite()).sum()):
        return f"{wrong} of {values.numel()} that are NaN or infinite"
    low, high = (f"{bound.item():g}" for bound in values.aminmax())
    return low if low == high else f"{low} to {high}"


def _within(values: Tensor, low: float, high: float) -> bool:
    """Returns whether all values are finite and in the range. NaN is not."""
    found = [bound.item() for bound in values.aminmax()]
    return low <= found[0] and found[1] <= high and all(map(math.isfinite, found))
