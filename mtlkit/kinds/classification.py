"""One class per image, and the class numbers that segmentation shares."""

import torch
from torch import Tensor

from mtlkit.target import KINDS, Kind


class Labels(Kind):
    """Class numbers int64 from 0 to C - 1, -1 for "no label"."""

    dtype = torch.int64
    unknown = -1

    @property
    def admitted(self) -> tuple[float, float]:
        return 0, len(self.classes) - 1

    def problem(self, value: Tensor) -> str:
        low, high = (int(bound) for bound in value.flatten().aminmax())
        if low >= -1 and high < len(self.classes):
            return ""
        return f"hold classes from 0 to {len(self.classes) - 1} or -1 (ignore), found {low} to {high}"

    def counts(self, value: Tensor) -> tuple[Tensor, Tensor]:
        known = value[self.valid(value)].flatten()
        occurs = torch.bincount(known, minlength=len(self.classes))
        return occurs, torch.full_like(occurs, len(known))


@KINDS.register("classification")
class Classification(Labels):
    """One of C classes per image: int64 (), -1 unknown."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return ()
