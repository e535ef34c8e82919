"""A fixed number of points in the image, each seen or hidden."""

import numpy as np
import torch

from mtlkit import KINDS, Kind


@KINDS.register("keypoints")
class Keypoints(Kind):
    """Points by name: float32 (K, 3), (x, y) as shares of the image's width and height, and 1 if seen; NaN unknown.

    A name that begins with left_ and one that begins with right_ are a pair: in a mirrored image they change places.
    """

    def shape(self, height, width):
        return len(self.classes), 3

    @property
    def admitted(self):
        return 0, 1

    def valid(self, value):
        return ~value.isnan().any(-1)

    def counts(self, value):
        known = self.valid(value)
        return known & (value[:, 2] > 0.5), known

    def numbers(self, value):
        return dict(zip("xy", value[self.valid(value)].T[:2], strict=True))

    def example(self, height, width, draw):
        value = torch.rand(self.shape(height, width), generator=draw)
        value[:, 2] = value[:, 2].round()
        value[torch.rand(len(value), generator=draw) < 0.3] = torch.nan
        return value

    def move(self, values, motion):
        moved = values.copy()
        moved[:, :2] = (values[:, :2] - motion.corner) * motion.scale
        moved[((moved[:, :2] < 0) | (moved[:, :2] > 1)).any(1)] = np.nan  # they have left the image
        if motion.mirrored:
            moved[:, 0] = 1 - moved[:, 0]
            moved = moved[[self.classes.index(_mirrored(name)) for name in self.classes]]
        return moved


def _mirrored(name):
    for one, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(one):
            return name.replace(one, other, 1)
    return name
