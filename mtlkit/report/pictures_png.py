"""One picture of a run's predictions beside the ground truth: `RUN/pictures.png`."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from mtlkit.data.pictures import read_picture
from mtlkit.files import write_whole
from mtlkit.report.pictures import KINDS, pictured_tasks
from mtlkit.report.samples import look

MAX_TASKS = 8  #: the largest number of tasks
CELL, GAP, TITLE = 192, 6, 24  # sizes, in pixels


def pictures_png(run: Path, order: Sequence[str] = ()) -> Path:
    """Writes `RUN/pictures.png`: one column for the image and one for each of at most `MAX_TASKS` tasks.

    It has the evenly spread samples. Each one has two rows: the ground truth above the prediction. `order` is the order
    of the tasks. Raises `FileNotFoundError` for a run without pictures.
    """
    found = look(run)
    samples = [sample.pictures for sample in found.samples if sample.role == "spread"] if found else []
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
