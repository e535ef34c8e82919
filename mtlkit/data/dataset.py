"""The contract of a data set."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from torch import Tensor

from mtlkit.registry import Registry

Split = Literal["train", "val", "test"]


class Sample(TypedDict):
    """One sample: `image` (3, H, W) float32 in [0, 1] and `targets` by name, each carrying its own validity.

    segmentation int64 (H, W), ignore -1; depth float32 (1, H, W) metres, 0 invalid; normals float32 (3, H, W),
    unit, camera frame x right, y down, z forward, facing the camera, (0, 0, 0) invalid; multilabel float32 (C,)
    in {0, 1}, NaN unknown; classification int64 (), ignore -1; regression float32 (C,), NaN unknown.
    """

    image: Tensor
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """What one target of a data set is: the type of task that learns it, and the names of its classes or outputs.

    `classes` names the classes (segmentation, classification), the attributes (multilabel) or the outputs
    (regression); it is empty for depth and normals.
    """

    type: str
    classes: tuple[str, ...] = ()


class Dataset(ABC):
    """Samples by index, before augmentation. Same options, same samples, on every machine.

    A subclass takes at least `root`, `split`, `size` ((width, height) or None for its own) and `limit` (at most
    so many samples, the first ones, or None), checks its files before any work starts, and raises `ValueError`
    or `FileNotFoundError` with what is missing and what to do.
    """

    targets: Mapping[str, Target]
    #: (f_x/W, f_y/H, c_x/W, c_y/H) of the pinhole camera, where known; zooming in on normals needs it.
    camera: tuple[float, float, float, float] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...


DATASETS: Registry[Dataset] = Registry("data set", Dataset)
