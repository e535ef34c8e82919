"""The direction of the surface at every pixel."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mtlkit.motion import Motions, spread
from mtlkit.target import KINDS, DenseKind, Motion, found_values

LONGEST, SHORTEST = 1.05, 0.95  # of a unit normal: 8 bits per component give 0.7 % at most, half precision 0.1 %


@KINDS.register("normals")
class Normals(DenseKind):
    """Unit normals of surfaces: float32 (3, H, W), x right, y down, z forward, facing the camera, (0, 0, 0) invalid.

    Each has a length from 0.95 to 1.05, or 0. The summary of a data set shows the component z, which is negative where
    a surface faces the camera.
    """

    unknown = 0
    frame = "the camera's: x right, y down, z forward; a surface that faces the camera has a negative z"
    plausible = (-1.05, 0.2)
    advice = "Normals face the camera, with x to the right, y down and z forward: change the signs of y and z."

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, height, width

    @property
    def admitted(self) -> tuple[float, float]:
        return -LONGEST, LONGEST

    def valid(self, value: Tensor) -> Tensor:
        return value.square().sum(-3) > 0.25

    def problem(self, value: Tensor) -> str:
        squares = value.square().sum(0)
        fine = ((squares >= SHORTEST**2) & (squares <= LONGEST**2)) | (squares == 0)
        if fine.all():  # a normal that is not finite is not fine
            return ""
        found = found_values(squares[~fine].sqrt())
        lengths = f"length {SHORTEST} to {LONGEST}"
        return f"hold unit normals ({lengths}) or (0, 0, 0) (no label), found these lengths: {found}"

    def example(self, height: int, width: int, draw: torch.Generator) -> Tensor:
        vectors = torch.randn(self.shape(height, width), generator=draw) - torch.tensor([0.0, 0.0, 2.0]).view(3, 1, 1)
        known = torch.rand(height, width, generator=draw) > 0.3
        return torch.nn.functional.normalize(vectors, dim=0) * known

    def numbers(self, value: Tensor) -> Mapping[str, Tensor]:
        return {"z": value[2][self.valid(value)]}

    def needs_camera(self, compat: str | None) -> bool:
        return compat != "mtan"

    def flip(self, values: np.ndarray) -> np.ndarray:
        """Negates x, because the mirrored camera sees -x where the camera saw x."""
        return np.stack([-values[0], values[1], values[2]])

    def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """Returns the normals after the image has moved. With `compat: mtan` they are interpolated, as is the image."""
        if motion.compat != "mtan" or motion.scale == 1:
            return super().move(values, motion)
        enlarged = motion.interpolated(values)
        return self.flip(enlarged[..., ::-1]) if motion.mirrored else enlarged

    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        """Returns the normals of a scene whose depth was shrunk by `scale` and sheared; `ray` is its new axis."""
        assert motion.ray is not None
        x, y, z = values
        ray = (motion.scale * motion.ray).astype(values.dtype)
        turned = np.stack([x, y, ray[0] * x + ray[1] * y + ray[2] * z])
        length = np.sqrt(np.einsum("cij,cij->ij", turned, turned))
        length[length == 0] = 1  # (0, 0, 0), invalid, stays
        turned /= length
        return turned

    def change_batch(self, values: Tensor, motions: Motions) -> Tensor:
        """Turns the normals of zoomed samples and negates x in mirrored ones, as `zoom` and `flip` do."""
        x, y, z = values.unbind(1)
        if motions.compat != "mtan":
            u, v, w = (spread(part, z) for part in (motions.scale[:, None] * motions.ray).unbind(1))
            z = w * z + u * x + v * y
            length = torch.sqrt(x * x + y * y + z * z)
            # What was not zoomed keeps its bits, and (0, 0, 0), invalid, stays.
            length = length.masked_fill((length == 0) | (spread(motions.scale, z) == 1), 1)
            x, y, z = x / length, y / length, z / length
        return torch.stack([x * spread(1 - 2 * motions.mirrored, x), y, z], 1)

    def move_batch(self, values: Tensor, motions: Motions) -> Tensor:
        moved = motions.interpolated(values) if motions.compat == "mtan" else motions.nearest(values)
        return self.change_batch(moved, motions)
