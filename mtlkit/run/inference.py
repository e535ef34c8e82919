"""Uses a finished run: loads its model, and evaluates it on a split. `predicting.py` predicts for image files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

from mtlkit import distributed
from mtlkit.config.composition import read_config
from mtlkit.config.schema import Config
from mtlkit.data.dataset import Split, Target
from mtlkit.data.loader import eval_loader
from mtlkit.engine.evaluation import evaluate_model as evaluate_model
from mtlkit.engine.predictor import Predictor, dtype_of
from mtlkit.log import class_key
from mtlkit.option_checks import check_choice
from mtlkit.run import checkpoint
from mtlkit.run.build import build_dataset, build_parts, build_samples, make_accelerator
from mtlkit.run.resume import evaluated
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
    targets, size, images = described(run)
    parts = build_parts(config, targets, size, pretrained=False, channels=images.channels)
    accelerator, dtype = make_accelerator(config.trainer), dtype_of(config.trainer.precision)
    parts.model.to(accelerator.device, dtype)
    parts.balancer.to(accelerator.device, dtype)
    checkpoint.load_weights(parts.model, parts.balancer, folder)  # after the change of type, to keep all digits
    return config, Predictor(parts.model, parts.tasks, parts.balancer, accelerator, dtype), size


class Images(NamedTuple):
    """How the files of the training became images (`Dataset` explains these)."""

    channels: int
    bounds: tuple[float, float] | None
    resizing: Any


def described(run: Path) -> tuple[dict[str, Target], tuple[int, int], Images]:
    """Returns the targets and the image size of the training, and how its files became images."""
    path = run / DATA
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, which says what the run was trained on. `mtlkit train ... --resume` writes it again."
        )
    try:
        found = json.loads(path.read_text())
        width, height = found["size"]
        resizing = found.get("resizing", "area")  # runs up to version 0.2 have only this way
        check_choice("resizing", resizing, ("area", "torchvision"))
        bounds = found.get("bounds")
        images = Images(found.get("channels", 3), bounds and (bounds[0], bounds[1]), resizing)
        targets = {key: Target(value["type"], tuple(value["classes"])) for key, value in found["targets"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return targets, (width, height), images


def evaluate_run(
    run: Path,
    split: Split | None = None,
    name: str | None = None,
    words: Sequence[str] = (),
    *,
    classes: bool = False,
) -> dict[str, float | None]:
    """Returns `loss/<task>` and `<task>/<metric>` of a run's checkpoint on a split of its data.

    Without a split, it uses the split that the run validated on. Without a name, it uses the checkpoint of the results.
    `words` are overrides, such as `data.root=PATH`, of the keys that may change (`mtlkit.run.resume.MAY_CHANGE`). With
    `classes`, there are also the figures of single classes, `<task>/<metric>/<class>`.

    With the same data and number of processes, the figures equal those that training logged for that model, to the last
    digit.
    """
    check_run(run, CONFIG)
    config = evaluated(run, words)
    _, predictor, _ = load_run(run, name)
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
    return {key: value for key, value in found.items() if classes or not class_key(key)}
