"""Uses a finished run: evaluates it on a split, and predicts for image files."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from warnings import warn

import numpy as np
from PIL import Image

from mtlkit import distributed
from mtlkit.config.composition import read_config
from mtlkit.data.dataset import Split
from mtlkit.data.images import pixels_of
from mtlkit.data.loader import eval_loader
from mtlkit.engine.evaluation import evaluate_model as evaluate_model
from mtlkit.run.build import build_dataset, build_samples, make_accelerator
from mtlkit.run.trained import load_run as load_run
from mtlkit.run_folder import CONFIG, check_run


def evaluate_run(run: Path, split: Split | None = None, name: str | None = None) -> dict[str, float | None]:
    """Returns `loss/<task>` and `<task>/<metric>` of a run's checkpoint on a split of its data.

    Without a split, it uses the split that the run validated on. Without a name, it uses the checkpoint of the results.
    With the same number of processes, the figures equal those that training logged for that model, to the last digit.
    """
    check_run(run, CONFIG)
    config = read_config(run / CONFIG)
    device = make_accelerator(config.trainer).device  # of this process, of which a launcher may have started several
    predictor = load_run(run, name, device).predictor
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
    for image in images:  # check all images before any work; they need not fit into memory together
        pixels_of(image)
    model = load_run(run, name)
    for image, folder in zip(images, folders, strict=True):
        predictions = model(image)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for key, task in model.tasks.items():
            prediction = predictions[key].cpu()
            np.save(temporary / f"{key}.npy", prediction.numpy())
            Image.fromarray(task.picture(prediction)).save(temporary / f"{key}.png")
        temporary.rename(folder)
    return folders
