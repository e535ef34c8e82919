"""A model in use: batches prepared, outputs and predictions, in the precision of its run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import Tensor

from mtlkit.balancer import Balancer
from mtlkit.engine.model import MultiTaskModel
from mtlkit.task import Task


@final
class Predictor:
    """A model in use. All that is measured, drawn or predicted of it comes from here, so it is always the same number.

    The engine has one for its evaluations and pictures; `mtlkit evaluate` and `mtlkit predict` make one of a run's
    folder. The model runs in evaluation mode, through the balancer's adapters, under the accelerator's autocast.

    Args:
        accelerator: made for the run's `trainer.precision`. The model and the balancer are on its device already.
        dtype: of parameters and inputs: float64 for `fp64`, otherwise float32.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, Task],
        balancer: Balancer,
        accelerator: Accelerator,
        dtype: torch.dtype,
    ) -> None:
        self.model = model
        self.tasks = dict(tasks)
        self.balancer = balancer
        self.accelerator = accelerator
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.accelerator.device

    def image(self, image: Tensor) -> Tensor:
        """An image (..., 3, H, W) in [0, 1] on the device, in the run's precision."""
        return image.to(self.device, self.dtype)

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Image and the tasks' targets on the device, in the run's precision. Training prepares its batches so, too."""
        targets = {name: batch["targets"][name].to(self.device) for name in self.tasks}
        converted = {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in targets.items()}
        return self.image(batch["image"]), converted

    @torch.no_grad()
    def outputs(self, image: Tensor, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """What the decoders give for prepared images (B, 3, H, W), in float32 or float64.

        `sizes` are (height, width) by task, of the maps that are wanted; the image's where a task is not in it.
        """
        with self._evaluating(), self.accelerator.autocast():
            outputs = self.model(image, self.balancer.adapt, sizes)
        converted: dict[str, Tensor] = convert_to_fp32(outputs)
        return converted

    def predictions(self, image: Tensor, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """What a user gets for prepared images: class numbers, metres, unit normals, probabilities; see `Task`."""
        outputs = self.outputs(image, sizes)
        return {name: task.predict(outputs[name]) for name, task in self.tasks.items()}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)


def dtype_of(precision: str) -> torch.dtype:
    """The type of parameters and inputs for a `trainer.precision`; the mixed ones keep both in float32."""
    return torch.float64 if precision == "fp64" else torch.float32
