"""The distance of every pixel, and what all kinds share that are a positive number a pixel."""

import math

import numpy as np
from torch import Tensor

from mtlkit.target import KINDS, DenseKind, Motion


class Positive(DenseKind):
    """A positive number a pixel: float32 (1, H, W), finite, 0 where there is none."""

    unknown = 0

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 1, height, width

    @property
    def admitted(self) -> tuple[float, float]:
        return 0, math.inf

    def valid(self, value: Tensor) -> Tensor:
        return value > 0


@KINDS.register("depth")
class Depth(Positive):
    """Depth in metres: float32 (1, H, W), finite and >= 0, 0 invalid.

    A median out of 5 cm to 100 m is told: rooms have some metres and streets some ten.
    """

    unit = "m"
    plausible = (0.05, 100)
    advice = (
        "Depth is in metres here: numbers that large are probably millimetres (divide them by 1000) or centimetres, "
        "and numbers that small kilometres or shares of a range."
    )

    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """What looks `scale` times larger to the same camera is `scale` times nearer."""
        return values / values.dtype.type(motion.scale)
