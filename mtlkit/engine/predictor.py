"""A model in use: it prepares batches and computes outputs and predictions, in the precision of its run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor
from torch.nn import functional as F

from mtlkit.balancer import Balancer
from mtlkit.engine.faster import uncompiled
from mtlkit.engine.model import MultiTaskModel
from mtlkit.task import Task

STRIP = 2**23  #: a map of more numbers is resized and predicted in strips of so many; 32 MiB in float32
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
        """Returns an image (..., C, H, W) in [0, 1] on the device, in the run's precision."""
        return image.to(self.device, self.dtype)

    def on_device(self, batch: Mapping[str, Any], *, non_blocking: bool = False) -> dict[str, Any]:
        """Returns a batch whose image, targets of tasks and `moves` are on the device, as they are. The rest stays.

        With `non_blocking`, tensors in pinned memory cross while the caller goes on.
        """

        def sent(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=non_blocking)

        targets = {name: sent(target) if name in self.tasks else target for name, target in batch["targets"].items()}
        moves = {"moves": tuple(map(sent, batch["moves"]))} if "moves" in batch else {}
        return {**batch, "image": sent(batch["image"]), "targets": targets, **moves}

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns image and targets on the device, in the run's precision. Training uses this for its batches, too."""
        batch = self.on_device(batch)
        image, targets = batch["image"], {name: batch["targets"][name] for name in self.tasks}
        if "finish" in batch:  # what the loader left to the device: to restore stored values, and to augment
            image, targets = batch["finish"](image, targets, batch.get("moves"))
        # Class numbers stay whole numbers: cross-entropy and embeddings take no others.
        converted = {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in targets.items()}
        return self.image(image), converted

    @torch.no_grad()
    def outputs(self, image: Tensor, sizes: Mapping[str, tuple[int, int] | None]) -> dict[str, Tensor]:
        """Returns the decoders' outputs for prepared images (B, C, H, W), in float32 or float64.

        `sizes` gives (height, width) for tasks whose output is a map. A task that is not in it gets the image's size,
        and a task with None the size that its decoder gives.
        """
        # The bare model and not the wrapped one: an evaluation must not wait for other processes in DDP's forward pass.
        # The adapters belong to the model: decoders were trained on what they hand on.
        half = HALF.get(self.precision)
        with self._evaluating(), torch.autocast(self.device.type, half, enabled=half is not None):
            outputs = self.model(image, None if self.balancer is None else self.balancer.adapt, sizes)
        converted: dict[str, Tensor] = convert_to_fp32(outputs)  # sums of a metric in float16 overflow at 65504
        return converted

    def predictions(self, image: Tensor, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
        """Returns predictions for prepared images: class numbers, metres, unit normals, probabilities; see `Task`.

        A large map never exists as a whole output, which has a number per class and pixel. It is made in strips of
        rows. Its numbers are those of the whole, up to rounding.
        """
        large = {
            name: sizes[name]
            for name, task in self.tasks.items()
            if name in sizes and self.model.decoders[name].dense and _numbers(image, task, sizes[name]) > STRIP
        }
        outputs = self.outputs(image, {**sizes, **dict.fromkeys(large)})
        return {
            name: _in_strips(task, outputs.pop(name), large[name]) if name in large else task.predict(outputs.pop(name))
            for name, task in self.tasks.items()
        }

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training  # it may be off already, as in a loaded run
        self.model.eval()
        try:
            with uncompiled(self.model):
                yield
        finally:
            self.model.train(training)


def _numbers(image: Tensor, task: Task, size: tuple[int, int]) -> int:
    return len(image) * task.out_channels * size[0] * size[1]


def _in_strips(task: Task, output: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the prediction for an output (B, C, h, w) that is resized to `size`, (height, width), strip by strip."""
    height, width = size
    rows = max(1, STRIP // (output.shape[0] * output.shape[1] * width))
    whole: Tensor | None = None
    for first in range(0, height, rows):
        last = min(first + rows, height)
        strip = task.predict(resized_rows(output, size, first, last))
        if strip.shape[-2:] != (last - first, width):  # no map, such as the positions of some points
            return task.predict(resized_rows(output, size, 0, height))
        if whole is None:
            whole = strip.new_empty(*strip.shape[:-2], height, width)
        whole[..., first:last, :] = strip
    assert whole is not None
    return whole


def resized_rows(output: Tensor, size: tuple[int, int], first: int, last: int) -> Tensor:
    """Returns the rows from `first` to before `last` of `F.interpolate(output, size, mode="bilinear")`, up to rounding.

    >>> output = torch.rand(1, 2, 3, 4)
    >>> torch.allclose(resized_rows(output, (7, 9), 2, 5), F.interpolate(output, (7, 9), mode="bilinear")[..., 2:5, :])
    True
    """
    lowest, scale = output.shape[-2] - 1, output.shape[-2] / size[0]
    places = ((torch.arange(first, last, device=output.device) + 0.5) * scale - 0.5).clamp(0, lowest)
    above = places.long()
    share = (places - above).to(output.dtype)[:, None]
    rows = torch.lerp(output[..., above, :], output[..., (above + 1).clamp(max=lowest), :], share)
    return F.interpolate(rows, size=(last - first, size[1]), mode="bilinear", align_corners=False)


def dtype_of(precision: str) -> torch.dtype:
    """Returns the type of parameters and inputs for a `trainer.precision`; mixed precisions keep both in float32."""
    return torch.float64 if precision == "fp64" else torch.float32
