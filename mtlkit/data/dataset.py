"""The contract of a data set."""

import errno
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor

from mtlkit.contract import check_hooks
from mtlkit.registry import Registry, suggest
from mtlkit.splits import SPLITS, Split
from mtlkit.target import Camera, Target

__all__ = [
    "DATASETS",
    "SPLITS",
    "BadSampleError",
    "Camera",
    "Dataset",
    "Sample",
    "Split",
    "Target",
    "check_request",
    "read_sample",
]


class Sample(TypedDict):
    """One sample: `image` (3, H, W) float32 in [0, 1] and `targets` by name, each carrying its own validity.

    A target has the format of its kind (`mtlkit.target.Kind`): segmentation int64 (H, W), ignore -1; depth float32
    (1, H, W) metres, 0 invalid; disparity float32 (1, H, W), inverse depth in the data set's unit, 0 invalid (a task of
    the type `depth` learns it); normals float32 (3, H, W), unit, camera frame x right, y down, z forward, facing the
    camera, (0, 0, 0) invalid; reconstruction float32 (C, H, W) in [0, 1], NaN unknown; multilabel float32 (C,) in
    {0, 1}, NaN unknown; classification int64 (), ignore -1; regression float32 (C,), NaN unknown. A sample may lack
    any of its data set's targets.
    """

    image: Tensor
    targets: dict[str, Tensor]


class BadSampleError(ValueError):
    """One sample among many cannot be read or is out of range; the message names it.

    `data.on_error: skip` goes on without it.
    """


class Dataset(ABC):
    """Samples by index, before augmentation. Same options, same samples, on every machine.

    A subclass takes at least `root`, `split`, `size` ((width, height) or None for its own) and `limit` (at most
    so many samples, the first ones, or None); one that reads no files leaves out `root`, and `data.root` is then
    refused. It checks what it can without reading all files before any work starts, and raises `ValueError` or
    `FileNotFoundError` with what is missing, where it is to be had and what to do. For a sample that turns out to be
    damaged when it is asked for, it raises `BadSampleError`, or any `ValueError`, `EOFError` or `OSError` of a file,
    to which the loader adds the sample's `label`.

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
    #: Which files of these samples (not of other splits) are not there, in a sentence or two; empty where all are. Work
    #: does not begin then, unless data.on_error=skip. Reading such a sample raises `BadSampleError`.
    missing: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [Dataset])

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

    def part_of(self, index: int) -> str:
        """The name of the part that a sample is from, where the data set joins several; else empty."""
        return ""

    def probes(self) -> Sequence[int]:
        """The samples that stand for all when formats are checked before any work."""
        return (0,)


def read_sample(dataset: Dataset, index: int) -> Sample:
    """The sample as the data set has it, with errors that name it.

    What says that this sample is bad (`ValueError`, `EOFError`, the `OSError` of one file) becomes a
    `BadSampleError`. Errors of the machine, such as a full disk, stay an `OSError`. Any other one is a fault of the
    program: it stays what it is and gets a note.
    """
    try:
        return dataset[index]
    except BadSampleError:
        raise
    except (ValueError, EOFError, OSError) as error:
        label = dataset.label(index)
        text = " ".join(str(error).split()) or type(error).__name__
        message = text if label in text else f"{label}: {text}"
        if isinstance(error, ConnectionError) or (isinstance(error, OSError) and error.errno not in FILE_ERRORS):
            raise OSError(message) from error
        raise BadSampleError(message) from error
    except Exception as error:
        error.add_note(f"This happened while the data set read the sample {dataset.label(index)!r} (index {index}).")
        raise


#: Of an `OSError` that is about one file. None: libraries for files, such as Pillow, say only what is damaged.
FILE_ERRORS = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP)

DATASETS: Registry[Dataset] = Registry("data set", Dataset, own="datasets")


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
