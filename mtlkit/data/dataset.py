"""The contract of a data set."""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypedDict

from torch import Tensor

from mtlkit.contract import check_hooks
from mtlkit.options import NoOptions, check_options_class, make_options
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
    "named_errors",
    "read_sample",
]


class Sample(TypedDict):
    """One sample: `image` (C, H, W) float32 in [0, 1] and `targets` by name, each carrying its own validity.

    The image has 3 channels (red, green, blue) or any other number, the same in all samples. A target has the format of
    its kind (`mtlkit.target.Kind`): segmentation int64 (H, W), ignore -1; depth float32 (1, H, W) metres, 0 invalid;
    disparity float32 (1, H, W), inverse depth in the data set's unit, 0 invalid (a task of the type `depth` learns it);
    normals float32 (3, H, W), unit, camera frame x right, y down, z forward, facing the camera, (0, 0, 0) invalid;
    reconstruction float32 (C, H, W) in [0, 1], NaN unknown; multilabel float32 (C,) in {0, 1}, NaN unknown;
    classification int64 (), ignore -1; regression float32 (C,), NaN unknown. A sample may lack any of its data set's
    targets.
    """

    image: Tensor
    targets: dict[str, Tensor]


class BadSampleError(ValueError):
    """One sample among many cannot be read or is out of range; the message names it.

    `data.on_error: skip` goes on without it.
    """


class ChannelsError(BadSampleError):
    """A picture has another number of values per pixel than expected."""


class Dataset(ABC):
    """Samples by index, before augmentation. The same options give the same samples, on every machine.

    The constructor of a subclass takes at least `root`, `split`, `size` ((width, height), or None for the size of the
    files) and `limit` (uses at most this many samples, the first ones; None: all). A data set that reads no files has
    no `root`, and a configuration with `data.root` is then an error. Further options are the fields of a dataclass
    `Options` inside the class. The constructor hands them on, and `self.options` is then an instance of it:

        @dataclass(frozen=True)
        class Options:
            holdout: ShareBelowOne = 0.1  # of mtlkit.typed

        def __init__(self, root, split="train", size=None, limit=None, **options):
            super().__init__(**options)

    mtlkit checks every value by the annotation of its field. What depends on several options is checked in the
    `__post_init__` of the dataclass, which raises `mtlkit.typed.OptionError`.

    Before any work starts, the constructor checks what it can check without reading all files. It raises `ValueError`
    or `FileNotFoundError`, and the message says what is missing, where to get it and what to do. `__getitem__` raises
    `BadSampleError` for a damaged sample, or any `ValueError`, `EOFError` or `OSError` of a file. The loader then adds
    the `label` of the sample.

    `val` is never taken from the published test data. A data set without validation data of its own holds out a part of
    its training data, by scene or patient. The split `train` is then the rest (`mtlkit.data.splits`).
    """

    targets: Mapping[str, Target]
    #: The camera, where it is known and the same for all samples; zooming in on normals needs it.
    camera: Camera | None = None
    #: The terms of use, in a sentence or two. A run prints them once, when it begins.
    licence: str = ""
    #: What was recognised on the disk, as sentences: the layout, conventions that were found, what was left out.
    notes: Sequence[str] = ()
    #: How its pictures get the size `data.size`: the option `how` of `mtlkit.data.files.resize`. `mtlkit predict` does
    #: the same.
    resizing: Literal["area", "torchvision"] = "area"
    #: The values of black and white in its pictures, where the files do not say them. `mtlkit predict` uses them.
    bounds: tuple[float, float] | None = None
    #: Which files of these samples (not of other splits) are missing, in a sentence or two; empty if none is. If some
    #: are, work begins only with data.on_error=skip. Reading such a sample raises `BadSampleError`.
    missing: str = ""
    Options: ClassVar[type[Any]] = NoOptions
    options: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [Dataset])
        check_options_class(cls)

    def __init__(self, **options: Any) -> None:
        self.options = make_options(type(self), options, "data")

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def stored(self, index: int) -> Sample | None:
        """The same sample in the smaller types in which it is kept, or None if there are none.

        `mtlkit.data.blocks.widen` restores each value, so the sample can cross to the device as it is. Nobody writes to
        it. It is asked for only after the sample itself was read and found to be right.
        """
        return None

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
    """The sample as the data set has it, with errors that name it (see `named_errors`)."""
    with named_errors(dataset, index):
        return dataset[index]


@contextmanager
def named_errors(dataset: Dataset, index: int) -> Iterator[None]:
    """Names the sample in the errors of the block, which reads it.

    What says that this sample is bad (`ValueError`, `EOFError`, the `OSError` of one file) becomes a
    `BadSampleError`. Errors of the machine, such as a full disk, stay an `OSError`. Any other one is a fault of the
    program: it stays what it is and gets a note.
    """
    try:
        yield
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
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"The number of samples must be a whole number of at least 1, got {limit}.")
