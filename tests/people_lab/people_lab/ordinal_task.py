"""Telling how far along an order of classes something is."""

import numpy as np
import torch
from torch.nn import functional as F
from torchmetrics import MetricCollection

from mtlkit import TASKS, Task
from mtlkit.gradients import at_least_float32
from mtlkit.metrics import Pooled


@TASKS.register("ordinal")
class Grade(Task):
    """One of C ordered classes: for each but the last, whether it is exceeded."""

    dense = False
    learns = "ordinal"
    regression = False

    @property
    def out_channels(self):
        return len(self.classes) - 1

    def loss(self, output, target):
        known = target >= 0
        exceeded = target[:, None] > torch.arange(self.out_channels, device=target.device)
        logits = at_least_float32(output)
        losses = F.binary_cross_entropy_with_logits(logits, exceeded.to(logits.dtype), reduction="none")
        return torch.where(known[:, None], losses, 0).sum(), known.sum()

    def predict(self, output):
        return (output > 0).sum(1)

    def metrics(self):
        return MetricCollection({"steps_off": StepsOff()})

    def constant(self, targets):
        return targets[targets >= 0].median()[None]

    def picture(self, value):
        return np.full((8, 8, 3), 255 * max(int(value), 0) // self.out_channels, np.uint8)


class StepsOff(Pooled):
    """By how many classes the prediction is off, on average."""

    higher_is_better = False

    def __init__(self):
        super().__init__(2)

    def update(self, prediction, target):
        known = target >= 0
        self.sums = self.sums + torch.stack([(prediction - target)[known].abs().sum(), known.sum()]).double()

    def compute(self):
        return self.sums[0] / self.sums[1]
