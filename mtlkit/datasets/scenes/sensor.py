"""The errors of real sensors and annotators: missing depth, noise, unlabelled pixels, a white frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlkit.datasets.scenes.geometry import Array, Ints

VOID = -1
FAR = 8.0  # in metres; depth beyond it is missing
UNLABELLED = 0.1  # the share of things without a label
OUTLINE = 4.0  # the width of the unlabelled outline of things, in pixels of a picture 640 pixels wide
FRAME = 11.0  # the width of the white frame that registration of depth to colour leaves, in the same pixels


@dataclass
class Maps:
    """One frame: image (H, W, 3) in [0, 1], label (H, W), depth (H, W) in metres, normals (H, W, 3)."""

    image: Array
    label: Ints
    depth: Array
    normals: Array


def corrupt(
    rng: np.random.Generator,
    maps: Maps,
    instance: Ints,
    weak: NDArray[np.bool_],
    rays: Array,
    *,
    sensor: bool,
    border: bool,
) -> Maps:
    """Returns a copy of the frame with the errors of real frames.

    `instance` (H, W) numbers the things. `weak` (H, W) marks what a depth sensor cannot see (glass, dark gloss). `rays`
    (H, W, 3) are the camera's rays with z = 1. Depth 0 and normals (0, 0, 0) mean missing, and label -1 means void.
    """
    height, width = maps.label.shape
    u = rng.random((4, height, width))
    image = _noisy(rng, maps.image)
    depth, normals, label = maps.depth.copy(), maps.normals.copy(), maps.label.copy()
    if sensor:
        depth = depth + rng.normal(0, 1, depth.shape) * 0.0015 * depth**2
        normals = fit_normals(depth, rays, radius=max(1, round(width / 128)))
    facing = np.abs((maps.normals * rays).sum(axis=2)) / np.sqrt((rays * rays).sum(axis=2))
    holes = (maps.depth > FAR) | (weak & (u[0] < 0.9)) | (u[1] < 0.9 * np.clip(1 - facing / 0.16, 0, 1))
    depth[holes], normals[holes] = 0, 0
    forgotten = rng.random(int(instance.max()) + 1) < UNLABELLED
    forgotten[:3] = False  # walls, floor and ceiling are always labelled
    label[forgotten[instance] | (u[2] < _outline(instance, OUTLINE * width / 640))] = VOID
    if border:
        for axis, size in ((0, height), (1, width)):
            edge = max(1, round(FRAME * size / (480, 640)[axis]))
            out = np.arange(size)
            out = (out < edge) | (out >= size - edge)
            at = (out, slice(None)) if axis == 0 else (slice(None), out)
            image[at], depth[at], normals[at], label[at] = 1, 0, 0, VOID
    return Maps(image, label, depth, normals)


def _noisy(rng: np.random.Generator, image: Array) -> Array:
    """Adds noise: one part has a variance that grows with the light, as in counted photons, and one part does not."""
    strength = rng.uniform(0.004, 0.02)
    return np.clip(image + rng.normal(0, 1, image.shape) * np.sqrt(strength**2 * (0.3 + image)), 0, 1)


def _outline(instance: Ints, wide: float) -> Array:
    """Returns the probability that a pixel is in the outline between things, `wide` pixels across both sides."""
    edge = np.zeros(instance.shape, dtype=bool)
    for axis in (0, 1):
        change = np.diff(instance, axis=axis) != 0
        edge |= np.pad(change, [(0, int(k == axis)) for k in range(2)])
        edge |= np.pad(change, [(int(k == axis), 0) for k in range(2)])
    chance = np.zeros(instance.shape)
    for ring in range(int(np.ceil(wide / 2))):
        chance = np.maximum(chance, edge * np.clip(wide / 2 - ring, 0, 1))
        padded = np.pad(edge, 1)
        edge = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | edge
    return chance


def fit_normals(depth: Array, rays: Array, radius: int = 1) -> Array:
    """Normals (H, W, 3) of the planes through the points of square windows, from depth (H, W) and rays (z = 1).

    A plane n x = 1 is 1/z = n (x/z, y/z, 1). This is a linear regression of 1/z on image coordinates, which sums over
    windows solve. At edges the windows mix surfaces, as in the normals of real sensors.
    """
    inverse, x, y = 1 / depth, rays[..., 0], rays[..., 1]

    def mean(values: Array) -> Array:
        for axis in (0, 1):
            padded = np.pad(values, [(radius, radius) if k == axis else (0, 0) for k in range(2)], mode="edge")
            n = values.shape[axis]
            values = np.mean([padded.take(range(k, k + n), axis=axis) for k in range(2 * radius + 1)], axis=0)
        return values

    mx, my, mi = mean(x), mean(y), mean(inverse)
    a = (mean(x * inverse) - mx * mi) / (mean(x * x) - mx * mx)
    b = (mean(y * inverse) - my * mi) / (mean(y * y) - my * my)
    normal = -np.stack([a, b, mi - a * mx - b * my], axis=2)  # towards the camera
    normal /= np.sqrt((normal * normal).sum(axis=2, keepdims=True))
    return normal
