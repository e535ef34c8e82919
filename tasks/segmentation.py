"""One class per pixel."""

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtlkit.legend import Classes, hexed
from mtlkit.metrics import Accuracy, ClassesPresent, MeanIoU, check_shapes, collect
from mtlkit.task import TASKS, ErrorMap, Task

from .classification import CrossEntropyOptions, cross_entropy, label_counts, right_labels


@TASKS.register("segmentation")
class Segmentation(Task):
    """One of C classes per pixel.

    Target: int64 (B, H, W), -1 ignored. Output: logits (B, C, H, W). Prediction: class numbers int64 (B, H, W).

    Loss: the cross-entropy of `mtlkit.tasks.classification.cross_entropy`, over labelled pixels, with
    `label_smoothing` and `class_weights`.

    Metrics, from one confusion matrix of the whole split: `miou`, intersection over union, averaged over the classes
    with a union (in targets or predictions), and `pixel_accuracy`. Both are fractions, and higher is better.
    `classes_present` is the number of the averaged classes. Per class: `iou`, and `accuracy`, the share of the class's
    labelled pixels that are right. Indicator: the pixel accuracy. Constant: the majority class.

    >>> import torch
    >>> task = Segmentation("parts", classes=("wall", "floor"))
    >>> target = torch.tensor([[[0, 1], [1, -1]]])
    >>> metrics = task.metrics()
    >>> metrics.update(task.constant(target).expand_as(target), target)
    >>> {name: round(float(value), 3) for name, value in metrics.compute().items()}
    {'classes_present': 2.0, 'miou': 0.333, 'pixel_accuracy': 0.667}
    """

    dense = True
    learns = "segmentation"
    regression = False
    named = True
    per_class = ("class_weights",)
    Options = CrossEntropyOptions
    options: CrossEntropyOptions

    @property
    def out_channels(self) -> int:
        return len(self.classes)

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        check_shapes(
            f"task {self.name!r}",
            ("output", output, ("B", self.out_channels, "H", "W"), "float"),
            ("target", target, ("B", "H", "W"), "int64"),
        )
        return cross_entropy(output, target, self.options)

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return right_labels(output, target)

    def predict(self, output: Tensor) -> Tensor:
        return output.argmax(1)

    def metrics(self) -> MetricCollection:
        classes = len(self.classes)
        return collect(
            {"miou": MeanIoU(classes), "classes_present": ClassesPresent(classes), "pixel_accuracy": Accuracy(classes)}
        )

    def constant(self, targets: Tensor) -> Tensor:
        return label_counts(self, targets).argmax().view(1, 1, 1)

    def picture(self, value: Tensor) -> np.ndarray:
        labels = value.cpu().numpy()
        return np.where(labels[..., None] == -1, np.uint8(0), PALETTE[labels % len(PALETTE)])

    def legend(self) -> Classes:
        colours = [(name, hexed(PALETTE[number % len(PALETTE)])) for number, name in enumerate(self.classes)]
        return Classes(colours, "Black: no label.")

    def errors(self, prediction: Tensor, target: Tensor) -> ErrorMap:
        return ErrorMap(torch.where(target == -1, torch.nan, (prediction != target).float()), binary=True)


# Sixty colours. Class 60 has the first colour again. None is black, because black means void.
PALETTE = np.concatenate(
    [matplotlib.colormaps[name](range(20), bytes=True)[:, :3] for name in ("tab20", "tab20b", "tab20c")]
)
