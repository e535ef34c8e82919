"""The inverse depth of every pixel."""

import numpy as np
from torch import Tensor

from mtlkit.motion import Motions, spread
from mtlkit.target import KINDS, Motion

from .depth import Positive


@KINDS.register("disparity")
class Disparity(Positive):
    """Inverse depth in the data set's own unit: float32 (1, H, W), finite and >= 0, 0 invalid."""

    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """Multiplies by `scale`, as the scene is nearer. `compat: mtan` divides, like the code of published tables."""
        scale = values.dtype.type(motion.scale)
        return values / scale if motion.compat == "mtan" else values * scale

    def change_batch(self, values: Tensor, motions: Motions) -> Tensor:
        scale = spread(motions.scale, values)
        return values / scale if motions.compat == "mtan" else values * scale
