"""Numbers per image."""

from collections.abc import Mapping

from torch import Tensor

from mtlkit.target import KINDS, Kind


@KINDS.register("regression")
class Regression(Kind):
    """C numbers per image, each in a unit of its own: float32 (C,), finite, NaN unknown."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (len(self.classes),)

    def numbers(self, value: Tensor) -> Mapping[str, Tensor]:
        known = self.valid(value)
        return {name: value[i : i + 1][known[i : i + 1]] for i, name in enumerate(self.classes)}
