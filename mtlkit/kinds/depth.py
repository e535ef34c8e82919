"""The distance of every pixel, and the common base of kinds with one positive number per pixel."""

import math

import numpy as np
from torch import Tensor

from mtlkit.motion import Motions, spread
from mtlkit.target import KINDS, DenseKind, Motion


class Positive(DenseKind):
    """One positive number per pixel: float32 (1, H, W), finite, 0 where there is none."""

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

    The user gets a warning for a median below 5 cm or above 100 m. Rooms have a few metres, streets a few tens of
    metres.
    """

    unit = "m"
    plausible = (0.05, 100)
    advice = (
        "Depth is in metres here: such large numbers are probably millimetres (divide them by 1000) or centimetres, "
        "and such small numbers are kilometres or shares of a range."
    )

    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """Divides the depth by `scale`: what looks `scale` times larger to the same camera is `scale` times nearer."""
        return values / values.dtype.type(motion.scale)

    def change_batch(self, values: Tensor, motions: Motions) -> Tensor:
        return values / spread(motions.scale, values)
