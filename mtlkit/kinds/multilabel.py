"""Attributes per image, each present or not."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtlkit.target import KINDS, Kind, found_values


@KINDS.register("multilabel")
class Multilabel(Kind):
    """C attributes per image: float32 (C,) in {0, 1}, NaN unknown."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (len(self.classes),)

    @property
    def admitted(self) -> tuple[float, float]:
        return 0, 1

    def problem(self, value: Tensor) -> str:
        known = value[self.valid(value)]
        wrong = known[(known != 0) & (known != 1)]
        return f"hold 0, 1 or NaN (unknown), found {found_values(wrong)}" if len(wrong) else ""

    def counts(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return value.nan_to_num(0), self.valid(value)

    def example(self, height: int, width: int, draw: torch.Generator) -> Tensor:
        return super().example(height, width, draw).round()

    def numbers(self, value: Tensor) -> Mapping[str, Tensor]:
        return {}
