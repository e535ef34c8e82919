"""Primitives and rays: closed-form intersections, vectorised over rays, in float64.

The world is in metres with z up. Every primitive is a standard one (the cube [-1, 1]^3, the cylinder of radius 1 about
z, the unit sphere), which is stretched by `half`, rotated by `axes` and moved to `centre`. Vectors are (3, N) arrays.
Sums are written out, without BLAS, so that their order does not depend on the machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BOX, CYLINDER, ELLIPSOID, ROOM = range(4)  # a room is a box seen from inside
BLOCK = 8192  # the number of rays to trace at once, small enough for the processor's cache


@dataclass(frozen=True)
class Shapes:
    """The P primitives of a scene. `axes[p, k]` is the k-th local axis of primitive p in the world."""

    kind: Ints
    centre: Array  # (P, 3)
    axes: Array  # (P, 3, 3)
    half: Array  # (P, 3)
    label: Ints
    instance: Ints  # the primitives of one thing have the same number
    material: Ints
    opaque: NDArray[np.bool_]  # whether it casts shadows
    flags: Ints  # what the attributes need, see `things.py`

    def __len__(self) -> int:
        return len(self.kind)

    def select(self, chosen: NDArray[np.bool_]) -> "Shapes":
        return Shapes(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


def dot(a: Array, b: Array) -> Array:
    """Returns inner products over the first axis, which has length 3."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def rotate(axes: Array, vectors: Array) -> Array:
    """Returns the components of the vectors (3, N) along three axes, (3, 3) or (3, 3, N)."""
    return np.array([dot(axes[k], vectors) for k in range(3)])


def trace(shapes: Shapes, origin: Array, directions: Array) -> tuple[Array, Ints]:
    """Returns the first hit of each ray from one origin: its distance in units of the direction, and the primitive.

    `origin` is (3,). `directions` is (3, N), not necessarily of unit length. Without a hit: infinity and -1.
    """
    blocks = [directions[:, k : k + BLOCK] for k in range(0, directions.shape[1], BLOCK)]
    found = [_trace_block(shapes, origin, block) for block in blocks]
    return np.concatenate([t for t, _ in found]), np.concatenate([p for _, p in found])


def _trace_block(shapes: Shapes, origin: Array, directions: Array) -> tuple[Array, Ints]:
    nearest = np.full(directions.shape[1], np.inf)
    hit = np.full(directions.shape[1], -1)
    length2 = dot(directions, directions)
    for p in _within_cone(shapes, origin, directions / np.sqrt(length2)):
        kind = shapes.kind[p]
        offset = origin - shapes.centre[p]
        rays = _near(kind, offset, shapes.half[p], directions, length2)
        if rays.size == 0:
            continue
        scale = 1 / shapes.half[p]
        start = rotate(shapes.axes[p], offset) * scale
        step = rotate(shapes.axes[p][..., None], directions[:, rays]) * scale[:, None]
        distance = _interval(kind, start[:, None], np.where(step == 0, 1e-30, step))
        closer = distance < nearest[rays]
        nearest[rays[closer]] = distance[closer]
        hit[rays[closer]] = p
    return nearest, hit


def _within_cone(shapes: Shapes, origin: Array, units: Array) -> Ints:
    """Returns the primitives whose bounding spheres touch the narrowest cone about the mean ray with all rays."""
    axis = units.sum(axis=1)
    axis = axis / np.sqrt(dot(axis, axis))
    opening = np.arccos(np.clip(dot(axis, units).min(), -1, 1))
    offset = (shapes.centre - origin).T
    distance = np.sqrt(dot(offset, offset))
    radius = np.sqrt(dot(shapes.half.T, shapes.half.T))
    angle = np.arccos(np.clip(dot(axis, offset) / np.maximum(distance, 1e-9), -1, 1))
    reach = np.arcsin(np.clip(radius / np.maximum(distance, 1e-9), 0, 1))
    return np.flatnonzero((distance <= radius * 1.001) | (angle <= opening + reach + 1e-6))


def _near(kind: int, offset: Array, half: Array, directions: Array, length2: Array) -> Ints:
    """Returns the rays that hit the primitive's bounding sphere. Most rays hit few primitives, so this saves time."""
    radius2 = dot(half, half) if kind != ELLIPSOID else half.max() ** 2
    distance2 = dot(offset, offset)
    if kind == ROOM or distance2 <= radius2 * 1.0001:
        return np.arange(directions.shape[1])
    along = dot(offset, directions)
    return np.flatnonzero((along < 0) & (along * along >= (distance2 - radius2 * 1.0001) * length2))


def _interval(kind: int, start: Array, step: Array) -> Array:
    """Returns where rays enter the standard primitive (or leave a room). Infinity if they miss it."""
    if kind == ELLIPSOID:
        near, far = _quadratic(dot(step, step), dot(start, step), dot(start, start) - 1)
    else:
        first, last = (-1 - start) / step, (1 - start) / step
        enter, leave = np.minimum(first, last), np.maximum(first, last)
        if kind == ROOM:
            return leave.min(axis=0)
        near, far = enter[2], leave[2]
        if kind == BOX:
            near, far = enter.max(axis=0), leave.min(axis=0)
        else:
            (x, y), (u, v) = start[:2], step[:2]
            enter, leave = _quadratic(u * u + v * v, x * u + y * v, x * x + y * y - 1)
            near, far = np.maximum(near, enter), np.minimum(far, leave)
    return np.where((near <= far) & (near > 1e-9), near, np.inf)


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Returns the roots of a t^2 + 2 b t + c, or an empty interval if there are none."""
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    return np.where(disc >= 0, (-b - root) / a, np.inf), np.where(disc >= 0, (-b + root) / a, -np.inf)


def surface(shapes: Shapes, points: Array, hit: Ints) -> tuple[Array, Array, Array]:
    """Returns local points in metres, local outward unit normals and the same normals in the world, each (3, N).

    Normals point out of the primitive, or into the room.
    """
    axes = np.moveaxis(shapes.axes[hit], 0, -1)  # (3, 3, N)
    half = shapes.half[hit].T
    kind = shapes.kind[hit]
    local = rotate(axes, points - shapes.centre[hit].T)
    unit = local / half
    radius = np.hypot(unit[0], unit[1])
    flat = (kind == BOX) | (kind == ROOM)
    face = np.where(flat, np.abs(unit).argmax(axis=0), 2)
    faces = np.where(np.arange(3)[:, None] == face, np.sign(unit), 0.0)
    faces = np.where(kind == ROOM, -faces, faces)
    normal = unit / half
    side = (kind == CYLINDER) & (np.abs(unit[2]) <= radius)
    normal[2] = np.where(side, 0, normal[2])
    normal = np.where(side | (kind == ELLIPSOID), normal, faces)
    normal = normal / np.sqrt(dot(normal, normal))
    return local, normal, axes[0] * normal[0] + axes[1] * normal[1] + axes[2] * normal[2]


def residual(shapes: Shapes, points: Array, hit: Ints) -> Array:
    """Returns how far points are from their primitives' surface, relative to its size. It is 0 on the surface."""
    axes = np.moveaxis(shapes.axes[hit], 0, -1)
    unit = np.abs(rotate(axes, points - shapes.centre[hit].T) / shapes.half[hit].T)
    kind = shapes.kind[hit]
    tube = np.maximum(np.hypot(unit[0], unit[1]), unit[2])
    extent = np.select([kind == ELLIPSOID, kind == CYLINDER], [np.sqrt(dot(unit, unit)), tube], unit.max(axis=0))
    return np.abs(extent - 1)
