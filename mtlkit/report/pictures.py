"""Saves predictions beside the ground truth as files: `RUN/pictures/<sample>/<name>.png`."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mtlkit.data.pictures import read_picture
from mtlkit.files import write_whole

KINDS = ("target", "prediction")
MAX_TASKS = 8  #: the largest number of tasks in `pictures_png`
CELL, GAP, TITLE = 192, 6, 24  # sizes in `pictures_png`, in pixels


def save_pictures(run: Path, samples: Sequence[Sequence[tuple[str, np.ndarray]]]) -> None:
    """Writes the pictures of some samples to `RUN/pictures`. They replace the old pictures, all of them or none.

    A sample is a sequence of (name, RGB picture (H, W, 3) uint8). The names are `image`, `<task>_target` and
    `<task>_prediction`. A task without a label has no target. Pictures may have any size. Raises `ValueError` for other
    names, shapes or types, before it writes anything.

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


def pictures_png(run: Path, order: Sequence[str] = ()) -> Path:
    """Writes `RUN/pictures.png`: one column for the image and one for each of at most `MAX_TASKS` tasks.

    Each sample has two rows: the ground truth above the prediction. `order` is the order of the tasks. Raises
    `FileNotFoundError` for a run without pictures.
    """
    samples = saved_pictures(run)
    if not samples:
        raise FileNotFoundError(f"{run} holds no pictures (pictures/<sample>/image.png).")
    tasks = pictured_tasks(samples, order)[:MAX_TASKS]
    rows = []
    for sample in samples:
        for kind in KINDS:
            names = ["image" if kind == KINDS[0] else "", *(f"{task}_{kind}" for task in tasks)]
            rows.append([_cell(sample[name]) if name in sample else None for name in names])
    heights = [max((cell.height for cell in row if cell), default=0) + GAP for row in rows]
    width = (CELL + GAP) * (1 + len(tasks)) + GAP
    page = Image.new("RGB", (width, sum(heights) + TITLE + GAP * len(samples)), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(["image", *tasks]):
        draw.text((GAP + column * (CELL + GAP), GAP), title, "black")
    top = TITLE
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, cell in enumerate(row):
            if cell:
                page.paste(cell, (GAP + column * (CELL + GAP), top))
        if number % 2:
            draw.text((GAP, top), "prediction", "black")
        top += height + GAP * (number % 2)
    buffer = io.BytesIO()
    page.save(buffer, "png")
    write_whole(run / "pictures.png", buffer.getvalue())
    return run / "pictures.png"


def _cell(path: Path) -> Image.Image:
    """Returns the picture with the width of a cell. The pixels of a small picture stay visible."""
    picture = Image.fromarray(read_picture(path))
    method = Image.Resampling.NEAREST if picture.width < CELL else Image.Resampling.BOX
    return picture.resize((CELL, max(1, round(picture.height * CELL / picture.width))), method)


def _check(name: str, picture: np.ndarray) -> None:
    task, _, kind = name.rpartition("_")
    if name != "image" and not (task.isidentifier() and kind in KINDS):
        raise ValueError(f"A picture's name must be image, <task>_target or <task>_prediction, got {name!r}.")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"The picture {name!r} must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}.")
