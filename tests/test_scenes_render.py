"""The renderer of the data set `scenes`: geometry, conventions, determinism, and the options in `Knobs`."""

from dataclasses import replace

import numpy as np
import pytest
from tolerances import NETWORK, ROUNDING

from mtlkit.datasets.scenes import CLASSES, Knobs, intrinsics, materials, render_frame, sensor
from mtlkit.datasets.scenes.geometry import BOX, CYLINDER, ELLIPSOID, ROOM, Shapes, residual, trace
from mtlkit.datasets.scenes.grammar import build_scene
from mtlkit.datasets.scenes.render import LAYOUT, SCALES, SPLITS, stream

SIZE = (48, 36)


@pytest.fixture(scope="module")
def frames():
    """Six frames without corruption."""
    return [render_frame(i, size=SIZE, clean=True) for i in range(6)]


def camera_rays(frame):
    fx, fy, cx, cy = frame.intrinsics
    rows, columns = np.indices(frame.depth.shape)
    return np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(frame.depth.shape)], axis=2)


@pytest.mark.parametrize("kind", [BOX, CYLINDER, ELLIPSOID, ROOM])
def test_the_first_hit_is_the_first(kind):
    """For a rotated and stretched primitive, the depth equals the result of a search along the rays."""
    rng = np.random.default_rng(kind)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    one = np.ones(1, dtype=int)
    half = rng.uniform(0.5, 1.5, (1, 3))
    half[0, 1] = half[0, 0]
    centre = rng.normal(size=(1, 3))
    shapes = Shapes(kind * one, centre, axes[None], half, one, one, one, one > 0, one)
    origin = centre[0] + (0.1 if kind == ROOM else 4 * axes[0])
    rays = rng.normal(size=(3, 400)) + (centre[0] - origin)[:, None] * 0.5
    distance, hit = trace(shapes, origin, rays)

    def outside(t):
        """Returns the distance of points from the centre in the primitive's own frame, where the surface is at 1."""
        local = axes @ (origin[:, None] + rays * t - centre[0][:, None]) / half[0][:, None]
        if kind == ELLIPSOID:
            return np.linalg.norm(local, axis=0)
        if kind == CYLINDER:
            return np.maximum(np.hypot(local[0], local[1]), np.abs(local[2]))
        return np.abs(local).max(axis=0)

    hits = hit == 0
    assert 0 < (~hits).sum() < 400 or kind == ROOM
    reached = np.where(hits, distance, 0)
    np.testing.assert_allclose(outside(reached)[hits], 1, atol=NETWORK)
    for part in np.linspace(0, 0.999, 60):
        before = outside(reached * part)[hits]
        assert (before < 1).all() if kind == ROOM else (before > 1).all()
    for t in np.linspace(0, 20, 400):
        assert (outside(t)[~hits] > 1).all()


def test_depth_lies_on_the_primitives(frames):
    kinds = set()
    for frame in frames:
        rays = camera_rays(frame) @ frame.camera.axes
        points = frame.camera.position + rays * frame.depth[..., None]
        hit = frame.hit.ravel()
        assert residual(frame.scene.shapes, points.reshape(-1, 3).T, hit).max() < NETWORK
        kinds |= set(frame.scene.shapes.kind[hit])
    assert kinds == {BOX, CYLINDER, ELLIPSOID, ROOM}


def test_normals_match_the_differences_of_depth(frames):
    flat, curved = [], []
    for frame in frames:
        points = camera_rays(frame) * frame.depth[..., None]
        normal = np.cross(points[2:, 1:-1] - points[:-2, 1:-1], points[1:-1, 2:] - points[1:-1, :-2])
        normal /= np.linalg.norm(normal, axis=2, keepdims=True)
        angle = np.rad2deg(np.arccos(np.clip((normal * frame.normals[1:-1, 1:-1]).sum(axis=2), -1, 1)))
        neighbours = [np.roll(frame.hit, s, a)[1:-1, 1:-1] for s in (-1, 1) for a in (0, 1)]
        alone = np.all([n == frame.hit[1:-1, 1:-1] for n in neighbours], axis=0)
        sides = [np.roll(frame.normals, s, a)[1:-1, 1:-1] for s in (-1, 1) for a in (0, 1)]
        face = np.all([np.abs(n - frame.normals[1:-1, 1:-1]).max(axis=2) < NETWORK for n in sides], axis=0)
        kind = frame.scene.shapes.kind[frame.hit[1:-1, 1:-1]]
        flat.append(angle[alone & face])
        curved.append(angle[alone & (kind == ELLIPSOID)])
    # In degrees. Near 1, arccos turns a rounding error of 1e-16 into sqrt(2e-16) = 1.4e-8 rad.
    assert np.concatenate(flat).max() < 1e-3
    assert np.median(np.concatenate(curved)) < 5


def test_normals_are_unit_and_face_the_camera(frames):
    floor = np.concatenate([frame.normals[frame.label == CLASSES.index("floor")] for frame in frames])
    assert (floor[:, 1] < -0.8).mean() > 0.9  # y points down, and floors face up
    for frame in frames:
        np.testing.assert_allclose(np.linalg.norm(frame.normals, axis=2), 1, atol=ROUNDING)
        assert (np.sum(frame.normals * camera_rays(frame), axis=2) < 0).all()


def test_the_mirrored_camera_sees_the_flipped_picture():
    plain, mirrored = (render_frame(3, size=SIZE, clean=True, mirror=m) for m in (False, True))
    np.testing.assert_allclose(mirrored.depth, plain.depth[:, ::-1], atol=NETWORK)
    np.testing.assert_array_equal(mirrored.label, plain.label[:, ::-1])
    np.testing.assert_allclose(mirrored.normals, plain.normals[:, ::-1] * [-1, 1, 1], atol=NETWORK)
    # Textures depend on the position in float32. Images are in 0 to 1.
    assert np.abs(mirrored.image - plain.image[:, ::-1]).mean() < 1e-3
    assert (mirrored.attributes == plain.attributes).all()


def test_a_zoom_sees_the_middle_at_twice_the_size():
    fx, fy, cx, cy = intrinsics(*SIZE)
    plain = render_frame(2, size=SIZE, clean=True)
    near = render_frame(2, size=SIZE, clean=True, camera_intrinsics=(2 * fx, 2 * fy, 2 * cx - 24, 2 * cy - 18))
    np.testing.assert_allclose(near.depth[::2, ::2], plain.depth[9:27, 12:36], atol=NETWORK)


def test_the_same_number_gives_the_same_frame_and_others_other_rooms():
    first, again = (render_frame(1, "val", SIZE, dataset_seed=5) for _ in range(2))
    for name in ("image", "label", "depth", "normals", "attributes"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    rooms = [
        tuple(build_scene(stream(seed, split, i, LAYOUT), stream(seed, split, i, SCALES), 0.5).size)
        for seed in (0, 5)
        for split in SPLITS
        for i in range(8)
    ]
    assert len(set(rooms)) == len(rooms)


@pytest.mark.parametrize(
    ("knob", "value", "same", "other"),
    [
        ("cue_p", 0.0, ("label", "depth", "normals", "attributes"), ("image",)),
        ("decoy_p", 1.0, ("label", "depth", "normals", "attributes"), ("image",)),
        ("light_jitter", 0.0, ("label", "depth", "normals", "attributes"), ("image",)),
        ("scale_jitter", 1.0, (), ("image", "label", "depth", "normals")),
    ],
)
def test_a_knob_changes_what_it_says(knob, value, same, other):
    plain, turned = (render_frame(7, size=SIZE, knobs=k, clean=True) for k in (Knobs(), Knobs(**{knob: value})))
    for name in same:
        np.testing.assert_array_equal(getattr(turned, name), getattr(plain, name))
    for name in other:
        assert np.abs(getattr(turned, name) - getattr(plain, name)).mean() > 1e-3


def test_cue_p_ties_looks_to_classes():
    def whites(cue_p):
        return materials.draw(np.random.default_rng(0), ("white",) * 300, cue_p, 0.0).first.min(axis=1) > 0.5

    assert whites(1.0).all()
    assert whites(0.0).mean() < 0.3


def test_attributes_do_not_depend_on_the_size_and_agree_with_the_labels(frames):
    for index, frame in enumerate(frames[:3]):
        assert (render_frame(index, size=(40, 60)).attributes == frame.attributes).all()
    for frame in frames:
        for name, value in zip(
            ("bed", "sofa", "chair", "table", "tv", "books", "picture"), frame.attributes, strict=False
        ):
            share = (frame.label == CLASSES.index(name)).mean()
            assert share > 0.001 if value else share < 0.01


def test_corruption_leaves_marks_only_where_the_contract_says():
    clean, real = (render_frame(4, size=SIZE, clean=c) for c in (True, False))
    assert (clean.depth > 0).all()
    assert (clean.label >= 0).all()
    missing = real.depth == 0
    assert 0.02 < missing.mean() < 0.5
    assert (real.normals[missing] == 0).all()
    np.testing.assert_array_equal(real.depth[~missing], clean.depth[~missing])
    np.testing.assert_array_equal(real.normals[~missing], clean.normals[~missing])
    void = real.label == -1
    np.testing.assert_array_equal(real.label[~void], clean.label[~void])
    assert (real.image[0] == 1).all()
    assert void[0].all()
    open_frame = render_frame(4, size=SIZE, knobs=Knobs(border=False))
    assert not (open_frame.label[0] == -1).all()
    assert not (open_frame.image[0] == 1).all()


def test_sensor_depth_is_noisy_and_its_normals_are_fitted():
    exact, measured = (render_frame(4, size=(96, 72), knobs=Knobs(sensor=s)) for s in (False, True))
    both = (exact.depth > 0) & (measured.depth > 0)
    error = np.abs(measured.depth - exact.depth)[both]
    assert 0 < np.median(error) < 0.03
    cosine = (measured.normals * exact.normals).sum(axis=2)[both]
    assert 0.9 < np.median(cosine) < 1 - NETWORK
    np.testing.assert_allclose(np.linalg.norm(measured.normals[both], axis=1), 1, atol=NETWORK)


def test_fitted_normals_are_exact_on_a_plane():
    rows, columns = np.indices((12, 16)) / 12
    rays = np.stack([columns - 0.6, rows - 0.5, np.ones((12, 16))], axis=2)
    normal = np.array([0.3, -0.5, -np.sqrt(1 - 0.34)])
    depth = -2 / (rays @ normal)
    np.testing.assert_allclose(sensor.fit_normals(depth, rays), np.broadcast_to(normal, (12, 16, 3)), atol=NETWORK)


@pytest.mark.parametrize(
    ("name", "value"), [("cue_p", 1.5), ("scale_jitter", "much"), ("sensor", 1), ("decoy_p", True)]
)
def test_knobs_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected "):
        replace(Knobs(), **{name: value})
