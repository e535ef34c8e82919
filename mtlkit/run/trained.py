"""A trained model in use, made from the folder of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final, overload
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.config.schema import TrainedConfig
from mtlkit.config.trained import read_trained
from mtlkit.data.files import image_tensor, resize
from mtlkit.data.images import Given, pixels_of
from mtlkit.engine.lora import add_lora
from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.predictor import Predictor, dtype_of
from mtlkit.errors import for_users
from mtlkit.registry import suggest
from mtlkit.run import checkpoint
from mtlkit.run.build import build_model, build_tasks
from mtlkit.run.description import Description
from mtlkit.run_folder import CONFIG, DATA, check_run
from mtlkit.task import Task

Predictions = dict[str, Tensor]


@final
class TrainedModel:
    """A model that gives predictions for images. `mtlkit.load` makes one.

    It is in evaluation mode, and none of its parameters asks for gradients.

    Attributes:
        tasks: the tasks by name.
        classes: by task, the names of its classes or outputs; empty for a task without.
        units: by task, the unit of its predictions, such as "m"; empty for a task without.
        size: (width, height) to which every image is resized first.
        device: where it computes.
        predictor: computes outputs and predictions for prepared batches, as training, `mtlkit evaluate` and this class
            do.
        checkpoint: the folder of its weights.
        run: the folder of its run.
        from_hub: whether it is from the hub. Then no module is imported because a file of the folder names it.
    """

    def __init__(
        self, config: TrainedConfig, description: Description, predictor: Predictor, checkpoint: Path, from_hub: bool
    ) -> None:
        self.config = config
        self.description = description
        self.predictor = predictor
        self.checkpoint = checkpoint
        self.from_hub = from_hub

    @property
    def run(self) -> Path:
        return self.checkpoint.parent.parent

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self.predictor.tasks

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        return {name: task.classes for name, task in self.tasks.items()}

    @property
    def units(self) -> dict[str, str]:
        return {name: task.unit for name, task in self.tasks.items()}

    @property
    def size(self) -> tuple[int, int]:
        return self.description.size

    @property
    def device(self) -> torch.device:
        return self.predictor.device

    @overload
    def __call__(self, image: Given) -> Predictions: ...
    @overload
    def __call__(self, image: list[Given] | tuple[Given, ...]) -> list[Predictions]: ...
    def __call__(self, image: Given | list[Given] | tuple[Given, ...]) -> Predictions | list[Predictions]:
        """Returns the prediction of every task for an image, or a list of them for a list of images.

        The image is resized to `size` in the same way as in training. A predicted map has the image's own size.

        Args:
            image: the name of a file, a PIL image, an array (H, W, C) of uint8 or of floats in [0, 1], or a tensor
                (C, H, W) of floats in [0, 1]. Or a batch of images of one size: a tensor (B, C, H, W).

        Returns:
            Tensors on the model's device, by task: class numbers (H, W), metres (1, H, W), unit normals (3, H, W),
            probabilities (C,); the class of each task says it. For a batch they begin with the axis B.

        Raises:
            ValueError: it is no image, or its numbers are not in [0, 1].
            FileNotFoundError: there is no such file.
        """
        if isinstance(image, Tensor) and image.ndim == 4:
            return self.predict([self.pixels(one) for one in image])
        if isinstance(image, list | tuple):
            return [self(one) for one in image]
        return {name: values[0] for name, values in self.predict([self.pixels(image)]).items()}

    def pixels(self, image: Given) -> np.ndarray:
        """Returns the pixels (H, W, C) of one image, as the training read its images."""
        return pixels_of(image, self.description.channels, self.description.bounds)

    def predict(self, pictures: Sequence[np.ndarray]) -> Predictions:
        """Returns the predictions for pictures (H, W, C) of one size, with an axis B in front."""
        if not pictures:
            raise ValueError("The batch has no image.")
        sizes = dict.fromkeys(self.tasks, pictures[0].shape[:2])
        return self.predictor.predictions(self.predictor.image(self.prepared(pictures)), sizes)

    def prepared(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Returns images (B, C, H, W) in [0, 1] of the size that the network takes, for pictures (H, W, C)."""
        how = self.description.resizing
        return torch.stack([image_tensor(resize(picture, self.size, how=how)) for picture in pictures])


def load_run(
    run: Path,
    name: str | None = None,
    device: str | torch.device | None = None,
    *,
    from_hub: bool = False,
) -> TrainedModel:
    """Loads the model of a run's folder; see `mtlkit.load`."""
    place = _device(device)
    check_run(run, CONFIG)
    described = Description.read(run)
    kinds = {key: target.type for key, target in described.targets.items()}
    config = read_trained(run / CONFIG, kinds, adapters=described.adapters, from_hub=from_hub)
    if name:
        folder = checkpoint.find_checkpoint(run, name)
    else:
        folder, remark = checkpoint.of_results(run, config.trainer)
        if remark:
            warn(remark, stacklevel=3)
    if absent := [task for task in config.task if task not in described.targets]:
        raise ValueError(f"{run}: data.json has no target {absent[0]!r}. {suggest(absent[0], described.targets)}")
    precision = config.trainer.precision
    try:
        tasks, model, balancer = _build(config, described)
    except Exception as error:
        if not for_users(error):
            raise
        raise ValueError(f"{run / CONFIG} and {DATA} beside it describe no model that can be built: {error}") from error
    for part in (model, balancer):
        if part is not None:  # before the weights are loaded, to keep all their digits
            part.to(place, dtype_of(precision)).requires_grad_(False).eval()
    checkpoint.load_weights(model, balancer, folder)
    return TrainedModel(config, described, Predictor(model, tasks, balancer, place, precision), folder, from_hub)


def _build(config: TrainedConfig, described: Description) -> tuple[dict[str, Task], MultiTaskModel, Balancer | None]:
    """Builds the tasks, the model and the balancer with start values, which the weights then replace."""
    targets = {task: described.targets[task] for task in config.task}
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers must not move by this
        tasks = build_tasks(config.task, targets, described.size)
        model = build_model(config.model, tasks, described.size, described.channels, pretrained=False)
        if config.model.lora is not None:
            add_lora(model, config.model.lora)
        if config.balancer is None:
            return tasks, model, None
        balancer = BALANCERS.build(config.balancer.name, tasks=tuple(tasks), **config.balancer.options)
        balancer.setup(tasks, replace(model.encoder_info, image=described.size))
    return tasks, model, balancer


def _device(name: str | torch.device | None) -> torch.device:
    """Returns the device. Raises `ValueError` if there is none of that name here."""
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name is None:
        return found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = sorted({"cpu", found.type})
        reason = str(error).splitlines()[0]
        raise ValueError(f"There is no device {str(name)!r} here, only {' and '.join(here)}: {reason}") from error
    return device
