"""Predicts for image files and folders, and writes arrays and pictures."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mtlkit.data.files import natural
from mtlkit.data.pictures import ENDINGS
from mtlkit.registry import suggest
from mtlkit.run.trained import load_run
from mtlkit.task import Task


def predict_files(
    run: Path,
    images: Sequence[Path],
    out: Path,
    name: str | None = None,
    *,
    tasks: Sequence[str] | None = None,
    arrays: bool = True,
    batch: int = 1,
) -> list[Path]:
    """Writes `<task>.npy` and `<task>.png` for every image and task. Returns one folder per image.

    The folder of `photo.jpg` is `out/photo`. For a folder of images, it is searched with all folders in it, and
    `FOLDER/day/1.jpg` goes to `out/day/1`. The image is resized to the size of the run. Predicted maps have the image's
    own size.

    The arrays hold predictions as the tasks define them: class numbers (H, W), metres (1, H, W), unit normals
    (3, H, W), probabilities (C,). They are the numbers that the metrics measure: a depth is not clipped and may be 0 or
    less. Their type is the smallest that loses nothing: uint8 for at most 256 classes, and float32 otherwise (float64
    for a run with `fp64`). In float16, metres would have steps of 8 mm at 10 m.

    Args:
        images: files and folders.
        name: the checkpoint, `best` or `last`; None: that of the results.
        tasks: only these tasks; None: all.
        arrays: whether to write the arrays, and not only the pictures.
        batch: how many images go through the model at once. Only images of one size go together.

    Raises:
        FileNotFoundError: there is no such file, or a folder has no image.
        FileExistsError: the folder of an image exists already.
        LookupError: there is no such task.
        ValueError: a file is no image, two images would be written to the same folder, or `batch` is below 1.
    """
    if batch < 1:
        raise ValueError(f"The number of images in a batch must be at least 1, got {batch}.")
    folders = _folders(images, out)
    model = load_run(run, name)
    predictor = model.predictor
    chosen = _chosen(predictor.tasks, tasks, run)
    for key in predictor.tasks.keys() - chosen:
        del predictor.tasks[key], predictor.model.decoders[key]
    # All images are read before any work, so that a damaged one ends it now. They need not fit into memory together.
    by_size: dict[tuple[int, int], list[Path]] = {}
    for image in folders:
        height, width, _ = model.pixels(image).shape
        by_size.setdefault((height, width), []).append(image)
    for group in by_size.values():
        for some in (group[first : first + batch] for first in range(0, len(group), batch)):
            predictions = model.predict([model.pixels(image) for image in some])
            for index, image in enumerate(some):
                found = {key: predictions[key][index].cpu() for key in chosen}
                _write(folders[image], predictor.tasks, found, arrays)
    return list(folders.values())


def _folders(images: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Returns the folder to write for every image file. It reads no file."""
    found: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for image, folder in named(images, out):
        if folder.exists():
            raise FileExistsError(f"{folder} exists already. Remove it, or choose another --out.")
        if folder in taken:
            raise ValueError(
                f"{taken[folder]} and {image} would both be written to {folder}. Give a folder that holds both, under "
                "different names, or call mtlkit twice, each time with another --out."
            )
        found[image], taken[folder] = folder, image
    for folder, image in taken.items():
        if around := next((parent for parent in folder.parents if parent in taken), None):
            raise ValueError(
                f"{image} would be written to {folder}, inside the folder of {taken[around]}. Call mtlkit twice, each "
                "time with another --out."
            )
    if not found:
        raise ValueError("There is no image to predict for.")
    return found


def named(images: Iterable[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Yields every image file, those in folders included, with the folder to write for it.

    Raises `FileNotFoundError` if there is no such file, or if a folder has no image.
    """
    for image in images:
        if not image.is_dir():
            if not image.is_file():
                raise FileNotFoundError(f"There is no image {image}.")
            yield image, out / image.stem
            continue
        inside = list(_pictures_in(image, out))
        if not inside:
            raise FileNotFoundError(f"The folder {image} holds no image: no file that ends in {', '.join(ENDINGS)}.")
        for file in inside:
            yield file, out / file.relative_to(image).with_suffix("")


def _pictures_in(folder: Path, out: Path) -> Iterator[Path]:
    """Yields the pictures in a folder and in all folders in it, but not in `out`. Hidden ones do not count."""

    def fail(error: OSError) -> None:
        raise error  # `os.walk` would leave the folder out

    for place, inside, files in os.walk(folder, onerror=fail):
        names = sorted((name for name in inside if name[0] != "."), key=natural)
        inside[:] = [name for name in names if Path(place, name).resolve() != out.resolve()]
        for name in sorted(files, key=natural):
            if name[0] != "." and name.lower().endswith(ENDINGS):
                yield Path(place, name)


def _chosen(known: dict[str, Task], names: Sequence[str] | None, run: Path) -> list[str]:
    for name in names or ():
        if name not in known:
            raise LookupError(f"{run} has no task {name!r}. {suggest(name, known)}")
    return list(known if names is None else dict.fromkeys(names))


def _write(folder: Path, tasks: dict[str, Task], predictions: dict[str, torch.Tensor], arrays: bool) -> None:
    """Writes the folder of one image: all of it, or nothing."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for key, prediction in predictions.items():
        if arrays:
            np.save(temporary / f"{key}.npy", smallest(prediction.numpy(), len(tasks[key].classes)))
        Image.fromarray(tasks[key].picture(prediction)).save(temporary / f"{key}.png")
    temporary.rename(folder)


def smallest(values: np.ndarray, classes: int) -> np.ndarray:
    """Returns class numbers in the smallest type that holds those of so many classes, and any other values as they are.

    >>> smallest(np.array([0, 12]), classes=13).dtype, smallest(np.array([0.5, 1.0]), classes=2).dtype
    (dtype('uint8'), dtype('float64'))
    """
    if values.dtype.kind != "i" or not classes or values.min() < 0 or values.max() >= classes:
        return values
    return values.astype(np.min_scalar_type(classes - 1))
