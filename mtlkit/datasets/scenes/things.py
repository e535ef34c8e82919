"""Things made of primitives. Local frame: x along the wall, y away from it, z up, origin at the bottom of the back."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from mtlkit.datasets.scenes.geometry import BOX, CYLINDER, ELLIPSOID, Array, Shapes

CLASSES = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv", "wall",
    "window",
)  # fmt: skip
BED, BOOKS, CEILING, CHAIR, FLOOR, FURNITURE, OBJECTS, PICTURE, SOFA, TABLE, TV, WALL, WINDOW = range(13)

LIT_WINDOW, LIT_LAMP, ON_TABLE = 1, 2, 4  # flags of a primitive

TO_X = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # local axes that turn a cylinder along x


@dataclass(frozen=True)
class Ink:
    """The class of a part, the thing that it belongs to and its material (as numbers in the scene)."""

    label: int
    instance: int
    material: int
    opaque: bool = True


@dataclass
class Palette:
    """Numbers the things and the materials of a scene. `pools` names the pool of each material."""

    pools: list[str] = field(default_factory=list)
    things: int = 0

    def thing(self, label: int, pool: str) -> Ink:
        """Returns ink for a new thing in a new material."""
        self.things += 1
        return self._ink(label, self.things - 1, pool)

    def also(self, ink: Ink, pool: str) -> Ink:
        """Returns ink for another material on the same thing."""
        return self._ink(ink.label, ink.instance, pool)

    def _ink(self, label: int, instance: int, pool: str) -> Ink:
        self.pools.append(pool)
        return Ink(label, instance, len(self.pools) - 1, opaque=not pool.startswith("glow"))


@dataclass(frozen=True)
class Part:
    kind: int
    centre: Array
    axes: Array
    half: Array
    ink: Ink
    flags: int = 0


@dataclass
class Thing:
    """The parts of a thing, and the places in its frame that shine if the thing is a lamp."""

    parts: list[Part] = field(default_factory=list)
    lights: list[Array] = field(default_factory=list)

    def box(self, ink: Ink, at: Iterable[float], size: Iterable[float], lean: float = 0, turn: float = 0) -> "Thing":
        """Adds a box. `at` is the middle of its underside, `size` (width, depth, height). Angles are in radians."""
        return self._add(BOX, ink, at, size, lean_axes(lean) @ yaw_axes(turn))

    def cylinder(self, ink: Ink, at: Iterable[float], radius: float, height: float) -> "Thing":
        """Adds an upright cylinder. `at` is the middle of its underside."""
        return self._add(CYLINDER, ink, at, (2 * radius, 2 * radius, height), np.eye(3))

    def tube(self, ink: Ink, at: Iterable[float], radius: float, length: float) -> "Thing":
        """Adds a cylinder that lies along x. `at` is its centre."""
        self.parts.append(Part(CYLINDER, np.array([*at]), TO_X, np.array([radius, radius, length / 2]), ink))
        return self

    def ellipsoid(self, ink: Ink, at: Iterable[float], size: Iterable[float], lean: float = 0) -> "Thing":
        """Adds an ellipsoid. `at` is its lowest point, `size` its three diameters."""
        return self._add(ELLIPSOID, ink, at, size, lean_axes(lean))

    def _add(self, kind: int, ink: Ink, at: Iterable[float], size: Iterable[float], axes: Array) -> "Thing":
        half = np.array([*size]) / 2
        self.parts.append(Part(kind, np.array([*at]) + half * [0, 0, 1], axes, half, ink))
        return self

    def put(self, other: "Thing", at: Iterable[float], yaw: float = 0, flags: int = 0) -> "Thing":
        """Adds another thing at a place in the frame of this thing."""
        moved = other.moved(np.array([*at]), yaw)
        self.parts += [replace(part, flags=part.flags | flags) for part in moved.parts] if flags else moved.parts
        self.lights += moved.lights
        return self

    def moved(self, at: Array, yaw: float) -> "Thing":
        turn = yaw_axes(yaw)
        parts = [Part(p.kind, p.centre @ turn + at, p.axes @ turn, p.half, p.ink, p.flags) for p in self.parts]
        return Thing(parts, [light @ turn + at for light in self.lights])

    def scaled(self, factor: float) -> "Thing":
        parts = [Part(p.kind, p.centre * factor, p.axes, p.half * factor, p.ink, p.flags) for p in self.parts]
        return Thing(parts, [light * factor for light in self.lights])

    def flagged(self, flags: int, label: int) -> "Thing":
        """Returns this thing with flags on its parts of one class."""
        parts = [replace(p, flags=p.flags | flags) if p.ink.label == label else p for p in self.parts]
        return Thing(parts, self.lights)

    def bounds(self) -> tuple[Array, Array]:
        """Returns the corners (3,) of the bounding box."""
        centre = np.array([p.centre for p in self.parts])
        axes, half = np.array([p.axes for p in self.parts]), np.array([p.half for p in self.parts])
        reach = np.abs(axes * half[..., None]).sum(axis=1)
        return (centre - reach).min(axis=0), (centre + reach).max(axis=0)

    def shapes(self) -> Shapes:
        """Returns the parts as arrays."""
        parts = self.parts
        return Shapes(
            kind=np.array([p.kind for p in parts]),
            centre=np.stack([p.centre for p in parts]),
            axes=np.stack([p.axes for p in parts]),
            half=np.stack([p.half for p in parts]),
            label=np.array([p.ink.label for p in parts]),
            instance=np.array([p.ink.instance for p in parts]),
            material=np.array([p.ink.material for p in parts]),
            opaque=np.array([p.ink.opaque for p in parts]),
            flags=np.array([p.flags for p in parts]),
        )


def yaw_axes(angle: float) -> Array:
    """Returns the local axes (rows) of a frame turned about z."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def lean_axes(angle: float) -> Array:
    """Returns the local axes (rows) of a frame turned about x. A positive angle leans the top to the wall (-y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
