"""Normals that are computed from depth."""

import numpy as np
import pytest
from tolerances import SINGLE, SINGLE_SUM

from mtlkit.data.geometry import normals_from_depth

CAMERA = (0.9, 1.3, 0.46, 0.57)  # pixels are not square, and the principal point is not in the middle
SHAPE = (30, 44)


def rays(shape: tuple[int, int] = SHAPE, camera=CAMERA) -> np.ndarray:
    """Returns rays (H, W, 3) with z = 1."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    u = (x / shape[1] - camera[2]) / camera[0]
    v = (y / shape[0] - camera[3]) / camera[1]
    return np.stack([u, v, np.ones_like(u)], axis=-1)


def plane(normal, distance: float = 2.0, shape: tuple[int, int] = SHAPE, camera=CAMERA) -> np.ndarray:
    """Returns the depth of the plane normal . point = -distance, and 0 where a ray does not meet it."""
    facing = -rays(shape, camera) @ np.asarray(normal, float)
    return np.where(facing > 0.05, distance / np.where(facing > 0.05, facing, 1), 0)


def unit(vector) -> np.ndarray:
    return np.asarray(vector) / np.linalg.norm(vector)


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """Returns a mask of the pixels whose square window touches the mask or the border."""
    padded = np.pad(mask, reach, constant_values=True)
    shifts = range(2 * reach + 1)
    height, width = mask.shape
    return np.any([padded[i : i + height, j : j + width] for i in shifts for j in shifts], axis=0)


@pytest.mark.parametrize("reach", [1, 2, 3])
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, -0.5, -0.8), (0, -1, -0.1), (-0.9, 0.1, -0.3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_plane_has_its_normal_everywhere(normal: tuple, reach: int, dtype: type) -> None:
    depth = plane(unit(normal)).astype(dtype)
    found = normals_from_depth(depth, CAMERA, reach)
    known = ~grown(depth == 0, reach)
    assert found.shape == (*SHAPE, 3)
    assert found.dtype == np.float32
    assert known.sum() > 50
    np.testing.assert_allclose(found[known], np.broadcast_to(unit(normal), (known.sum(), 3)), atol=SINGLE_SUM)
    assert not found[~known].any()


def test_normals_are_of_unit_length_and_face_the_camera() -> None:
    random = np.random.default_rng(0)
    depth = 2 + 0.002 * random.normal(size=SHAPE)
    found = normals_from_depth(depth, CAMERA)
    known = found.any(axis=-1)
    assert known.mean() > 0.3
    np.testing.assert_allclose(np.linalg.norm(found[known], axis=-1), 1, atol=SINGLE)
    assert ((found * rays()).sum(-1)[known] < 0).all()


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -1.0])
def test_there_is_no_normal_beside_missing_depth(hole: float) -> None:
    depth = plane((0, 0, -1))
    depth[[10, 20, 21], [8, 30, 30]] = hole
    found = normals_from_depth(depth, CAMERA, 2).any(axis=-1)
    missing = np.zeros(SHAPE, bool)
    missing[[10, 20, 21], [8, 30, 30]] = True
    assert np.array_equal(found, ~grown(missing, 2))


def test_there_is_no_normal_across_a_jump() -> None:
    depth = np.where(np.arange(SHAPE[1]) < 20, plane((0, 0, -1), 2.0), plane((0, 0, -1), 2.6))
    found = normals_from_depth(depth, CAMERA, 2)
    known = found.any(axis=-1)
    assert not known[:, 18:22].any()  # the windows of columns 18 to 21 hold columns 19 and 20
    assert known[2:-2, 2:18].all()
    assert known[2:-2, 22:-2].all()
    np.testing.assert_allclose(found[known][:, 2], -1, atol=SINGLE)


def test_there_is_no_normal_at_an_acute_edge() -> None:
    left, right = (unit((sign * 2.2, 0, -1)) for sign in (1, -1))
    depth = 1 / np.maximum(*(1 / np.where(d > 0, d, np.inf) for d in (plane(left), plane(right))))
    found = normals_from_depth(depth, CAMERA, 2)
    edge = int(np.argmax(rays()[15, :, 0] > 0))
    assert depth.max() < 10
    assert not found[:, edge - 1 : edge + 1].any()
    assert {tuple(n.round(4)) for n in found[15, 2 : edge - 2]} == {tuple(left.round(4).astype(np.float32))}
    assert {tuple(n.round(4)) for n in found[15, edge + 2 : -2]} == {tuple(right.round(4).astype(np.float32))}


def test_a_ball() -> None:
    shape, camera = (120, 160), (1.0, 4 / 3, 0.5, 0.5)
    r = rays(shape, camera)
    centre, radius = np.array([0.1, -0.2, 3.0]), 1.0
    a, b, c = (r * r).sum(-1), r @ centre, centre @ centre - radius**2
    inside = b**2 - a * c
    depth = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    found = normals_from_depth(depth, camera)
    known = found.any(axis=-1)
    truth = (r * depth[..., None] - centre) / radius
    angles = np.degrees(np.arccos((found * truth).sum(-1)[known].clip(-1, 1)))
    assert known.sum() > 0.8 * (depth > 0).sum()
    assert np.median(angles) < 0.5
    assert angles.max() < 12  # at the silhouette, where the surface is curved within the window


def test_a_mirrored_camera_sees_mirrored_normals() -> None:
    depth = plane(unit((0.3, -0.5, -0.8))) + 0.1 * np.sin(np.arange(SHAPE[1]) / 9)
    found = normals_from_depth(depth, CAMERA)
    mirrored = normals_from_depth(depth[:, ::-1], (*CAMERA[:2], 1 - CAMERA[2], CAMERA[3]))
    assert found.any()
    np.testing.assert_allclose(mirrored[:, ::-1] * [-1, 1, 1], found, atol=SINGLE_SUM)


def test_resolution_does_not_change_the_normals_or_how_far_windows_reach() -> None:
    for width, reach in ((44, 1), (640, 6)):
        depth = plane((0, 0, -1), shape=(60, width))
        known = normals_from_depth(depth, CAMERA).any(axis=-1)
        assert np.array_equal(known, ~grown(np.zeros((60, width), bool), reach))
