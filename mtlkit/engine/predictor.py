"""A model in use: it prepares batches and computes outputs and predictions, in the precision of its run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor

from mtlkit.balancer import Balancer
from mtlkit.engine.model import MultiTaskModel
from mtlkit.task import Task

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  #: what autocast computes in, by `trainer.precision`


@final
class Predictor:
    """Computes all outputs and predictions of a model, so that every place that uses them has the same numbers.

    The engine has one for its evaluations and pictures. `mtlkit.load` makes one from a run's folder. The model runs in
    evaluation mode, through the balancer's adapters, and under autocast if the precision is a mixed one.

    Args:
        balancer: its adapters belong to the model. None: it has none.
        device: where the model and the balancer are already.
        precision: a `trainer.precision`. The parameters have its type already (`dtype_of`).
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, Task],
        balancer: Balancer | None,
        device: torch.device,
        precision: str,
    ) -> None:
        self.model = model
        self.tasks = dict(tasks)
        self.balancer = balancer
        self.device = device
        self.precision = precision
        self.dtype = dtype_of(precision)

    def image(self, image: Tensor) -> Tensor:
        """Returns an image (..., 3, H, W) in [0, 1] on the device, in the run's precision."""
        return image.to(self.device, self.dtype)

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns image and targets on the device, in the run's precision. Training uses this for its batches, too."""
        targets = {name: batch["targets"][name].to(self.device) for name in self.tasks}
        # Class numbers stay whole numbers: cross-entropy and embeddings take no others.
        converted = {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in targets.items()}
        return self.image(batch["image"]), converted

    @torch.no_grad()
    def outputs(self, image: Tensor, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """Returns the decoders' outputs for prepared images (B, 3, H, W), in float32 or float64.

        `sizes` gives (height, width) for tasks whose output is a map. A task that is not in it gets the image's size.
        """
        # The bare model and not the wrapped one: an evaluation must not wait for other processes in DDP's forward pass.
        # The adapters belong to the model: decoders were trained on what they hand on.
        half = HALF.get(self.precision)
        with self._evaluating(), torch.autocast(self.device.type, half, enabled=half is not None):
            outputs = self.model(image, None if self.balancer is None else self.balancer.adapt, sizes)
        converted: dict[str, Tensor] = convert_to_fp32(outputs)  # sums of a metric in float16 overflow at 65504
        return converted

    def predictions(self, image: Tensor, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """Returns predictions for prepared images: class numbers, metres, unit normals, probabilities; see `Task`."""
        outputs = self.outputs(image, sizes)
        return {name: task.predict(outputs[name]) for name, task in self.tasks.items()}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training  # it may be off already, as in a loaded run
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)


def dtype_of(precision: str) -> torch.dtype:
    """Returns the type of parameters and inputs for a `trainer.precision`; mixed precisions keep both in float32."""
    return torch.float64 if precision == "fp64" else torch.float32
