"""The geometry of pictures of a pinhole camera."""

import cv2
import numpy as np

from mtlkit.data.dataset import Camera

#: The largest distance of a window's points from its plane (root mean square), in halves of its width. With a smaller
#: bound, noise makes more holes. With this bound, an undetected jump in depth turns a normal by up to about 50 degrees.
ROUGHEST = 0.4


def normals_from_depth(depth: np.ndarray, camera: Camera, reach: int | None = None) -> np.ndarray:
    """Returns the normals (H, W, 3) of the surfaces in a depth map (H, W) in metres, 0 or not finite where unknown.

    They are float32, of unit length, with x right, y down, z forward, and face the camera. A pixel has (0, 0, 0) if
    depth is missing within `reach` pixels in x or y (also beyond the border), or if the points within are far from a
    plane, as across a jump in depth or at an acute edge. Obtuse edges are rounded.

    `camera` is (f_x / width, f_y / height, c_x / width, c_y / height), with pixel i's centre at i + 1/2. `reach` is a
    hundredth of the width by default, because differences of neighbouring pixels would be mostly sensor noise.

    A plane's inverse depth 1 / Z is linear in the directions u = X / Z and v = Y / Z of the rays. The normal is -(a, b,
    c) / |.|, where a and b are the least-squares slopes of 1 / Z over the window, and c is its value at u = v = 0. This
    is exact for a plane.

    >>> wall = np.full((5, 6), 2.0)
    >>> normals = normals_from_depth(wall, (1.0, 1.2, 0.5, 0.5))
    >>> float(normals[2, 3, 2]), bool(normals[:, 0].any())  # it faces the camera; no window fits at the border
    (-1.0, False)
    """
    height, width = depth.shape
    focal_x, focal_y, centre_x, centre_y = camera
    reach = reach or max(1, round(width / 100))
    valid = np.isfinite(depth) & (depth > 0)
    inverse = valid / np.where(valid, depth, 1).astype(np.float64)

    offsets = np.arange(-reach, reach + 1.0)
    mean, slope = np.full(len(offsets), 1 / len(offsets)), offsets / (offsets**2).sum()
    level, square = _filter(inverse, mean, mean), _filter(inverse**2, mean, mean)
    along, down = _filter(inverse, slope, mean), _filter(inverse, mean, slope)  # slopes per pixel
    residual = square - level**2 - (offsets**2).mean() * (along**2 + down**2)

    step_x, step_y = 1 / (focal_x * width), 1 / (focal_y * height)
    known = _filter(valid.astype(np.float64), mean, mean) > 1 - 0.5 / len(offsets) ** 2
    known &= residual < (ROUGHEST * reach * min(step_x, step_y) * level) ** 2

    u = ((np.arange(width) + 0.5) / width - centre_x) / focal_x
    v = ((np.arange(height) + 0.5) / height - centre_y) / focal_y
    a, b = along / step_x, down / step_y
    c = level - a * u - b * v[:, None]
    scale = np.where(known, -1 / np.sqrt(np.where(known, a**2 + b**2 + c**2, 1)), 0)
    return np.stack([a * scale, b * scale, c * scale], axis=-1, dtype=np.float32, casting="same_kind")


def _filter(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns the correlation with a separable window. Beyond the border, values count as 0."""
    return cv2.sepFilter2D(values, cv2.CV_64F, row, column, borderType=cv2.BORDER_CONSTANT)
