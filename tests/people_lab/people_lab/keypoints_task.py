"""Finding points."""

import numpy as np
import torch
from torch.nn import functional as F
from torchmetrics import MetricCollection

from mtlkit import TASKS, Task
from mtlkit.metrics import Pooled


@TASKS.register("keypoints")
class FindKeypoints(Task):
    """Where K points are and whether they are seen: the distance of those that are, and a cross-entropy."""

    dense = False
    learns = "keypoints"
    regression = True

    @property
    def out_channels(self):
        return 3 * len(self.classes)

    def loss(self, output, target):
        logits = output.float().unflatten(1, (-1, 3)) if output.dtype != torch.float64 else output.unflatten(1, (-1, 3))
        known = ~target.isnan().any(-1, keepdim=True)
        target = torch.where(known, target, 0).to(logits.dtype)
        seen = target[..., 2:]
        places = seen * (logits[..., :2].sigmoid() - target[..., :2]).abs()
        sight = F.binary_cross_entropy_with_logits(logits[..., 2:], seen, reduction="none")
        losses = torch.where(known, torch.cat([places, sight], -1), 0)
        return losses.sum(), known.sum()

    def predict(self, output):
        return output.float().unflatten(1, (-1, 3)).sigmoid()

    def metrics(self):
        return MetricCollection({"distance": Distance()})

    def constant(self, targets):
        return targets.nanmean(0, keepdim=True).nan_to_num(0.5)

    def picture(self, value):
        canvas = np.zeros((32, 32, 3), np.uint8)
        for x, y, seen in value.nan_to_num(0).cpu().numpy():
            canvas[int(31 * y), int(31 * x)] = 255 if seen > 0.5 else 100
        return canvas


class Distance(Pooled):
    """The mean distance of the points that are seen, as a share of the image."""

    higher_is_better = False

    def __init__(self):
        super().__init__(2)

    def update(self, prediction, target):
        seen = target[..., 2] > 0.5
        distances = (prediction - target)[..., :2].norm(dim=-1)[seen]
        self.sums = self.sums + torch.stack([distances.double().sum(), seen.sum().double()])

    def compute(self):
        return self.sums[0] / self.sums[1]
