"""Chooses the place of the camera in a room."""

import numpy as np

from mtlkit.datasets.scenes.camera import Camera, intrinsics
from mtlkit.datasets.scenes.geometry import trace
from mtlkit.datasets.scenes.grammar import Scene
from mtlkit.datasets.scenes.things import WALL

Rng = np.random.Generator


def place_camera(rng: Rng, scene: Scene, attempts: int = 60) -> Camera:
    """Returns a camera in free space that sees much of the room: the first good view, or else the best of all tries."""
    best, best_score = None, -np.inf
    for _ in range(attempts):
        view = _view(rng, scene)
        score = _score(scene, view)
        if score > best_score:
            best, best_score = view, score
        if score >= 0:
            break
    assert best is not None
    return best


def _view(rng: Rng, scene: Scene) -> Camera:
    position = np.array([*rng.uniform(0.42, scene.size[:2] - 0.42), rng.uniform(0.9, 1.7)])
    if scene.boxes and rng.random() < 0.85:
        low, high = scene.boxes[rng.integers(len(scene.boxes))]
        aim = (low + high)[:2] / 2 + rng.normal(0, 0.4, 2)
    else:
        aim = rng.uniform(0, scene.size[:2])
    dx, dy = aim - position[:2]
    pitch, roll = np.clip(rng.normal((-11, 0), (6.5, 1.8)), (-25, -4), (10, 4))
    return Camera.look(position, np.arctan2(dy, dx), np.deg2rad(pitch), np.deg2rad(roll))


def _score(scene: Scene, view: Camera) -> float:
    """Returns the score of a view. It is zero or more for a good view."""
    margin = np.array([0.4, 0.4, 0.3])
    if any((view.position > low - margin).all() and (view.position < high + margin).all() for low, high in scene.boxes):
        return -100.0
    rays = view.rays((16, 12), intrinsics(16, 12))
    depth, hit = trace(scene.shapes, view.position, rays)
    near, middle = np.quantile(depth, (0.02, 0.5))
    height = view.position[2] + depth * rays[2]
    floor_or_ceiling = (hit == 0) & ((height < 1e-6) | (height > scene.size[2] - 1e-6))
    things = len(np.unique(scene.shapes.instance[hit]))
    bare = np.mean(scene.shapes.label[hit] == WALL) - np.mean(floor_or_ceiling)
    return min(near - 0.7, middle - 1.5, 5.0 - middle, (things - 6) / 5, 0.46 - bare, 0.0)
