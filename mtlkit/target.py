"""What a target is: the kind that its values are of, and the names of its classes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mtlkit.contract import check_hooks
from mtlkit.registry import Registry, suggest

Camera = tuple[float, float, float, float]  # a pinhole's f_x / width, f_y / height, c_x / width, c_y / height


@dataclass(frozen=True)
class Target:
    """What one target of a data set is: the kind that its values are of, and the names of its classes or outputs.

    `type` is a name in `KINDS`. `classes` names the classes (segmentation, classification), the attributes
    (multilabel), the outputs (regression) or the channels (reconstruction); it is empty for depth and normals.
    """

    type: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Motion:
    """What the augmentation does to an image of `size` (width, height): it enlarges a crop, then mirrors it.

    The crop has 1 / `scale` of the image's width and height. `corner` is its (left, top), as shares of the image's.
    `ray` is the viewing ray (t_x, t_y, 1) that becomes the optical axis, None where the camera is not known.
    `compat` is the augmentation's option of that name.
    """

    size: tuple[int, int]
    scale: float
    corner: np.ndarray
    ray: np.ndarray | None
    mirrored: bool
    compat: str | None = None


class Kind(ABC):
    """The format of one kind of target. Everything that handles targets asks it and knows no kind by name.

    A value is what a data set returns for one sample, before there is a batch axis. A kind of your own is a subclass
    with a `shape`, registered under a name that `Target.type` then takes; `DenseKind` is the base of those with
    one value per pixel. What is not overridden fits float32 vectors in which NaN means "no label".

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
    unit: ClassVar[str] = ""  #: of the values, such as "m"; empty where they have none, or each data set its own
    plausible: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  #: where the median of a data set should lie
    advice: ClassVar[str] = ""  #: a sentence on what a median out of `plausible` probably means

    def __init__(self, classes: tuple[str, ...] = ()) -> None:
        self.classes = tuple(classes)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [base for base in cls.__mro__ if base.__module__ == __name__])

    @abstractmethod
    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of a value where the image is (3, height, width)."""

    @property
    def admitted(self) -> tuple[float, float]:
        """The lowest and highest number that a value may hold where it is not `unknown`; it must be finite, too."""
        return -math.inf, math.inf

    def invalid(self, height: int, width: int) -> Tensor:
        """The value of a sample without the label."""
        return torch.full(self.shape(height, width), self.unknown, dtype=self.dtype)

    def valid(self, value: Tensor) -> Tensor:
        """Which elements (pixels, labels) are known: bool, over the value's first axes. Takes a batch, too."""
        return self._is_labelled(value)

    def problem(self, value: Tensor) -> str:
        """What is out of range in a value of the right shape and type, "hold ..., found ..."; empty if nothing is."""
        low, high = self.admitted
        if value.numel() == 0 or _within(value, low, high):  # one pass, for most values
            return ""
        known = value[self._is_labelled(value)]
        if known.numel() == 0 or _within(known, low, high):
            return ""
        bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        bounds = f" of at least {low:g}" if bounds and math.isinf(high) else bounds
        unknown = "NaN" if math.isnan(self.unknown) else f"{self.unknown:g}"
        return f"hold finite numbers{bounds} ({unknown}: no label), found {found_values(known)}"

    def _is_labelled(self, value: Tensor) -> Tensor:
        """Which numbers are not `unknown`. A kind's own `valid` may ask for more, but all these must be in range."""
        return ~value.isnan() if math.isnan(self.unknown) else value != self.unknown

    def counts(self, value: Tensor) -> tuple[Tensor, Tensor] | None:
        """For the summary of a data set, by class (C,): how often it occurs, and of how many known elements.

        None for a kind without classes to count.
        """
        return None

    def example(self, height: int, width: int, draw: torch.Generator) -> Tensor:
        """A random value, of which a part is unknown: what `mtlkit.testing.check_task` tries a task on.

        Drawn from `admitted`, number by number. Override it where `problem` asks for more than that range.
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
        """The known numbers, in the unit, whose median and range the summary tells: by part, "" for all of them.

        Empty for a kind whose values are no quantities.
        """
        return {"": value[self.valid(value)].flatten()} if value.is_floating_point() else {}

    def needs_camera(self, compat: str | None) -> bool:
        """Whether zooming in on the values needs `Motion.ray`."""
        return False

    def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """The values after the image has moved; as they are, unless a kind overrides it. Not in place."""
        return values

    def resize(self, value: Tensor, width: int, height: int) -> Tensor:
        """The value where maps are to have another size than the image; as it is, unless it is a map."""
        return value

    def map_size(self, target: Tensor) -> tuple[int, int] | None:
        """(height, width) of a batch's map, to which the task's output is resized; None where it is no map."""
        return None


class DenseKind(Kind):
    """A kind with one value per pixel: the last two axes are the image's rows and columns.

    Where pixels move, each takes the nearest one's value, so that no value arises that was not measured. `flip` and
    `zoom` then change the values themselves, which they leave alone unless they are overridden.
    """

    def flip(self, values: np.ndarray) -> np.ndarray:
        """The values of mirrored pixels."""
        return values

    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """The values of pixels that were enlarged by `motion.scale`."""
        return values

    def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        if motion.scale != 1:
            left, top = motion.corner
            rows, columns = (  # the pixels in which the enlarged pixels' centres lie
                (start * n + (np.arange(n) + 0.5) / motion.scale).astype(np.intp)
                for start, n in zip((top, left), values.shape[-2:], strict=True)
            )
            values = self.zoom(values.take(rows, axis=-2).take(columns, axis=-1), motion)
        return self.flip(values[..., ::-1]) if motion.mirrored else values

    def resize(self, value: Tensor, width: int, height: int) -> Tensor:
        columns, rows = (
            ((torch.arange(new) + 0.5) * old / new).long()
            for new, old in zip((width, height), value.shape[:-3:-1], strict=True)
        )
        return value[..., rows[:, None], columns]

    def map_size(self, target: Tensor) -> tuple[int, int] | None:
        return target.shape[-2], target.shape[-1]


KINDS: Registry[Kind] = Registry("kind of target", Kind, own="kinds")


def kinds_of(targets: Mapping[str, Target]) -> dict[str, Kind]:
    """The kind of every target, by the target's name. Raises `LookupError` for one that is not registered."""
    known = KINDS.names()
    for name, target in targets.items():
        if target.type not in known:
            raise LookupError(
                f"The target {name!r} is of the kind {target.type!r}, which is not registered. "
                f"{suggest(target.type, known)} A kind of your own is a subclass of mtlkit.Kind (or mtlkit.DenseKind: "
                f"one value per pixel) under @mtlkit.KINDS.register({target.type!r}), in a module that is named in "
                '`plugins`. docs/data.md, "A kind of target of your own", has an example.'
            )
    return {name: KINDS.build(target.type, target.classes) for name, target in targets.items()}


def found_values(values: Tensor) -> str:
    """What a message says was found: how many are not finite, or else from where to where the values go.

    >>> found_values(torch.tensor([1.0, 2.5])), found_values(torch.tensor([1.0, torch.nan]))
    ('1 to 2.5', '1 of 2 that are NaN or infinite')
    """
    if wrong := int((~values.isfinite()).sum()):
        return f"{wrong} of {values.numel()} that are NaN or infinite"
    low, high = (f"{bound.item():g}" for bound in values.aminmax())
    return low if low == high else f"{low} to {high}"


def _within(values: Tensor, low: float, high: float) -> bool:
    """Whether all values are finite and in the range; NaN fails, too."""
    found = [bound.item() for bound in values.aminmax()]
    return low <= found[0] and found[1] <= high and all(map(math.isfinite, found))
