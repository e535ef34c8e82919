"""The attributes of a frame. They come from the geometry in view, not from the picture."""

import numpy as np

from mtlkit.datasets.scenes.appearance import resolve
from mtlkit.datasets.scenes.camera import Camera, intrinsics
from mtlkit.datasets.scenes.geometry import Array, surface, trace
from mtlkit.datasets.scenes.grammar import Scene
from mtlkit.datasets.scenes.things import CEILING, CLASSES, FLOOR, LIT_LAMP, LIT_WINDOW, ON_TABLE, PICTURE, WALL, WINDOW

ATTRIBUTES = (
    "bed", "sofa", "chair", "table", "tv", "books", "picture",
    "window_lit", "lamp_on", "object_on_table", "person_height_obstacle", "way_blocked",
)  # fmt: skip
REFERENCE = (64, 48)  # the rays that decide, for every size of the picture
SEEN = 10  # with this many of these rays, a thing is visible


def attributes(scene: Scene, camera: Camera) -> Array:
    """Returns 0 or 1 for each of `ATTRIBUTES`. The result is the same at every picture size.

    A class is present if at least 10 of 64 x 48 rays hit it. `window_lit` and `lamp_on`: a window with daylight, or a
    lamp that shines, is in view. `object_on_table`: a thing lies on a table in view. `person_height_obstacle`: a thing
    with a height of 1.5 m or more is at most 3 m away. `way_blocked`: something other than the floor is within 1.5 m of
    the camera, in the middle third of the picture's columns and below the height of the camera.
    """
    width, height = REFERENCE
    rays = camera.rays(REFERENCE, intrinsics(*REFERENCE))
    depth, hit = trace(scene.shapes, camera.position, rays)
    points = camera.position[:, None] + rays * depth
    label, instance, _ = resolve(scene, hit, surface(scene.shapes, points, hit)[2])
    flags = scene.shapes.flags[hit]
    top = np.zeros(instance.max() + 1)
    np.maximum.at(top, instance, points[2])
    stands = ~np.isin(label, (WALL, FLOOR, CEILING, WINDOW, PICTURE))
    tall = stands & (top[instance] >= 1.5) & (depth <= 3)
    middle = np.tile(np.abs(np.arange(width) + 0.5 - width / 2) < width / 6, height)
    blocked = middle & (label != FLOOR) & (points[2] < camera.position[2]) & (depth < 1.5)
    masks = [label == CLASSES.index(name) for name in ATTRIBUTES if name in CLASSES]
    masks += [flags & flag > 0 for flag in (LIT_WINDOW, LIT_LAMP, ON_TABLE)]
    masks += [tall, blocked]
    return np.array([float(mask.sum() >= SEEN) for mask in masks])
