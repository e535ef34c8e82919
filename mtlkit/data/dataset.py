"""The contract of a data set."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from torch import Tensor

from mtlkit.registry import Registry, suggest

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
Camera = tuple[float, float, float, float]  # a pinhole's f_x / width, f_y / height, c_x / width, c_y / height


class Sample(TypedDict):
    """One sample: `image` (3, H, W) float32 in [0, 1] and `targets` by name, each carrying its own validity.

    segmentation int64 (H, W), ignore -1; depth float32 (1, H, W) metres, 0 invalid; disparity float32 (1, H, W),
    inverse depth in the data set's unit, 0 invalid (a task of the type `depth` learns it); normals float32 (3, H, W),
    unit, camera frame x right, y down, z forward, facing the camera, (0, 0, 0) invalid; reconstruction float32
    (C, H, W), NaN unknown; multilabel float32 (C,) in {0, 1}, NaN unknown; classification int64 (), ignore -1;
    regression float32 (C,), NaN unknown. A sample may lack any of its data set's targets.
    """

    image: Tensor
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """What one target of a data set is: the type of task that learns it, and the names of its classes or outputs.

    `classes` names the classes (segmentation, classification), the attributes (multilabel), the outputs (regression)
    or the channels (reconstruction); it is empty for depth and normals.
    """

    type: str
    classes: tuple[str, ...] = ()


class BadSampleError(ValueError):
    """One sample among many cannot be read; the message names its file. `data.on_error: skip` goes on without it."""


class Dataset(ABC):
    """Samples by index, before augmentation. Same options, same samples, on every machine.

    A subclass takes at least `root`, `split`, `size` ((width, height) or None for its own) and `limit` (at most
    so many samples, the first ones, or None); one that reads no files leaves out `root`, and `data.root` is then
    refused. It checks what it can without reading all files before any work starts, and raises `ValueError` or
    `FileNotFoundError` with what is missing, where it is to be had and what to do. A file that turns out to be
    damaged when its sample is asked for raises `BadSampleError`.

    `val` is never taken from the published test data: a data set without validation data of its own holds out a part
    of its training data, by scene or patient, and `train` is then the rest (`mtlkit.data.splits`).
    """

    targets: Mapping[str, Target]
    #: The camera, where it is known and the same for all samples; zooming in on normals needs it.
    camera: Camera | None = None
    #: The terms of use, in a sentence or two; told once when a run begins.
    licence: str = ""
    #: What was recognised on the disk, as sentences: the layout, conventions that were found, what was left out.
    notes: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def label(self, index: int) -> str:
        """What messages call a sample: its file, where it has one."""
        return f"Sample {index}"

    def camera_of(self, index: int) -> Camera | None:
        """The camera of one sample."""
        return self.camera

    def probes(self) -> Sequence[int]:
        """The samples that stand for all when formats are checked before any work."""
        return (0,)


DATASETS: Registry[Dataset] = Registry("data set", Dataset)


def check_request(name: str, split: str, size: Sequence[int] | None, limit: int | None) -> None:
    """Raises `ValueError` for a split, size or limit that the data set `name` cannot have.

    >>> check_request("rooms", "trian", None, None)
    Traceback (most recent call last):
    ValueError: The data set 'rooms' has no split 'trian'. Did you mean 'train'? Known: test, train, val.
    """
    if split not in SPLITS:
        raise ValueError(f"The data set {name!r} has no split {split!r}. {suggest(str(split), SPLITS)}")
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size)):
        raise ValueError(f"data.size must be [width, height], whole numbers of at least 1, got {list(size)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"The number of samples must be at least 1, got {limit}.")
