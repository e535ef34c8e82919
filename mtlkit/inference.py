"""Using a finished run: evaluating it on a split, and predicting for image files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mtlkit import checkpoint, distributed
from mtlkit.build import Parts, build_dataset, build_parts, build_samples, make_accelerator
from mtlkit.config import load
from mtlkit.data.dataset import Split, Target
from mtlkit.data.loader import eval_loader
from mtlkit.evaluation import evaluate as evaluate_model
from mtlkit.evaluation import output_sizes
from mtlkit.folders import no_run
from mtlkit.schema import Config


def load_run(run: Path, name: str | None = None) -> tuple[Config, Parts, tuple[int, int]]:
    """A run's configuration, its parts with the checkpoint's weights, in evaluation mode, and its image size.

    Without a name it is the checkpoint of its results, `best` or `last` (`trainer.selection`). Raises
    `FileNotFoundError` where there is no such run or checkpoint and `ValueError` for a damaged one.
    """
    if not (run / "config.yaml").exists():
        raise no_run(run, "config.yaml")
    config = load(run / "config.yaml")
    folder = checkpoint.find(run, name or checkpoint.selected(config.trainer))
    try:
        described = json.loads((run / "data.json").read_text())
    except ValueError as error:
        raise ValueError(f"{run / 'data.json'} is damaged: {error}") from error
    width, height = described["size"]
    targets = {key: Target(value["type"], tuple(value["classes"])) for key, value in described["targets"].items()}
    parts = build_parts(config, targets, (width, height), pretrained=False)
    checkpoint.load_weights(parts.model, parts.balancer, folder)
    device, dtype = make_accelerator(config.trainer).device, torch.float32
    if config.trainer.precision == "fp64":
        dtype = torch.float64
    parts.model.to(device, dtype).eval()
    parts.balancer.to(device, dtype)
    return config, parts, (width, height)


def evaluate(run: Path, split: Split | None = None, name: str | None = None) -> dict[str, float | None]:
    """`loss/<task>` and `<task>/<metric>` of a run's checkpoint on a split of its data.

    Without a split, it is the one that the run validated on; without a name, the checkpoint is that of its results.
    """
    config, parts, _ = load_run(run, name)
    samples = build_samples(config, build_dataset(config, split or config.data.validation))
    batches = eval_loader(
        samples,
        config.data.eval_batch_size or config.data.batch_size,
        workers=config.data.workers,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    first = next(parts.model.parameters())

    def prepare(batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        targets = {key: batch["targets"][key].to(first.device) for key in parts.tasks}
        return batch["image"].to(first), targets

    def forward(image: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return parts.model(image, parts.balancer.adapt, output_sizes(targets))

    return evaluate_model(batches, parts.tasks, prepare, forward, first.device)


@torch.no_grad()
def predict(run: Path, images: Sequence[Path], out: Path, name: str | None = None) -> list[Path]:
    """Writes `out/<image>/<task>.npy` and `<task>.png` for every image and task; returns the images' folders.

    The model sees the image at the run's size; maps come back at the image's own. Arrays are predictions as
    tasks define them: class numbers (H, W), metres (1, H, W), unit normals (3, H, W), probabilities (C,).

    Raises:
        ValueError: a file is no image, or two images have the same name.
        FileExistsError: an image's folder is there already.
    """
    if not images:
        raise ValueError("There is no image to predict for.")
    folders = [out / image.stem for image in images]
    for image, folder in zip(images, folders, strict=True):
        if folders.count(folder) > 1:
            raise ValueError(f"Two of the images are called {image.stem!r}; their predictions would share {folder}.")
        if folder.exists():
            raise FileExistsError(f"{folder} exists already. Remove it, or choose another --out.")
    for image in images:  # all of them, before any work; they need not fit into memory together
        _open(image)
    _, parts, size = load_run(run, name)
    first = next(parts.model.parameters())
    for image, folder in zip(images, folders, strict=True):
        picture = _open(image)
        small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None].to(first)
        sizes = {key: (picture.height, picture.width) for key in parts.tasks}
        outputs = parts.model(pixels, parts.balancer.adapt, sizes)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for key, task in parts.tasks.items():
            prediction = task.predict(outputs[key])[0].cpu()
            np.save(temporary / f"{key}.npy", prediction.numpy())
            Image.fromarray(task.picture(prediction)).save(temporary / f"{key}.png")
        temporary.rename(folder)
    return folders


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not an image that can be read: {error}") from error
