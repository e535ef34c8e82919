"""Light: Lambert shading and a weak highlight, one to three point lights with hard shadows, and the photograph."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlkit.datasets.scenes.geometry import ROOM, Array, Ints, Shapes, dot, surface, trace
from mtlkit.datasets.scenes.grammar import Scene
from mtlkit.datasets.scenes.materials import Materials, albedo

MAX_LIGHTS = 3


@dataclass(frozen=True)
class Lighting:
    """Point lights (L, 3) of linear colours (L, 3), the ambient light, and the response of the photo camera."""

    places: Array
    colours: Array
    ambient: float
    balance: Array
    exposure: float
    vignette: float


def draw(rng: np.random.Generator, scene: Scene, light_jitter: float) -> Lighting:
    """Draws a light under the ceiling, then the lit windows and lamps of the room, up to three lights.

    With `light_jitter` = 0, all lights have the same white, strength and place. With 1 they have the full variety.
    """
    u = rng.uniform(-1, 1, (MAX_LIGHTS, 8)) * light_jitter
    v = rng.uniform(-1, 1, 6) * light_jitter
    middle = scene.size * [0.5, 0.5, 1] + np.array([*(u[0, :2] * scene.size[:2] * 0.3), -0.3])
    places = np.stack([middle, *scene.lights][:MAX_LIGHTS])
    strength = np.array([1.0, *(0.8,) * (MAX_LIGHTS - 1)])[: len(places)] * 3 ** u[: len(places), 3]
    warm = np.stack([1 + 0.2 * u[:, 4], np.ones(MAX_LIGHTS), 1 - 0.25 * u[:, 4]], axis=1)[: len(places)]
    return Lighting(
        places=places,
        colours=warm * strength[:, None],
        ambient=0.3 * 1.6 ** v[0],
        balance=np.array([1 + 0.12 * v[1], 1.0, 1 + 0.12 * v[2]]),
        exposure=1.35 ** v[3],
        vignette=0.25 * (1 + v[4]),
    )


def resolve(scene: Scene, hit: Ints, normal: Array) -> tuple[Ints, Ints, Ints]:
    """Returns class, thing and material of each hit. In the room's shell, the normal (world) decides the class."""
    shapes = scene.shapes
    label, instance, material = shapes.label[hit], shapes.instance[hit], shapes.material[hit]
    for ink, side in ((scene.floor, normal[2] > 0.5), (scene.ceiling, normal[2] < -0.5)):
        there = (hit == 0) & side
        label = np.where(there, ink.label, label)
        instance = np.where(there, ink.instance, instance)
        material = np.where(there, ink.material, material)
    return label, instance, material


def shade(
    scene: Scene, materials: Materials, lighting: Lighting, eye: Array, directions: Array, distance: Array, hit: Ints
) -> Array:
    """Returns the linear colours (3, N) at the points that the rays hit."""
    points = eye[:, None] + directions * distance
    local, _, normal = surface(scene.shapes, points, hit)
    _, _, index = resolve(scene, hit, normal)
    colour = albedo(materials, index, local, scene.shapes.half[hit].T)
    light = np.zeros_like(colour) + lighting.ambient * (0.8 + 0.2 * normal[2])
    shine = np.zeros_like(colour)
    view = -directions / np.sqrt(dot(directions, directions))
    casters = scene.shapes.select(scene.shapes.opaque & (scene.shapes.kind != ROOM))
    for place, tint in zip(lighting.places, lighting.colours, strict=True):
        way = place[:, None] - points
        length = np.sqrt(dot(way, way))
        way = way / length
        facing = dot(normal, way)
        lit = facing > 0
        lit[lit] = ~_shadowed(casters, place, points[:, lit], normal[:, lit])
        power = np.where(lit, 1.6 / (0.6 + 0.35 * length**2), 0.0)
        light += tint[:, None] * (power * np.maximum(facing, 0))
        middle = way + view
        highlight = np.maximum(dot(normal, middle) / np.sqrt(dot(middle, middle)), 0) ** 40
        shine += tint[:, None] * (power * highlight * materials.gloss[index])
    return np.where(materials.glow[index] > 0, materials.glow[index] * colour, colour * light + shine)


def _shadowed(casters: Shapes, place: Array, points: Array, normal: Array) -> NDArray[np.bool_]:
    """Returns whether something is between the light and each point. Points are moved a little off their surface."""
    if len(casters) == 0 or points.shape[1] == 0:
        return np.zeros(points.shape[1], dtype=bool)
    nearest, _ = trace(casters, place, points + 1e-4 * normal - place[:, None])
    return nearest < 1 - 1e-6


def photograph(linear: Array, lighting: Lighting) -> Array:
    """Converts linear colours (H, W, 3) to a photo with lens and exposure effects, sRGB-like, in [0, 1]."""
    height, width = linear.shape[:2]
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    fall = 1 - lighting.vignette * 0.5 * (x * x + y * y)
    level = np.median(linear) + 0.02  # automatic exposure
    exposed = linear * lighting.balance * fall[..., None] * (0.19 * lighting.exposure / level)
    return (1 - np.exp(-1.35 * exposed)) ** (1 / 2.2)


def blur(image: Array) -> Array:
    """A mild blur with the binomial window of 3 x 3 pixels."""
    for axis in (0, 1):
        pad = [(1, 1) if k == axis else (0, 0) for k in range(3)]
        wide = np.pad(image, pad, mode="edge")
        n = image.shape[axis]
        parts = [wide.take(range(k, k + n), axis=axis) for k in range(3)]
        image = (parts[0] + 2 * parts[1] + parts[2]) / 4
    return image
