"""A run's last pass over its validation data: the loss of single samples, and tables over all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtlkit.data.summary import spread
from mtlkit.engine.evaluation import output_sizes
from mtlkit.engine.feed import feed
from mtlkit.engine.losses import loss_of
from mtlkit.engine.predictor import Predictor
from mtlkit.report.details import BINS, MOST_CLASSES, Bin, Confusion, Details, Reliability
from mtlkit.task import Chances

RANKED = 2000  #: the largest number of samples whose own losses are computed
ENDS = 2  #: so many of the best and so many of the worst samples are shown

Losses = dict[int, dict[str, float]]  # by sample and task; a task without a label is missing


@dataclass
class Survey:
    """What a pass found. `samples` counts those that it saw, and `losses` has the losses of at most `RANKED`."""

    samples: int = 0
    losses: Losses = field(default_factory=dict)
    confusion: dict[str, Confusion] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)

    def details(self, split_size: int) -> Details:
        """Returns the tables, as `details.json` has them."""
        return Details(self.samples, split_size, self.confusion, self.reliability)


@torch.no_grad()
def survey(predictor: Predictor, batches: Iterable[Any], indices: Sequence[Sequence[int]]) -> Survey:
    """Looks at all batches of one process. `indices` has the samples of each batch.

    The pass takes as long as the process's share of an evaluation, and the losses of single samples come on top: about
    0.1 ms for each sample and task on a CPU (8 s for 2,000 images of CelebA with its 40 attributes as 40 tasks, 1 s for
    the 654 images of NYUv2 with three maps of 640 x 480). The memory is that of one batch of an evaluation, plus
    C x C counts per task. No process waits for another one.
    """
    tasks, found = predictor.tasks, Survey()
    every = [index for batch in indices for index in batch]
    ranked = {every[i] for i in spread(len(every), RANKED)}
    counters = {
        name: _confusion_metric(task.metrics()) for name, task in tasks.items() if len(task.classes) <= MOST_CLASSES
    }
    counters = {name: metric.to(predictor.device) for name, metric in counters.items() if metric is not None}
    chances: dict[str, _Bins] = {}
    for batch, numbers in zip(feed(batches, predictor), indices, strict=True):
        image, targets = predictor.inputs(batch)
        outputs = predictor.outputs(image, output_sizes(tasks, targets))
        found.samples += len(numbers)
        for name, task in tasks.items():
            rows = [i for i, index in enumerate(numbers) if index in ranked]
            for i, loss in _own_losses(task, outputs[name], targets[name], rows).items():
                found.losses.setdefault(numbers[i], {})[name] = loss
            prediction = task.predict(outputs.pop(name))
            if name in counters:
                counters[name].update(prediction, targets[name])
            if (some := task.chances(prediction, targets[name])) is not None:
                chances.setdefault(name, _Bins(some.of)).add(some)
    found.confusion = {
        name: Confusion(list(tasks[name].classes), metric.confusion().tolist()) for name, metric in counters.items()
    }
    found.reliability = {name: bins.result() for name, bins in chances.items()}
    return found


def best_and_worst(losses: Mapping[int, Mapping[str, float]]) -> tuple[list[int], list[int]]:
    """Returns the samples with the lowest and the highest mean rank, at most `ENDS` of each, the extreme ones first.

    A sample's rank in a task is the share of the other samples with a label of this task that have a lower loss; of
    equal losses, half of them count. Its mean rank is over the tasks of which it has a label. A loss that is no number
    is higher than all others. Of equal mean ranks, the first sample comes first. Samples without labels have no rank.

    >>> best_and_worst({0: {"a": 0.5}, 1: {"a": 0.1, "b": 1.0}, 2: {"a": 0.9, "b": 3.0}, 3: {}})
    ([1], [2])
    """
    ranks: dict[int, list[float]] = {}
    for task in dict.fromkeys(task for one in losses.values() for task in one):
        own = torch.tensor([one[task] for one in losses.values() if task in one], dtype=torch.float64).nan_to_num(
            torch.inf
        )
        ordered = own.sort().values
        below, upto = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
        shares = (below + upto - 1).double() / 2 / max(len(own) - 1, 1)
        for index, share in zip((index for index, one in losses.items() if task in one), shares.tolist(), strict=True):
            ranks.setdefault(index, []).append(share)
    means = {index: sum(shares) / len(shares) for index, shares in ranks.items()}
    order = sorted(means, key=lambda index: (means[index], index))
    ends = min(ENDS, len(order) // 2)
    worst = sorted(order[len(order) - ends :], key=lambda index: (-means[index], index))
    return order[:ends], worst


def _own_losses(task: Any, output: Tensor, target: Tensor, rows: Sequence[int]) -> dict[int, float]:
    """Returns the loss of each of these samples alone, as (sum / count). Samples without a label are left out."""
    if not rows:
        return {}
    parts = [loss_of(task, output[i : i + 1], target[i : i + 1]) for i in rows]
    # One tensor for all samples: each wait for a GPU takes longer than a loss.
    both = torch.stack([torch.stack([total.double(), count.double()]) for total, count in parts]).tolist()
    return {i: total / count for i, (total, count) in zip(rows, both, strict=True) if count}


def _confusion_metric(metrics: Any) -> Any:
    """Returns the first metric of a collection that counts classes, or None."""
    return next((metric for metric in metrics.values() if callable(getattr(metric, "confusion", None))), None)


class _Bins:
    """Sums over predicted probabilities in bins of equal width: how many, their sum, and how many came true."""

    def __init__(self, of: str) -> None:
        self.of = of
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)

    def add(self, chances: Chances) -> None:
        """Adds the probabilities of a batch. A probability that is no number from 0 to 1 is left out."""
        probability, outcome = chances.probability.double().flatten().cpu(), chances.outcome.double().flatten().cpu()
        known = (probability >= 0) & (probability <= 1)  # NaN is not
        probability, outcome = probability[known], outcome[known]
        bins = (probability * BINS).long().clamp(max=BINS - 1)
        for row, values in enumerate((torch.ones_like(probability), probability, outcome)):
            self.sums[row] += torch.bincount(bins, values, minlength=BINS)

    def result(self) -> Reliability:
        bins = []
        for i, (count, predicted, observed) in enumerate(self.sums.T.tolist()):
            # Rounding can make the mean of many ones larger than 1.
            mean, share = (min(predicted / count, 1.0), observed / count) if count else (None, None)
            bins.append(Bin(i / BINS, (i + 1) / BINS, mean, share, round(count)))
        return Reliability(self.of, bins)
