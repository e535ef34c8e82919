"""The pinhole camera of the rendered rooms: NYUv2's field of view at any image size."""

from dataclasses import dataclass

import numpy as np

from mtlkit.datasets.scenes.geometry import Array

NYU = (518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465)  # RGB camera, at 640x480

Intrinsics = tuple[float, float, float, float]


def intrinsics(width: int, height: int) -> Intrinsics:
    """Returns (fx, fy, cx, cy) in pixels for an image of this size. Pixel centres are at whole numbers.

    The values are those of NYUv2's RGB camera (`camera_params.m` of its toolbox), scaled. Every size shows the same
    view, so pixels are square only at 4:3.

    >>> [round(v, 2) for v in intrinsics(64, 48)]
    [51.89, 51.95, 32.11, 24.92]
    """
    fx, fy, cx, cy = NYU
    sx, sy = width / 640, height / 480
    return fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5


@dataclass(frozen=True)
class Camera:
    """A position and three axes in the world: right (x), down (y), forward (z). The axes are the rows of `axes`."""

    position: Array
    axes: Array

    @classmethod
    def look(cls, position: Array, yaw: float, pitch: float, roll: float) -> "Camera":
        """Returns the camera that looks along `yaw` (about z, from the world's x axis). Angles in radians, pitch up."""
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        down = np.cross(forward, right)
        c, s = np.cos(roll), np.sin(roll)
        return cls(position, np.stack([c * right + s * down, c * down - s * right, forward]))

    def mirrored(self) -> "Camera":
        """Returns the camera whose x axis points left. With cx -> width - 1 - cx it sees the flipped picture."""
        return Camera(self.position, self.axes * np.array([[-1.0], [1.0], [1.0]]))

    def rays(self, size: tuple[int, int], camera: Intrinsics, samples: int = 1) -> Array:
        """Returns the directions (3, N) of the rays through `samples` x `samples` points of each pixel, row by row.

        Their forward component is 1. The distance along a ray, in units of its direction, is therefore the depth z.
        """
        fx, fy, cx, cy = camera
        columns = (np.arange(size[0] * samples) + 0.5) / samples - 0.5
        rows = (np.arange(size[1] * samples) + 0.5) / samples - 0.5
        x, y = np.meshgrid((columns - cx) / fx, (rows - cy) / fy)
        right, down, forward = self.axes[..., None]
        return right * x.ravel() + down * y.ravel() + forward
