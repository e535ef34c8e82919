"""Attributes per image, each present or not, and the picture of bars for all tasks with names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from mtlkit.gradients import at_least_float32
from mtlkit.metrics import Pooled, check_shapes, collect
from mtlkit.options import check_owner
from mtlkit.task import TASKS, Chances, Task
from mtlkit.typed import Bound, NonNegative, Positive

SURE = -1e4  #: the logit of a probability that is 0 in float32


@TASKS.register("multilabel")
class Multilabel(Task):
    """C attributes per image, each present or not.

    Target: float32 (B, C) in {0, 1}, NaN unknown. Output: logits (B, C). Prediction: probabilities (B, C), float32.

    Losses, over known labels, with p = sigmoid(output) and p_t = p for a present attribute and 1 - p for an absent one:

    - `bce`: -w log p for a present attribute and -log(1 - p) for an absent one. `positive_weights` has one w per
      attribute; without it, every w is 1. The count is the number of known labels, as in torch's mean.
    - `focal`: -a_t (1 - p_t)^gamma log p_t (Lin et al. 2017, arXiv 1708.02002), `gamma` 2 by default. a_t is `alpha`
      for a present attribute and 1 - alpha for an absent one (0.25 in the paper). Without `alpha`, a_t is 1.

    Metrics, pooled. All are fractions, and higher is better. `f1` at threshold 0.5 and `map` (average precision) are
    averaged over the attributes that have positives. `auroc` is averaged over those that have positives and negatives.
    `accuracy` at threshold 0.5 is over all known labels. `map` and `auroc` are exact and keep every score (float32).
    Per attribute: `f1` and `auroc`.
    Indicator: the accuracy. Constant: the base rates, optimal for `bce`.

    >>> task = Multilabel("face", classes=("smiling", "hat"), loss="focal", gamma=0)
    >>> total, count = task.loss(torch.zeros(2, 2), torch.tensor([[1, 0], [0, torch.nan]]))
    >>> bool((total / count).isclose(torch.tensor(2.0).log())), int(count)
    (True, 3)
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the task.

        Args:
            loss: binary cross-entropy, or the focal loss
            positive_weights: the weights of present attributes in `loss: bce`, one per attribute
            gamma: how much less `loss: focal` weighs what is right already; null: 2
            alpha: the weight of present attributes in `loss: focal`; null: all labels weigh the same
        """

        loss: Literal["bce", "focal"] = "bce"
        positive_weights: tuple[Positive, ...] | None = None
        gamma: NonNegative | None = None
        alpha: Annotated[float, Bound(0, 1, open=True, open_high=True)] | None = None

        def __post_init__(self) -> None:
            check_owner(self, "loss", "bce", "positive_weights")
            check_owner(self, "loss", "focal", "gamma", "alpha")

    dense = False
    learns = "multilabel"
    regression = False
    named = True
    per_class = ("positive_weights",)
    options: Options

    @property
    def out_channels(self) -> int:
        return len(self.classes)

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        axes = ("B", self.out_channels)
        check_shapes(f"task {self.name!r}", ("output", output, axes, "float"), ("target", target, axes, "float"))
        unknown = target.isnan()
        # Few operations, because there may be a task for each of a hundred attributes: a label 0 with this logit has a
        # loss and a gradient of exactly 0, so that the sum needs no second mask.
        logits = at_least_float32(output).masked_fill(unknown, SURE)
        target = target.to(logits.dtype).masked_fill(unknown, 0)
        if self.options.loss == "bce":
            weights = self.options.positive_weights
            weight = None if weights is None else logits.new_tensor(weights)
            total = F.binary_cross_entropy_with_logits(logits, target, reduction="sum", pos_weight=weight)
        else:
            total = self._focal(logits, target).sum()
        return total, unknown.numel() - unknown.sum()

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        # In logarithms, so that (1 - p_t)^gamma has a finite slope at p_t = 1 for every gamma.
        signed, alpha = (2 * target - 1) * logits, self.options.alpha
        gamma = 2.0 if self.options.gamma is None else self.options.gamma
        losses = -(gamma * F.logsigmoid(-signed)).exp() * F.logsigmoid(signed)
        return losses if alpha is None else losses * (alpha * target + (1 - alpha) * (1 - target))

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        known = ~target.isnan()
        return (known & ((output > 0) == (target == 1))).sum(), known.sum()

    def predict(self, output: Tensor) -> Tensor:
        return at_least_float32(output).sigmoid()

    def metrics(self) -> MetricCollection:
        labels = len(self.classes)
        return collect(
            {"f1": LabelF1(labels), "accuracy": LabelAccuracy(labels)},
            {"map": MeanAveragePrecision(labels), "auroc": AUROC(labels)},
        )

    def constant(self, targets: Tensor) -> Tensor:
        if targets.isnan().all():
            raise ValueError(f"The task {self.name!r} has no known label in the targets: all are NaN.")
        rates = targets.double().nanmean(0, keepdim=True).float()
        return rates.nan_to_num(0.5)  # a label that is never known changes no figure

    def picture(self, value: Tensor) -> np.ndarray:
        return bars(self.classes, value)

    def numbers(self, value: Tensor) -> Tensor:
        return value

    def chances(self, prediction: Tensor, target: Tensor) -> Chances:
        known = ~target.isnan()
        return Chances("the probability of each attribute", prediction[known], target[known])


class Labels(Pooled):
    """Metrics of probabilities (B, C) at threshold 0.5, NaN unknown. They count the four outcomes of each label."""

    higher_is_better = True

    def __init__(self, labels: int) -> None:
        super().__init__(4, labels, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        axes = ("B", self.sums.shape[1])
        check_shapes("multilabel metrics", ("prediction", prediction, axes, "float"), ("target", target, axes, "float"))
        guess = prediction > 0.5
        parts = [(target == label) & (guess == positive) for label in (1, 0) for positive in (True, False)]
        self.sums = self.sums + torch.stack([part.sum(0) for part in parts])


class LabelF1(Labels):
    """F1 = 2 TP / (2 TP + FP + FN), averaged over the labels that have positives."""

    def compute(self) -> Tensor:
        values = self.per_class()["f1"]
        return values[~values.isnan()].mean()

    def per_class(self) -> dict[str, Tensor]:
        tp, fn, fp, _ = self.sums.double()
        return {"f1": torch.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), torch.nan)}


class LabelAccuracy(Labels):
    """The fraction of known labels that are right."""

    def compute(self) -> Tensor:
        tp, _, _, tn = self.sums.double()
        return (tp + tn).sum() / self.sums.sum()


class Scores(Metric):
    """Metrics of rankings. They keep all probabilities and labels (B, C), NaN unknown. A known NaN score gives NaN."""

    higher_is_better = True
    full_state_update = False
    seen: list[Tensor]

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = labels
        # Flat, as torchmetrics gathers a flat empty tensor from a process that has seen no batch.
        self.add_state("seen", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        axes = ("B", self.labels)
        check_shapes("multilabel metrics", ("prediction", prediction, axes, "float"), ("target", target, axes, "float"))
        self.seen.append(torch.cat([prediction, target], 1).float().flatten())

    def known(self) -> list[tuple[Tensor, Tensor]]:
        """Returns (scores, labels) of each label, where the label is known."""
        scores, labels = dim_zero_cat(self.seen).view(-1, 2, self.labels).unbind(1)
        columns = [(score, label, ~label.isnan()) for score, label in zip(scores.T, labels.T, strict=True)]
        return [(score[known], label[known].long()) for score, label, known in columns]


class MeanAveragePrecision(Scores):
    """Average precision, sum_n (R_n - R_(n-1)) P_n, averaged over the labels that have positives."""

    def compute(self) -> Tensor:
        known = [(s, t) for s, t in self.known() if t.any()]
        return _mean([binary_average_precision(s, t, validate_args=False) + 0 * s.sum() for s, t in known])


class AUROC(Scores):
    """The area under the ROC curve, averaged over the labels that have positives and negatives."""

    def compute(self) -> Tensor:
        return _mean([value for value in self._values() if value is not None])

    def per_class(self) -> dict[str, Tensor]:
        return {"auroc": torch.tensor([torch.nan if value is None else float(value) for value in self._values()])}

    def _values(self) -> list[Tensor | None]:
        """Returns the area of each label. None: it has no positives or no negatives. NaN: a score is NaN."""
        both = ((s, t, bool(t.any()) and not bool(t.all())) for s, t in self.known())
        return [binary_auroc(s, t, validate_args=False) + 0 * s.sum() if known else None for s, t, known in both]


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.tensor(torch.nan)


def bars(names: Sequence[str], values: Tensor, lengths: Tensor | None = None) -> np.ndarray:
    """Draws one row per name, with its value and a bar: RGB uint8 (18 C, 320, 3). NaN is grey and says "unknown".

    `lengths` are the lengths of the bars in [-1, 1]; without them, the values are. Negative bars are red.
    """
    lengths = values if lengths is None else lengths
    height, left, right = 18, 130, 260
    image = Image.new("RGB", (320, height * len(names)), "white")
    draw = ImageDraw.Draw(image)
    for row, (name, value, length) in enumerate(zip(names, values.tolist(), lengths.tolist(), strict=True)):
        top = row * height
        draw.rectangle((left, top + 3, right, top + height - 4), fill=(235, 235, 235))
        if np.isnan(value):
            text, colour = "unknown", (150, 150, 150)
        else:
            text, colour = f"{value:.3g}", (0, 0, 0)
            end = left + round(np.nan_to_num(min(abs(length), 1)) * (right - left))  # no bar for infinity
            draw.rectangle(
                (left, top + 3, end, top + height - 4), fill=(31, 119, 180) if length >= 0 else (214, 39, 40)
            )
        draw.text((4, top + 3), name[:20], fill=colour)
        draw.text((right + 6, top + 3), text, fill=colour)
    return np.asarray(image)
