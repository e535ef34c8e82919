"""Saves predictions beside the ground truth as files: `RUN/pictures/<sample>/<name>.png`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ("target", "prediction")
ERROR = "error"  #: the kind of the third picture of a task, which is only on the page


def save_pictures(
    run: Path, samples: Sequence[Sequence[tuple[str, np.ndarray]]], files: Mapping[str, bytes] | None = None
) -> None:
    """Writes the pictures of some samples to `RUN/pictures`. They replace the old pictures, all of them or none.

    A sample is a sequence of (name, RGB picture (H, W, 3) uint8). The names are `image`, `<task>_target`,
    `<task>_prediction` and `<task>_error`. A task without a label has no target. Pictures may have any size. `files`
    are further files of that folder, which are replaced with it. Raises `ValueError` for other names, shapes or types,
    before it writes anything.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> black = np.zeros((48, 64, 3), np.uint8)
    >>> save_pictures(run, [[("image", black), ("depth_target", black), ("depth_prediction", black)]])
    >>> sorted(str(path.relative_to(run)) for path in run.glob("pictures/*/*"))
    ['pictures/0/depth_prediction.png', 'pictures/0/depth_target.png', 'pictures/0/image.png']
    """
    for sample in samples:
        for name, picture in sample:
            _check(name, picture)
    folder = run / "pictures"
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for index, sample in enumerate(samples):
            (temporary / str(index)).mkdir(parents=True)
            for name, picture in sample:
                Image.fromarray(picture).save(temporary / str(index) / f"{name}.png")
        for file, data in (files or {}).items():
            (temporary / file).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def saved_pictures(run: Path) -> list[dict[str, Path]]:
    """Returns the pictures in a run's folder: name -> file, per sample. The list is empty if there are none."""
    folders = [path for path in (run / "pictures").glob("*") if path.name.isdecimal()]
    folders.sort(key=lambda path: int(path.name))
    return [{path.stem: path for path in sorted(folder.glob("*.png"))} for folder in folders]


def pictured_tasks(samples: Sequence[dict[str, Path]], order: Sequence[str] = ()) -> list[str]:
    """Returns the tasks that have pictures: first those in `order`, then the others by name."""
    found = {name.rpartition("_")[0] for sample in samples for name in sample if name != "image"}
    return [*(task for task in order if task in found), *sorted(found.difference(order))]


def _check(name: str, picture: np.ndarray) -> None:
    task, _, kind = name.rpartition("_")
    if name != "image" and not (task.isidentifier() and kind in (*KINDS, ERROR)):
        raise ValueError(
            f"A picture's name must be image, <task>_target, <task>_prediction or <task>_error, got {name!r}."
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"The picture {name!r} must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}.")
