"""Uses a finished run: evaluates it on a split, and predicts for image files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
from PIL import Image

from mtlkit import distributed
from mtlkit.config.composition import read_config
from mtlkit.config.schema import Config
from mtlkit.data.bands import read_bands
from mtlkit.data.dataset import Split, Target
from mtlkit.data.files import image_tensor, resize
from mtlkit.data.loader import eval_loader
from mtlkit.engine.evaluation import evaluate_model as evaluate_model
from mtlkit.engine.predictor import Predictor, dtype_of
from mtlkit.option_checks import check_choice
from mtlkit.run import checkpoint
from mtlkit.run.build import build_dataset, build_parts, build_samples, make_accelerator
from mtlkit.run_folder import CONFIG, DATA, check_run


def load_run(run: Path, name: str | None = None) -> tuple[Config, Predictor, tuple[int, int]]:
    """Loads a run: its configuration, its model with the weights of a checkpoint, and its image size.

    Without a name, it loads the checkpoint of the run's results, `best` or `last` (`trainer.selection`). It warns if
    `best` does not exist and `last` is used instead. Raises `FileNotFoundError` if there is no such run or checkpoint,
    and `ValueError` if it is damaged.
    """
    check_run(run, CONFIG)
    config = read_config(run / CONFIG)
    if name:
        folder = checkpoint.find_checkpoint(run, name)
    else:
        folder, remark = checkpoint.of_results(run, config.trainer)
        if remark:
            warn(remark, stacklevel=3)
    targets, size, images = _description(run)
    parts = build_parts(config, targets, size, pretrained=False, channels=images.channels)
    accelerator, dtype = make_accelerator(config.trainer), dtype_of(config.trainer.precision)
    parts.model.to(accelerator.device, dtype)
    parts.balancer.to(accelerator.device, dtype)
    checkpoint.load_weights(parts.model, parts.balancer, folder)  # after the change of type, to keep all digits
    return config, Predictor(parts.model, parts.tasks, parts.balancer, accelerator, dtype), size


class _Images(NamedTuple):
    """How the files of the training became images (`Dataset` explains these)."""

    channels: int
    bounds: tuple[float, float] | None
    resizing: Any


def _description(run: Path) -> tuple[dict[str, Target], tuple[int, int], _Images]:
    """Returns the targets and the image size of the training, and how its files became images."""
    path = run / DATA
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, which says what the run was trained on. `mtlkit train ... --resume` writes it again."
        )
    try:
        described = json.loads(path.read_text())
        width, height = described["size"]
        resizing = described.get("resizing", "area")  # runs up to version 0.2 have only this way
        check_choice("resizing", resizing, ("area", "torchvision"))
        bounds = described.get("bounds")
        images = _Images(described.get("channels", 3), bounds and (bounds[0], bounds[1]), resizing)
        targets = {key: Target(value["type"], tuple(value["classes"])) for key, value in described["targets"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return targets, (width, height), images


def evaluate_run(run: Path, split: Split | None = None, name: str | None = None) -> dict[str, float | None]:
    """Returns `loss/<task>` and `<task>/<metric>` of a run's checkpoint on a split of its data.

    Without a split, it uses the split that the run validated on. Without a name, it uses the checkpoint of the results.
    With the same number of processes, the figures equal those that training logged for that model, to the last digit.
    """
    config, predictor, _ = load_run(run, name)
    samples = build_samples(config, build_dataset(config, split or config.data.validation))
    batches = eval_loader(
        samples,
        config.data.eval_batch_size or config.data.batch_size,
        workers=config.data.workers,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    found = evaluate_model(batches, predictor)
    if incident := found.pop("incident", None):
        warn(incident, stacklevel=2)
    found.pop("left_out", None)
    return found


def predict_files(run: Path, images: Sequence[Path], out: Path, name: str | None = None) -> list[Path]:
    """Writes `out/<image>/<task>.npy` and `<task>.png` for every image and task. Returns one folder per image.

    The image is resized to the size of the run. Predicted maps have the image's own size. The arrays hold predictions
    as the tasks define them: class numbers (H, W), metres (1, H, W), unit normals (3, H, W), probabilities (C,). They
    are the numbers that the metrics measure: a depth is not clipped and may be 0 or less.

    Raises:
        ValueError: a file is no image, or two images have the same name.
        FileExistsError: the folder of an image exists already.
    """
    if not images:
        raise ValueError("There is no image to predict for.")
    folders = [out / image.stem for image in images]
    for image, folder in zip(images, folders, strict=True):
        if folders.count(folder) > 1:
            raise ValueError(f"Two of the images are called {image.stem!r}; their predictions would share {folder}.")
        if folder.exists():
            raise FileExistsError(f"{folder} exists already. Remove it, or choose another --out.")
    *_, how = _description(run)
    for image in images:  # check all images before any work; they need not fit into memory together
        _open(image, how)
    _, predictor, size = load_run(run, name)
    for image, folder in zip(images, folders, strict=True):
        picture = _open(image, how)
        resized = resize(picture, size, how=how.resizing)  # in the same way as data sets do
        pixels = predictor.image(image_tensor(resized)[None])
        sizes = {key: picture.shape[:2] for key in predictor.tasks}
        predictions = predictor.predictions(pixels, sizes)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for key, task in predictor.tasks.items():
            prediction = predictions[key][0].cpu()
            np.save(temporary / f"{key}.npy", prediction.numpy())
            Image.fromarray(task.picture(prediction)).save(temporary / f"{key}.png")
        temporary.rename(folder)
    return folders


def _open(path: Path, how: _Images) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    return read_bands(path, how.channels, how.bounds)
