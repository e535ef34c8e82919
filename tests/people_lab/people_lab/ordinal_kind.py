"""One of several classes that have an order."""

import torch

from mtlkit import KINDS, Kind


@KINDS.register("ordinal")
class Ordinal(Kind):
    """The number of one of C ordered classes, the lowest first: int64 (), -1 unknown."""

    dtype = torch.int64
    unknown = -1

    def shape(self, height, width):
        return ()

    @property
    def admitted(self):
        return 0, len(self.classes) - 1

    def counts(self, value):
        occurs = torch.bincount(value[self.valid(value)].flatten(), minlength=len(self.classes))
        return occurs, occurs.sum().expand(len(self.classes))
