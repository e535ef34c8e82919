"""Renders one frame of the rooms from its number."""

from dataclasses import dataclass
from typing import TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mtlkit.datasets.scenes import appearance, materials
from mtlkit.datasets.scenes.attributes import attributes
from mtlkit.datasets.scenes.camera import Camera, Intrinsics, intrinsics
from mtlkit.datasets.scenes.geometry import Array, Ints, rotate, surface, trace
from mtlkit.datasets.scenes.grammar import Scene, build_scene
from mtlkit.datasets.scenes.sensor import Maps, corrupt
from mtlkit.datasets.scenes.view import place_camera
from mtlkit.typed import MisfitError, OptionError, Share, convert
from mtlkit.typed_words import annotation_in_words

VERSION = 1  # of the frames: increase it with every change of what is rendered, so that no old cache is used
SPLITS = {"train": 800, "val": 200, "test": 650}

DARK = 0.012  # with a lower linear albedo, a depth sensor gets too little light back
S = TypeVar("S", bound=np.generic)

# The purposes of random numbers. Each purpose has its own stream, so that a knob changes only its own effect.
LAYOUT, SCALES, CAMERA, MATERIALS, LIGHTS, SENSOR, CONTROLS = range(7)


@dataclass(frozen=True)
class Knobs:
    """Settings that make the tasks easier or harder, and increase or reduce their conflicts.

    Args:
        cue_p: the probability that a material comes from the pool of its class (1: colour and texture tell the class)
        decoy_p: the probability that a relief is painted on a material: shading that says nothing about shape
        scale_jitter: the variety of sizes; 1 draws the scale of every thing between 1/1.6 and 1.6, so that the apparent
            size says little about distance
        light_jitter: the variety of the lights' strength, colour and place, and of exposure and white balance
        sensor: depth has noise that grows as z^2, and normals are fitted to it, instead of exact values
        border: a white frame without labels, as in NYUv2's pictures
    """

    cue_p: Share = 0.6
    decoy_p: Share = 0.25
    scale_jitter: Share = 0.5
    light_jitter: Share = 0.7
    sensor: bool = False
    border: bool = True

    def __post_init__(self) -> None:
        for name, annotation in get_type_hints(Knobs, include_extras=True).items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, convert(value, annotation))  # so that 1 and 1.0 give the same frames
            except MisfitError:
                words = annotation_in_words(annotation)
                raise OptionError(name, f"expected {words}, found {value!r}") from None


@dataclass(frozen=True)
class Frame:
    """A rendered frame and the scene that it was rendered from.

    `image` (H, W, 3) is float in [0, 1]. `label` (H, W) is -1 for void. `depth` (H, W) is in metres, 0 missing.
    `normals` (H, W, 3) are unit vectors, x right, y down, z forward, (0, 0, 0) missing. `attributes` is (12,). `hit`
    (H, W) is the primitive of `scene.shapes` at each pixel.
    """

    image: Array
    label: Ints
    depth: Array
    normals: Array
    attributes: Array
    hit: Ints
    scene: Scene
    camera: Camera
    intrinsics: Intrinsics


def stream(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """Returns the random numbers of one frame for one purpose: independent of all others, the same on every machine."""
    key = np.array([seed, list(SPLITS).index(split) << 32 | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, purpose]))


def render_frame(
    index: int,
    split: str = "train",
    size: tuple[int, int] = (64, 48),
    dataset_seed: int = 0,
    knobs: Knobs = Knobs(),
    *,
    clean: bool = False,
    mirror: bool = False,
    camera_intrinsics: Intrinsics | None = None,
) -> Frame:
    """Renders frame `index` of a split at `size` (width, height).

    `clean` leaves out all errors of sensors and annotators: noise, holes, void, frame. `mirror` renders with the
    left-right mirrored camera, which must give the flipped picture with n_x negated. `camera_intrinsics`
    (fx, fy, cx, cy) replaces `intrinsics(*size)`, for example for a zoom. Tests of augmentations use both.

    >>> frame = render_frame(0, size=(16, 12), clean=True)
    >>> frame.image.shape, bool((frame.depth > 0).all())
    ((12, 16, 3), True)
    """

    def random(purpose: int) -> np.random.Generator:
        return stream(dataset_seed, split, index, purpose)

    width, height = size
    scene = build_scene(random(LAYOUT), random(SCALES), knobs.scale_jitter)
    camera = place_camera(random(CAMERA), scene)
    paint = materials.draw(random(MATERIALS), scene.pools, knobs.cue_p, knobs.decoy_p)
    lighting = appearance.draw(random(LIGHTS), scene, knobs.light_jitter)
    flags = attributes(scene, camera)
    lens = camera_intrinsics or intrinsics(width, height)
    if mirror:
        camera, lens = camera.mirrored(), (lens[0], lens[1], width - 1 - lens[2], lens[3])

    rays = camera.rays(size, lens)
    depth, hit = trace(scene.shapes, camera.position, rays)
    normal = surface(scene.shapes, camera.position[:, None] + rays * depth, hit)[2]
    label, instance, material = appearance.resolve(scene, hit, normal)

    def grid(values: NDArray[S]) -> NDArray[S]:
        """Reshapes (N,) or (3, N) to (H, W) or (H, W, 3)."""
        shaped = values.reshape(*values.shape[:-1], height, width)
        return shaped if values.ndim == 1 else np.moveaxis(shaped, 0, -1)

    samples = 2 if width * height <= 160 * 120 else 1  # without several samples per pixel, small pictures would alias
    if samples > 1:
        fine = camera.rays(size, lens, samples)
        met = trace(scene.shapes, camera.position, fine)
        linear = appearance.shade(scene, paint, lighting, camera.position, fine, *met)
        linear = linear.reshape(3, height, samples, width, samples).mean(axis=(2, 4)).reshape(3, -1)
    else:
        linear = appearance.shade(scene, paint, lighting, camera.position, rays, depth, hit)
    image = appearance.photograph(grid(linear), lighting)
    if samples == 1:
        image = appearance.blur(image)
    maps = Maps(image, grid(label), grid(depth), grid(rotate(camera.axes, normal)))
    if not clean:
        weak = (paint.glass[material] > 0) | (paint.first[material].max(axis=1) < DARK)
        view = grid(rotate(camera.axes, rays))
        things, blind = grid(instance), grid(weak)
        maps = corrupt(random(SENSOR), maps, things, blind, view, sensor=knobs.sensor, border=knobs.border)
    return Frame(maps.image, maps.label, maps.depth, maps.normals, flags, grid(hit), scene, camera, lens)
