"""Augmentation: a mirror and a zoom change every type of target as geometry demands."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from tolerances import ROUNDING, SINGLE, SINGLE_SUM
from torch import Tensor

from mtlkit.data.dataset import Sample, Target
from mtlkit.data.transforms import Augment
from mtlkit.datasets.scenes import intrinsics, render_frame
from mtlkit.target import KINDS, DenseKind, Kind, Motion

WIDTH, HEIGHT = 160, 120
FX, FY = 140.0, 150.0  # in pixels
CX, CY = 78.0, 66.0
CAMERA = (FX / WIDTH, FY / HEIGHT, CX / WIDTH, CY / HEIGHT)
TARGETS = {
    "classes": Target("segmentation", ("plane", "ball")),
    "distance": Target("depth"),
    "surface": Target("normals"),
    "flags": Target("multilabel", ("a", "b")),
    "label": Target("classification", ("a", "b")),
    "number": Target("regression", ("n",)),
}
PLANE = np.array([0.35, -0.5, -1.0]) / np.linalg.norm([0.35, -0.5, -1.0])
BALL, RADIUS = np.array([-0.5, 0.2, 3.0]), 0.9


def scene(mirrored: bool = False) -> Sample:
    """Returns what a pinhole camera sees of a ball in front of a slanted plane. `mirrored` negates x in that world."""
    side = np.array([-1 if mirrored else 1, 1, 1])
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    cx = WIDTH - CX if mirrored else CX
    rays = np.stack([(x - cx) / FX, (y - CY) / FY, np.ones_like(x)], axis=-1)
    plane, ball = PLANE * side, BALL * side
    far = (plane @ [0, 0, 4.5]) / (rays @ plane)  # the plane goes through (0, 0, 4.5)
    a, b, c = (rays**2).sum(-1), rays @ ball, ball @ ball - RADIUS**2
    root = b**2 - a * c
    hit = root > 0
    depth = np.where(hit, (b - np.sqrt(np.maximum(root, 0))) / a, far)
    normals = np.where(hit[..., None], (rays * depth[..., None] - ball) / RADIUS, plane)
    assert (far > 0).all()
    assert ((normals * rays).sum(-1) < 0).all()  # normals face the camera
    hole = (np.abs(x - WIDTH / 2) < 3) & (y < 20)  # pixels without a measurement
    image = np.stack([(depth - 1) / 9, normals[..., 1] / 2 + 0.5, hit * 0.8])
    return {
        "image": torch.from_numpy(image).float(),
        "targets": {
            "classes": torch.from_numpy(np.where(hole, -1, hit)).long(),
            "distance": torch.from_numpy(np.where(hole, 0, depth)).float()[None],
            "surface": torch.from_numpy(np.where(hole[..., None], 0, normals)).float().permute(2, 0, 1).contiguous(),
            "flags": torch.tensor([1.0, float("nan")]),
            "label": torch.tensor(1),
            "number": torch.tensor([2.5]),
        },
    }


def equal(one: Sample, other: Sample) -> bool:
    pairs = [(one["image"], other["image"]), *((one["targets"][k], other["targets"][k]) for k in TARGETS)]
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in pairs)


class Pixels(DenseKind):
    """Three numbers per pixel. They move with their pixel and keep their values."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, height, width


def test_flip_gives_what_the_mirrored_camera_sees() -> None:
    flipped, expected = Augment(TARGETS, flip=1.0)(scene(), seed=0), scene(mirrored=True)
    torch.testing.assert_close(flipped["image"], expected["image"])
    for name in TARGETS:
        torch.testing.assert_close(flipped["targets"][name], expected["targets"][name], equal_nan=True, msg=name)
        assert flipped["targets"][name].is_contiguous()
    assert not torch.allclose(flipped["targets"]["surface"], scene()["targets"]["surface"].flip(-1))


def test_two_flips_are_none() -> None:
    augment = Augment(TARGETS, flip=1.0)
    assert equal(augment(augment(scene(), 0), 1), scene())


@pytest.mark.parametrize("scale", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.2, 0.05), (0.11, 0.5)])
def test_the_zoomed_scene_projects_to_the_zoomed_pixels_and_keeps_its_normals(scale: float, corner: tuple) -> None:
    """Moved points project to the crop's pixels, and turned normals are at right angles to the moved surface."""
    sample = scene()
    depth = sample["targets"]["distance"][0].double().numpy() + 1e-9
    normals = sample["targets"]["surface"].double().permute(1, 2, 0).numpy()
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    points = np.stack([(x - CX) / FX, (y - CY) / FY, np.ones_like(x)], -1) * depth[..., None]
    left, top = corner[0] * WIDTH, corner[1] * HEIGHT
    ray = np.array([(left + CX / scale - CX) / FX, (top + CY / scale - CY) / FY, 1.0])  # of the new principal point

    def move(p: np.ndarray) -> np.ndarray:
        return np.stack([p[..., 0] - ray[0] * p[..., 2], p[..., 1] - ray[1] * p[..., 2], p[..., 2] / scale], -1)

    moved = move(points)
    np.testing.assert_allclose(moved[..., 0] / moved[..., 2] * FX + CX, (x - left) * scale, atol=SINGLE)
    np.testing.assert_allclose(moved[..., 1] / moved[..., 2] * FY + CY, (y - top) * scale, atol=SINGLE)
    motion = Motion((WIDTH, HEIGHT), scale, np.array(corner), ray, mirrored=False)
    np.testing.assert_allclose(moved[..., 2], KINDS.get("depth")().zoom(depth, motion), atol=SINGLE)

    turned = KINDS.get("normals")().zoom(normals.transpose(2, 0, 1), motion).transpose(1, 2, 0)
    tangent = np.cross(normals, [0.3, 0.5, 0.7])
    for direction in (tangent, np.cross(normals, tangent)):
        np.testing.assert_allclose((turned * move(direction)).sum(-1), 0, atol=SINGLE)
    valid = np.abs(normals).sum(-1) > 0
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), valid, atol=SINGLE)
    assert ((turned * moved).sum(-1)[valid] < 0).all()  # normals still face the camera


def angles_to_surface(sample: Sample, normals: Tensor) -> Tensor:
    """Returns the angles in degrees between `normals` and the surface that every second pixel of the depth shows."""
    depth = sample["targets"]["distance"][0, ::2, ::2].double()
    y, x = torch.meshgrid(torch.arange(0, HEIGHT, 2) + 0.5, torch.arange(0, WIDTH, 2) + 0.5, indexing="ij")
    points = torch.stack([(x - CX) / FX * depth, (y - CY) / FY * depth, depth])
    right, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    seen = torch.nn.functional.normalize(torch.linalg.cross(down, right, dim=0), dim=0)
    cosine = (seen * normals[:, ::2, ::2].double()[:, 1:-1, 1:-1]).sum(0)
    ids = sample["targets"]["classes"][::2, ::2]
    plain = torch.nn.functional.max_pool2d(ids.double()[None] + 2, 3, 1)[0]  # plane: 2, ball: 3, hole: 1
    inside = (plain == -torch.nn.functional.max_pool2d(-ids.double()[None] - 2, 3, 1)[0]) & (plain > 1)
    return cosine.clamp(-1, 1).arccos().rad2deg()[inside]


def test_zoomed_normals_fit_the_zoomed_depth() -> None:
    """Compares the augmented normals with finite differences of the augmented depth, for the unchanged camera.

    After a zoom by 2, every second pixel is a regular sample of the original. Without a zoom, the median error of this
    check is below 0.1 degrees. An error of half an original pixel adds at most 0.3 degrees.
    """
    plain = scene()
    assert angles_to_surface(plain, plain["targets"]["surface"]).median() < 0.1
    KINDS.register("kept")(Pixels)
    kept = Augment({"surface": Target("kept")}, scale=[2.0])
    turning = Augment({"surface": Target("normals")}, scale=[2.0])
    worst: dict[str, float] = {}
    for seed in range(8):
        sample = Augment(TARGETS, scale=[2.0])(scene(), seed, CAMERA)
        left_as_they_are = Augment(TARGETS, scale=[2.0], compat="mtan")(scene(), seed)
        for way, out in (
            ("exact", sample),
            ("kept", kept(scene(), seed)),
            ("mtan", left_as_they_are),
            ("central", turning(scene(), seed, (1e6, 1e6, 0.5, 0.5))),
        ):
            angle = float(angles_to_surface(sample, out["targets"]["surface"]).median())
            worst[way] = max(angle, worst.get(way, 0))
    assert worst["exact"] < 0.5
    # These normals must not fit: they are unchanged, or turned as if the crop were in the centre.
    assert min(worst["kept"], worst["mtan"]) > 10
    assert worst["central"] > 1


def test_the_ray_goes_through_what_becomes_the_principal_point() -> None:
    seen = []

    class Watching(Pixels):
        def move(self, values, motion):
            seen.append(motion)
            return values

    KINDS.register("watching")(Watching)
    augment = Augment({"place": Target("watching")}, scale=[2.0])
    for seed in range(5):
        augment({"image": torch.zeros(3, 40, 60), "targets": {"place": torch.zeros(3, 40, 60)}}, seed, CAMERA)
        (left, top), (fx, fy, cx, cy) = seen[-1].corner, CAMERA
        assert 0 <= left <= 0.5 >= top >= 0
        # Position c in the new picture is position corner + c / 2 in the old one. Both are shares of the size.
        ray = ((left + cx / 2 - cx) / fx, (top + cy / 2 - cy) / fy, 1)
        assert seen[-1].ray == pytest.approx(ray, rel=ROUNDING)
        assert (seen[-1].size, seen[-1].scale, seen[-1].mirrored) == ((60, 40), 2.0, False)


@pytest.mark.parametrize("scale", [1.5, 2.0])
def test_zoom_moves_image_and_targets_alike(scale: float) -> None:
    """The image and a target of a user's own kind both hold their pixel coordinates, and both move alike."""
    KINDS.register("coordinates")(Pixels)
    y, x = torch.meshgrid((torch.arange(40) + 0.5) / 40, (torch.arange(60) + 0.5) / 60, indexing="ij")
    ramps = torch.stack([x, y, x * 0])
    augment = Augment({"place": Target("coordinates")}, scale=[scale])
    corners = []
    for seed in range(30):
        out = augment({"image": ramps, "targets": {"place": ramps.clone()}}, seed)
        image, place = out["image"], out["targets"]["place"]
        assert image.shape == place.shape == (3, 40, 60)
        off = (image - place).abs()[:2].amax(dim=(1, 2))
        assert off[0] <= 0.51 / 60  # the nearest pixel is at most half an original pixel away
        assert off[1] <= 0.51 / 40
        steps = image[0, :, 5:-5].diff(dim=1)
        torch.testing.assert_close(steps, torch.full_like(steps, 1 / 60 / scale), atol=SINGLE, rtol=0)
        assert torch.isin(place, ramps).all()  # every value was there before
        corners.append((float(image[0].min()), float(image[1].min())))
    spread = torch.tensor(corners)
    assert (spread.amin(0) < 0.06).all()  # some crops reach each side
    assert (spread.amax(0) > 1 - 1 / scale - 0.06).all()


def test_zoom_divides_depth_and_keeps_normals_unit_and_holes_invalid() -> None:
    sample = scene()
    for seed in range(5):
        out = Augment(TARGETS, flip=0.5, scale=[1.2, 1.5], colour=0.3)(sample, seed, CAMERA)["targets"]
        holes = out["classes"] == -1
        assert torch.equal(out["distance"][0] == 0, holes)
        lengths = out["surface"].norm(dim=0)
        torch.testing.assert_close(lengths, (~holes).float())
    shrunk = Augment(TARGETS, scale=[1.5])(sample, 3, CAMERA)["targets"]["distance"]
    assert torch.isin(shrunk, sample["targets"]["distance"] / 1.5).all()


def test_zoom_multiplies_inverse_depth() -> None:
    sample = scene()
    depth = sample["targets"]["distance"]
    sample["targets"]["inverse"] = torch.where(depth > 0, 1 / depth, 0)
    targets = {"distance": Target("depth"), "inverse": Target("disparity")}
    out = next(o for o in (Augment(targets, scale=[1.5])(sample, s)["targets"] for s in range(9)) if has_holes(o))
    valid = out["distance"] > 0
    torch.testing.assert_close(out["inverse"][valid], 1 / out["distance"][valid])
    assert torch.equal(out["inverse"] == 0, ~valid)
    published = Augment(targets, scale=[1.5], compat="mtan")(sample, 3)["targets"]
    valid = published["distance"] > 0
    torch.testing.assert_close(published["inverse"][valid], 1 / published["distance"][valid] / 1.5**2)


def test_the_published_zoom_is_that_of_the_published_code() -> None:
    """Computed by hand. Corners map to corners for image and normals. Other maps use the pixel to the upper left."""
    height, width, scale = 10, 14, 1.5
    high, wide = 6, 9  # int(10 / 1.5), int(14 / 1.5)
    g = torch.Generator().manual_seed(0)
    image, normals = torch.rand(3, height, width, generator=g), torch.randn(3, height, width, generator=g)
    sample: Sample = {
        "image": image,
        "targets": {
            "labels": torch.arange(height * width).view(height, width),
            "distance": 1 + torch.rand(1, height, width, generator=g),
            "surface": torch.nn.functional.normalize(normals, dim=0),
        },
    }
    targets = {"labels": Target("segmentation"), "distance": Target("depth"), "surface": Target("normals")}
    rows = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4, 4, 5])  # floor(0.6 i)
    columns = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8])  # floor(9 / 14 j)
    y, x = torch.arange(height) * (high - 1) / (height - 1), torch.arange(width) * (wide - 1) / (width - 1)

    def between(values: Tensor, top: int, left: int) -> Tensor:
        y0, x0 = y.long().clamp(max=high - 2), x.long().clamp(max=wide - 2)
        v, u = (y - y0)[:, None], x - x0
        part = values[:, top : top + high, left : left + wide]
        above = (1 - u) * part[:, y0][:, :, x0] + u * part[:, y0][:, :, x0 + 1]
        below = (1 - u) * part[:, y0 + 1][:, :, x0] + u * part[:, y0 + 1][:, :, x0 + 1]
        return (1 - v) * above + v * below

    seen = set()
    for seed in range(12):
        out = Augment(targets, flip=0.5, scale=[scale], compat="mtan")(sample, seed)
        labels = out["targets"]["labels"]
        mirrored = bool(labels[0, 0] > labels[0, -1])
        labels = labels.flip(1) if mirrored else labels
        top, left = divmod(int(labels[0, 0]), width)
        assert torch.equal(labels, sample["targets"]["labels"][top + rows][:, left + columns])
        depth = sample["targets"]["distance"][:, top + rows][:, :, left + columns] / scale
        surface = between(sample["targets"]["surface"], top, left)
        for found, expected in (
            (out["image"], between(image, top, left)),
            (out["targets"]["distance"], depth),
            (out["targets"]["surface"] * (torch.tensor([-1.0, 1, 1]).view(3, 1, 1) if mirrored else 1), surface),
        ):
            torch.testing.assert_close(found.flip(2) if mirrored else found, expected, rtol=0, atol=SINGLE)
        seen.add((top, left, mirrored))
    assert len(seen) > 8
    assert max(top for top, _, _ in seen) <= height - high


def has_holes(targets: dict[str, Tensor]) -> bool:
    return not bool((targets["distance"] > 0).all())


def test_vectors_and_dtypes_pass_and_the_input_stays() -> None:
    sample = scene()
    out = Augment(TARGETS, flip=1.0, scale=[1.4], colour=0.5)(sample, 1, CAMERA)
    assert equal(sample, scene())
    for name in TARGETS:
        assert out["targets"][name].dtype == sample["targets"][name].dtype
        assert out["targets"][name].shape == sample["targets"][name].shape
    for name in ("flags", "label", "number"):
        torch.testing.assert_close(out["targets"][name], sample["targets"][name], equal_nan=True)


def test_colour_changes_the_image_only_and_within_its_range() -> None:
    sample, augment = scene(), Augment(TARGETS, colour=1.0)
    for seed in range(20):
        out = augment(sample, seed)
        assert out["image"].dtype == torch.float32
        assert 0 <= out["image"].min() <= out["image"].max() <= 1
        assert not torch.equal(out["image"], sample["image"])
        assert equal({"image": sample["image"], "targets": out["targets"]}, sample)


def coloured(strength: float, *halves: tuple[float, float, float], seeds: int = 200) -> Tensor:
    """Returns (seeds, halves, 3): the augmented colours of a picture of one colour or of two halves."""
    columns = torch.tensor(halves).T.repeat_interleave(4 // len(halves), dim=1)
    sample, augment = (
        {"image": columns[:, None].expand(3, 4, 4).contiguous(), "targets": {}},
        Augment({}, colour=strength),
    )
    images = torch.stack([augment(sample, seed)["image"] for seed in range(seeds)])
    return images[:, :, 0, :: 4 // len(halves)].transpose(1, 2)


def assert_drawn_from(found: Tensor, low: float, high: float) -> None:
    """Checks that all factors are in the range, to three digits, and that some are close to each end."""
    assert low - 1e-3 < found.min() < low + 0.1 * (high - low)  # 200 uniform draws leave no tenth of the range empty
    assert high - 0.1 * (high - low) < found.max() < high + 1e-3


def test_brightness_and_contrast_are_drawn_from_one_strength() -> None:
    grey = coloured(0.5, (0.6, 0.6, 0.6))[:, 0]
    assert_drawn_from(grey / 0.6, 0.5, 1.5)  # contrast does not change a picture of one grey
    light, dark = coloured(0.5, (0.6, 0.6, 0.6), (0.4, 0.4, 0.4)).unbind(1)
    # Brightness multiplies both halves. Contrast multiplies their distance from the mean.
    assert_drawn_from((light - dark) / (light + dark) * (0.6 + 0.4) / (0.6 - 0.4), 0.5, 1.5)


def test_saturation_is_drawn_from_the_strength_and_the_hue_stays() -> None:
    found = coloured(0.5, (0.6, 0.3, 0.3))[:, 0]
    red, green, blue = found.unbind(1)
    assert (green - blue).abs().max() < SINGLE_SUM
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    # Saturation and contrast keep the grey and multiply the distance from it. Brightness cancels in the ratio.
    factor = (red - green) / grey / (0.3 / (0.299 * 0.6 + 0.701 * 0.3))
    assert 0.25 - 1e-3 < factor.min() < 0.38  # to 3 digits; 0.8 * 0.5 = 0.4 if one strength were the usual 0.2
    assert 1.85 < factor.max() < 2.25 + 1e-3  # 1.2 * 1.5 = 1.8 if one strength were the usual 0.2


def test_the_seed_alone_decides() -> None:
    options = {"flip": 0.5, "scale": [1.0, 1.2, 1.5], "colour": 0.2}
    one, other = Augment(TARGETS, **options), pickle.loads(pickle.dumps(Augment(TARGETS, **options)))
    forward = [one(scene(), seed, CAMERA) for seed in range(8)]
    backward = [other(scene(), seed, CAMERA) for seed in reversed(range(8))][::-1]
    assert all(equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(equal(a, b) for a, b in pairwise(forward))


def test_flips_and_scales_are_drawn_apart() -> None:
    """Each of the six combinations is expected 64 times in 384 (standard deviation 7.3)."""
    slope, flat = torch.arange(6.0).expand(1, 4, 6) + 1, torch.full((1, 4, 6), 6.0)
    sample: Sample = {"image": torch.zeros(3, 4, 6), "targets": {"slope": slope, "flat": flat}}
    augment = Augment({"slope": Target("depth"), "flat": Target("depth")}, flip=0.5, scale=[1.0, 1.5, 2.0])
    counts: dict[tuple[bool, float], int] = {}
    for seed in range(384):
        out = augment(sample, seed)["targets"]
        case = bool(out["slope"][0, 0, 0] > out["slope"][0, 0, -1]), float(out["flat"][0, 0, 0])
        counts[case] = counts.get(case, 0) + 1
    assert set(counts) == {(flipped, depth) for flipped in (True, False) for depth in (6.0, 4.0, 3.0)}
    assert all(64 - 29 < n < 64 + 29 for n in counts.values())


def test_off_by_default() -> None:
    assert equal(Augment(TARGETS)(scene(), 0), scene())


def test_an_absent_target_stays_absent() -> None:
    sample = scene()
    del sample["targets"]["surface"]
    assert set(Augment(TARGETS, flip=1.0)(sample, 0)["targets"]) == set(TARGETS) - {"surface"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"flip must be a probability in \[0, 1\], got 1.5"),
        ({"flip": True}, "flip must be a probability"),
        ({"scale": 1.5}, "scale must be a list of factors"),
        ({"scale": []}, "scale must be a list of factors"),
        ({"scale": [1.0, 0.5]}, r"factors >= 1 .*got \[1.0, 0.5\]"),
        ({"scale": [float("nan")]}, "factors >= 1"),
        ({"colour": -0.1}, "colour must be a strength"),
        ({"colour": 1.1}, "colour must be a strength"),
        ({"scale": [1000.5]}, "scale must be a list of factors"),
        ({"compat": "libmtl"}, "compat must be null or 'mtan', got 'libmtl'"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(TARGETS, **options)


def test_zooming_in_on_normals_needs_a_camera() -> None:
    sample, augment = scene(), Augment(TARGETS, scale=[1.2])
    with pytest.raises(ValueError, match=r"turns the values of 'surface'.*camera = "):
        augment(sample, 0)
    del sample["targets"]["surface"]
    augment(sample, 0)


def test_an_unknown_kind_is_refused_and_can_be_registered() -> None:
    with pytest.raises(LookupError, match=r"target 'warmth' is of the kind 'heat', .*KINDS\.register\('heat'\)"):
        Augment({"warmth": Target("heat")})

    @KINDS.register("heat")
    class Heat(DenseKind):
        def shape(self, height: int, width: int) -> tuple[int, ...]:
            return height, width

        def flip(self, values: np.ndarray) -> np.ndarray:
            return -values

        def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
            return values * np.float32(motion.scale)

    sample: Sample = {"image": torch.rand(3, 4, 6), "targets": {"warmth": torch.ones(4, 6)}}
    out = Augment({"warmth": Target("heat")}, flip=1.0, scale=[3.0])(sample, 0)
    assert torch.equal(out["targets"]["warmth"], torch.full((4, 6), -3.0))


def test_points_move_with_the_image() -> None:
    """This kind is not a map: the image has one bright pixel, and the target is the position of that pixel."""

    @KINDS.register("points")
    class Points(Kind):
        def shape(self, height: int, width: int) -> tuple[int, ...]:
            return 1, 2

        def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
            size = np.array(motion.size)
            moved = (values - motion.corner * size) * motion.scale
            if motion.mirrored:
                moved[:, 0] = motion.size[0] - moved[:, 0]
            return moved.astype(values.dtype)

    image = torch.zeros(3, 40, 60)
    image[:, 20, 31] = 1
    sample: Sample = {"image": image, "targets": {"place": torch.tensor([[31.5, 20.5]])}}
    augment = Augment({"place": Target("points")}, flip=0.5, scale=[1.0, 1.2])
    for seed in range(20):
        out = augment(sample, seed)
        y, x = divmod(int(out["image"][0].argmax()), 60)
        # The brightest pixel's centre is at most 1.1 pixels from the point: half a pixel because of the grid, and half
        # an enlarged pixel (0.6) because a neighbour may be the brightest.
        assert np.abs(out["targets"]["place"].numpy() - [[x + 0.5, y + 0.5]]).max() < 1.1


# ---- rendered rooms

ROOM = {"label": Target("segmentation", ("any",)), "depth": Target("depth"), "normals": Target("normals")}
SIZE = (96, 72)


def room(index: int, **options) -> Sample:
    frame = render_frame(index, size=SIZE, clean=True, **options)
    return {
        "image": torch.from_numpy(frame.image).float().permute(2, 0, 1),
        "targets": {
            "label": torch.from_numpy(frame.label).long(),
            "depth": torch.from_numpy(frame.depth).float()[None],
            "normals": torch.from_numpy(frame.normals).float().permute(2, 0, 1),
        },
    }


@pytest.mark.parametrize("index", range(3))
def test_a_flipped_room_is_what_the_mirrored_camera_renders(index: int) -> None:
    flipped, rendered = Augment(ROOM, flip=1.0)(room(index), 0), room(index, mirror=True)
    for one, other in ((flipped["image"], rendered["image"]), *zip_targets(flipped, rendered)):
        assert ((one - other).abs() < 1e-4).float().mean() > 0.999  # except for ties on edges


@pytest.mark.parametrize("index", range(3))
def test_a_zoomed_room_is_what_the_zoomed_camera_renders(index: int) -> None:
    """The renderer sees the same crop with a longer, shifted lens. The depths differ only by the factor."""
    width, height = SIZE
    fx, fy, cx, cy = intrinsics(*SIZE)  # in the renderer, whole numbers are pixel centres
    camera = (fx / width, fy / height, (cx + 0.5) / width, (cy + 0.5) / height)
    augment, scale = Augment(ROOM, scale=[1.5]), 1.5
    sample = room(index)
    out = augment(sample, index, camera)
    # An image of its own pixel coordinates shows where the crop lies.
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ramps = augment({"image": torch.stack([x, y, x]) / 100, "targets": sample["targets"]}, index, camera)["image"] * 100
    left, top = (float((ramps[k] - at / scale)[3:-3, 3:-3].mean()) for k, at in ((0, x), (1, y)))
    lens = (fx * scale, fy * scale, (cx + 0.5 - left) * scale - 0.5, (cy + 0.5 - top) * scale - 0.5)
    seen = room(index, camera_intrinsics=lens)["targets"]

    assert (out["targets"]["label"] == seen["label"]).float().mean() > 0.95
    ratio = out["targets"]["depth"] / (seen["depth"] / scale)
    assert ((ratio - 1).abs() < 0.02).float().mean() > 0.9
    ray = np.array([(left + camera[2] * width / scale) / fx, (top + camera[3] * height / scale) / fy, 1.0])
    ray[:2] -= [(cx + 0.5) / fx, (cy + 0.5) / fy]
    motion = Motion((width, height), scale, np.array([left / width, top / height]), ray, mirrored=False)
    expected = torch.from_numpy(KINDS.get("normals")().zoom(seen["normals"].numpy(), motion))
    shares = [((out["targets"]["normals"] * n).sum(0) > 0.9998).float().mean() for n in (expected, seen["normals"])]
    assert shares[0] > 0.8  # within 1.2 degrees, except for edges and small curved objects
    assert shares[1] < 0.5  # for comparison: normals that were not turned


def zip_targets(one: Sample, other: Sample) -> list[tuple[Tensor, Tensor]]:
    return [(one["targets"][name], other["targets"][name]) for name in one["targets"]]
