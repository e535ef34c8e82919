"""One class per image, and the cross-entropy that segmentation uses, too."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection

from mtlkit.gradients import at_least_float32
from mtlkit.metrics import Accuracy, ClassesPresent, MacroF1, check_shapes, collect
from mtlkit.task import TASKS, Chances, Task
from mtlkit.typed import Positive, ShareBelowOne

from .multilabel import bars

ClassWeight = Annotated[Positive, "To leave a class out, mark it unknown."]


@dataclass(frozen=True)
class CrossEntropyOptions:
    """The options of `cross_entropy`.

    Args:
        label_smoothing: the share of each label that is spread over all classes
        class_weights: the weight of each class in the loss, one number per class; null: 1 for all
    """

    label_smoothing: ShareBelowOne = 0.0
    class_weights: tuple[ClassWeight, ...] | None = None


@TASKS.register("classification")
class Classification(Task):
    """One of C classes per image.

    Target: int64 (B,), -1 unknown. Output: logits (B, C). Prediction: probabilities (B, C), float32.

    Loss: the cross-entropy of `cross_entropy`, with `label_smoothing` and `class_weights`.

    Metrics, pooled: `accuracy`, and `f1`, the mean over the classes in targets or predictions. Both are fractions, and
    higher is better. `classes_present` is the number of these classes. Per class: `f1`, and `accuracy`, the share of
    the class's images that are right. Indicator: the accuracy. Constant: the class frequencies. They are optimal for
    the cross-entropy, and their most likely class is the majority.

    >>> task = Classification("digit", classes=("zero", "one", "two"), label_smoothing=0.1)
    >>> total, count = task.loss(torch.zeros(4, 3), torch.tensor([0, 2, -1, 1]))
    >>> bool((total / count).isclose(torch.tensor(3.0).log())), int(count)
    (True, 3)
    """

    dense = False
    learns = "classification"
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
            ("output", output, ("B", self.out_channels), "float"),
            ("target", target, ("B",), "int64"),
        )
        return cross_entropy(output, target, self.options)

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return right_labels(output, target)

    def predict(self, output: Tensor) -> Tensor:
        return at_least_float32(output).softmax(1)

    def metrics(self) -> MetricCollection:
        classes = len(self.classes)
        return collect(
            {"accuracy": Accuracy(classes), "f1": MacroF1(classes), "classes_present": ClassesPresent(classes)}
        )

    def constant(self, targets: Tensor) -> Tensor:
        frequencies = label_counts(self, targets).float()
        return (frequencies / frequencies.sum())[None]

    def picture(self, value: Tensor) -> np.ndarray:
        return bars(self.classes, self.numbers(value))

    def numbers(self, value: Tensor) -> Tensor:
        if value.ndim:
            return value
        shares = F.one_hot(value.clamp_min(0), len(self.classes)).float()
        return torch.where(value == -1, torch.nan, shares)

    def chances(self, prediction: Tensor, target: Tensor) -> Chances:
        known = target != -1
        probability, label = prediction[known].max(1)
        return Chances("the probability of the predicted class", probability, label == target[known])


def cross_entropy(output: Tensor, target: Tensor, options: CrossEntropyOptions) -> tuple[Tensor, Tensor]:
    """Returns the sum of cross-entropies over labelled elements, and the sum of the weights of their classes.

    output (B, C, *), target (B, *), -1 unknown. With p = softmax(output), label y, smoothing e and weights w
    (all 1 by default), an element's loss is -(1 - e) w_y log p_y - (e / C) sum_c w_c log p_c
    (Szegedy et al. 2016, arXiv 1512.00567). Its count is w_y. The quotient sum / count is torch's weighted mean.
    """
    # Not torch's cross_entropy: on maps it has no deterministic form on CUDA, and on rows of pixels it is 4x slower.
    valid = (target != -1).unsqueeze(1)
    labels = target.unsqueeze(1).masked_fill(~valid, 0)
    log_p = at_least_float32(output).masked_fill(~valid, 0).log_softmax(1)
    weight = log_p.new_tensor(options.class_weights or [1.0] * log_p.shape[1])
    counts, smoothing = weight[labels], options.label_smoothing
    losses = -(1 - smoothing) * counts * log_p.gather(1, labels)
    if smoothing:
        along_classes = weight.view(-1, *[1] * (log_p.ndim - 2))
        losses = losses - smoothing / len(weight) * (along_classes * log_p).sum(1, keepdim=True)
    return torch.where(valid, losses, 0).sum(), torch.where(valid, counts, 0).sum()


def right_labels(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how many labelled elements have their largest score at the right class, and how many there are.

    output (B, C, *), target (B, *), -1 unknown.
    """
    return (output.argmax(1) == target).sum(), (target != -1).sum()


def label_counts(task: Task, targets: Tensor) -> Tensor:
    """Returns how many elements have each label, (C,). Raises `ValueError` if no element has a label."""
    counts = torch.bincount(targets[targets != -1], minlength=len(task.classes))
    if counts.sum() == 0:
        raise ValueError(f"The task {task.name!r} has no labelled element in the targets: all are -1.")
    return counts
