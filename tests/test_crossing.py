"""Batches cross to the device as they are stored, and augmentation there does what the loader does."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import SINGLE, SINGLE_SUM
from torch import Tensor

from mtlkit.data.crossing import Crossing
from mtlkit.data.dataset import BadSampleError, Dataset, Sample, Target
from mtlkit.data.loader import eval_loader, micro_batches, train_loader
from mtlkit.data.order import Shuffled
from mtlkit.data.prepare import prepare_dataset
from mtlkit.data.prepared import Prepared
from mtlkit.data.samples import Samples
from mtlkit.data.transforms import Augment
from mtlkit.engine.predictor import Predictor
from mtlkit.run.facts import augmented_on
from mtlkit.target import KINDS, DenseKind, Kind, Motion

HEIGHT, WIDTH = 12, 16
CAMERA = (0.9, 1.1, 0.45, 0.55)
TARGETS = {
    "classes": Target("segmentation", ("a", "b", "c")),
    "distance": Target("depth"),
    "near": Target("disparity"),
    "surface": Target("normals"),
    "picture": Target("reconstruction", ("grey",)),
    "flags": Target("multilabel", ("p", "q")),
}
#: What a prepared pixel or label takes, in bytes. Disparity and normals have no smaller exact form.
STORED = {
    "image": 3,
    "classes": 1,
    "distance": 2,
    "near": 4,
    "surface": 12,
    "picture": 1,
    "flags": 2 / (HEIGHT * WIDTH),
}


class Toy(Dataset):
    """Sample i is random, from the seed i: a picture of 8 bits, depth in millimetres, unit normals."""

    camera = CAMERA

    def __init__(self, length: int = 10, absent: dict[str, int] | None = None, channels: int = 3) -> None:
        self.length, self.absent, self.channels, self.targets = length, absent or {}, channels, dict(TARGETS)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(index)
        holes = torch.rand(HEIGHT, WIDTH, generator=draw) < 0.2
        depth = torch.randint(500, 9000, (1, HEIGHT, WIDTH), generator=draw).float().masked_fill(holes, 0) / 1000
        normals = torch.nn.functional.normalize(torch.randn(3, HEIGHT, WIDTH, generator=draw), dim=0)
        targets = {
            "classes": torch.randint(-1, 3, (HEIGHT, WIDTH), generator=draw),
            "distance": depth,
            "near": torch.where(depth > 0, 1 / depth, 0),
            "surface": normals.masked_fill(holes, 0),
            "picture": torch.randint(0, 256, (1, HEIGHT, WIDTH), generator=draw) / 255,
            "flags": torch.tensor([1.0, float("nan")]),
        }
        for name, every in self.absent.items():
            if index % every == 0:
                del targets[name]
        return {
            "image": torch.randint(0, 256, (self.channels, HEIGHT, WIDTH), generator=draw) / 255,
            "targets": targets,
        }


@pytest.fixture
def prepared(tmp_path: Path):
    def prepare(dataset: Dataset) -> Prepared:
        out = prepare_dataset({"train": dataset}, tmp_path / "out", {"name": "toy"}, progress=False)
        return Prepared(out)

    return prepare


def finished(batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
    if "finish" not in batch:
        return batch["image"], batch["targets"]
    return batch["finish"](batch["image"], batch["targets"], batch.get("moves"))


def assert_same_bits(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def expected(samples: Samples, keys: list[tuple[int, int]]) -> tuple[Tensor, dict[str, Tensor]]:
    loaded = [samples[key] for key in keys]
    targets = {name: torch.stack([one["targets"][name] for one in loaded]) for name in loaded[0]["targets"]}
    return torch.stack([one["image"] for one in loaded]), targets


# ---- what crosses


@pytest.mark.parametrize("augment", [None, Augment(TARGETS, flip=0.5, scale=[1.0, 1.5], colour=0.2)])
def test_the_bytes_that_cross_are_those_that_are_stored(prepared, augment: Augment | None) -> None:
    samples = Samples(prepared(Toy()), augment, augment_on="device")
    batch = next(iter(train_loader(samples, Shuffled(10, 4, 0))))
    tensors = {"image": batch["image"], **batch["targets"]}
    found = {name: values.nbytes / (4 * HEIGHT * WIDTH) for name, values in tensors.items()}
    assert found == STORED
    extra = sum(values.nbytes for values in batch.get("moves", ()))
    assert extra == (augment is not None) * 4 * 4 * (3 * (HEIGHT + WIDTH) + 5 + 9)


def test_other_data_sets_cross_as_they_are() -> None:
    for samples in (Samples(Toy()), Samples(Toy(), Augment(TARGETS, flip=0.5))):
        (batch, *_) = eval_loader(samples, 10)
        assert set(batch) == {"image", "targets"}
        image, targets = expected(samples, [(0, index) for index in range(10)])
        torch.testing.assert_close(batch, {"image": image, "targets": targets}, rtol=0, atol=0, equal_nan=True)


def test_what_a_prepared_sample_lacks_crosses_narrow_and_is_restored(prepared) -> None:
    toy = Toy(6, absent={"classes": 1, "flags": 1, "surface": 2})
    batch = next(iter(eval_loader(Samples(prepared(toy)), 6)))
    assert batch["targets"]["classes"].dtype == torch.int8
    image, targets = finished(batch)
    assert_same_bits(image, expected(Samples(toy), [(0, i) for i in range(6)])[0])
    for name, value in expected(Samples(toy), [(0, i) for i in range(6)])[1].items():
        assert targets[name].dtype == value.dtype
        assert_same_bits(targets[name], value)


def test_stored_samples_are_checked_once_and_others_always(prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    original = Samples.checked

    def count(self: Samples, index: int) -> Sample:
        checked.append(index)
        return original(self, index)

    for dataset, expected_checks in ((prepared(Toy()), [3]), (Toy(), [3, 3])):
        crossing = Crossing(Samples(dataset))
        monkeypatch.setattr(Samples, "checked", count)
        checked.clear()
        for number in range(2):
            crossing[number, 3]
        monkeypatch.undo()
        assert checked == expected_checks


def test_a_damaged_value_of_a_stored_sample_is_found(prepared) -> None:
    dataset = prepared(Toy())
    samples = Samples(dataset)
    block = dataset._open(0)
    block.tensors["target.classes"] = block.tensors["target.classes"].clone()
    block.tensors["target.classes"][3] = 77
    with pytest.raises(BadSampleError, match=r"row 3: the target 'classes' .* must hold classes from 0 to 2"):
        Crossing(samples)[0, 3]
    (batch, *_) = eval_loader(Samples(dataset, skip=True), 10)
    assert [bool(error) for error in batch["error"]] == [index == 3 for index in range(10)]
    image, targets = finished(batch)
    assert not image[3].any()
    assert (targets["classes"][3] == -1).all()
    assert_same_bits(image[4], Toy()[4]["image"])


# ---- augmentation on the device

KEYS = [(number, index) for number in range(4) for index in range(10)]


def both_ways(dataset: Dataset, augment: Augment, **options) -> tuple[dict, tuple[Tensor, dict[str, Tensor]]]:
    """Returns a batch of all `KEYS` as it crosses, and what the loading processes make of the same samples."""
    on_device = Samples(dataset, augment, seed=5, augment_on="device", **options)
    in_loader = Samples(dataset, augment, seed=5, augment_on="loader", **options)
    crossing = Crossing(on_device)
    return crossing.batch([crossing[key] for key in KEYS]), expected(in_loader, KEYS)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("compat", [None, "mtan"])
def test_a_mirrored_sample_has_the_same_bits_both_ways(prepared, store: bool, compat: str | None) -> None:
    augment = Augment(TARGETS, flip=0.5, compat=compat)
    batch, (image, targets) = both_ways(prepared(Toy()) if store else Toy(), augment)
    found_image, found = finished(batch)
    assert_same_bits(found_image, image)
    assert found.keys() == targets.keys()
    for name, value in targets.items():
        assert_same_bits(found[name] + 0, value + 0)  # + 0: a -0.0 is a 0
        assert found[name].dtype == value.dtype
    plain = torch.stack([Toy()[index]["image"] for _, index in KEYS])
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(image, plain, strict=True)]
    assert 8 < sum(mirrored) < 32


@pytest.mark.parametrize(("compat", "atol"), [(None, 1 / 32), ("mtan", SINGLE_SUM)])
def test_a_zoomed_sample_is_the_same_up_to_interpolation(prepared, compat: str | None, atol: float) -> None:
    """OpenCV, which the loading processes use without `compat`, rounds places to 1/32 of a pixel. Normals differ in the
    last digit, because their ray is multiplied in float32 here. All else has the same bits."""
    augment = Augment(TARGETS, flip=0.5, scale=[1.0, 1.2, 1.5], compat=compat)
    batch, (image, targets) = both_ways(prepared(Toy()), augment)
    found_image, found = finished(batch)
    torch.testing.assert_close(found_image, image, rtol=0, atol=atol)
    for name in ("classes", "distance", "near", "picture", "flags"):
        assert_same_bits(found[name], targets[name])
    torch.testing.assert_close(found["surface"], targets["surface"], rtol=0, atol=SINGLE_SUM)
    plain = [Toy()[index]["targets"]["distance"] for _, index in KEYS]
    zoomed = [not torch.equal(a.sort().values, b.sort().values) for a, b in zip(found["distance"], plain, strict=True)]
    assert 20 < sum(zoomed) < 40


@pytest.mark.parametrize("channels", [3, 1])
def test_colours_change_in_the_same_way(channels: int) -> None:
    augment = Augment(TARGETS, colour=0.6)
    batch, (image, _) = both_ways(Toy(channels=channels), augment)
    torch.testing.assert_close(finished(batch)[0], image, rtol=0, atol=SINGLE_SUM)
    assert not torch.equal(image[0], image[10])  # the same sample in another pass


def test_maps_of_another_size_and_absent_targets(prepared) -> None:
    augment = Augment(TARGETS, flip=0.5, scale=[1.0, 1.5])
    toy = Toy(absent={"classes": 2, "distance": 3, "surface": 2, "flags": 4})
    batch, (_, targets) = both_ways(prepared(toy), augment, target_size=(8, 6))
    assert batch["targets"]["distance"].shape == (40, 1, HEIGHT, WIDTH)
    found = finished(batch)[1]
    for name, value in targets.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=SINGLE_SUM, equal_nan=True)


def test_a_plane_stays_a_plane() -> None:
    """Every zoomed and mirrored view of a plane has one normal, and depths that fit it: written out from the camera."""
    fx, fy, cx, cy = CAMERA
    u = ((np.arange(WIDTH) + 0.5) / WIDTH - cx) / fx
    v = ((np.arange(HEIGHT) + 0.5) / HEIGHT - cy) / fy
    normal = np.array([0.3, -0.5, -0.8]) / np.linalg.norm([0.3, -0.5, -0.8])
    depth = -2.0 / (normal[0] * u + normal[1] * v[:, None] + normal[2])

    class Plane(Toy):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            sample["targets"]["distance"] = torch.from_numpy(depth).float()[None]
            sample["targets"]["surface"] = torch.from_numpy(normal).float()[:, None, None].repeat(1, HEIGHT, WIDTH)
            return sample

    batch, _ = both_ways(Plane(), Augment(TARGETS, flip=0.5, scale=[1.5, 2.0]))
    _, found = finished(batch)
    seen = set()
    for place, moved in zip(found["distance"].double(), found["surface"].double(), strict=True):
        one = moved[:, 0, 0]
        assert (moved - one[:, None, None]).abs().max() < SINGLE
        assert one.norm().item() == pytest.approx(1)
        mirrored = bool(one[0] < 0)
        ray_x = ((np.arange(WIDTH) + 0.5) / WIDTH - (1 - cx if mirrored else cx)) / fx
        ray = torch.stack(
            [torch.from_numpy(ray_x).expand(HEIGHT, WIDTH), torch.from_numpy(v)[:, None].expand(HEIGHT, WIDTH)]
        )
        distances = place[0] * (one[0] * ray[0] + one[1] * ray[1] + one[2])
        # Depth is that of the nearest pixel, at most half a pixel away: a few percent here. The wrong sign of x, or a
        # normal that was not turned, makes several tens of percent.
        assert (distances / distances.mean() - 1).abs().max() < 0.06
        seen.add(mirrored)
    assert seen == {True, False}


# ---- the same for all


def batches(dataset: Dataset, steps: int, **options) -> list[tuple[Tensor, dict[str, Tensor]]]:
    augment = Augment(TARGETS, flip=0.5, scale=[1.0, 1.5], colour=0.3)
    samples = Samples(dataset, augment, seed=1, augment_on="device")
    loader = train_loader(samples, Shuffled(len(dataset), 4, 1), **options)
    return [finished(batch) for batch in itertools.islice(loader, steps)]


def assert_batch(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert_same_bits(one[0], other[0])
    for name, value in one[1].items():
        assert_same_bits(value, other[1][name])


def test_workers_processes_and_a_resume_change_nothing(prepared) -> None:
    dataset = prepared(Toy())
    whole = batches(dataset, 5)
    for one, other in zip(whole, batches(dataset, 5, workers=2), strict=True):
        assert_batch(one, other)
    ranks = [batches(dataset, 2, rank=rank, world=2, start_step=3) for rank in range(2)]
    for one, *parts in zip(whole[3:], *ranks, strict=True):
        targets = {name: torch.cat([part[1][name] for part in parts]) for name in TARGETS}
        assert_batch(one, (torch.cat([part[0] for part in parts]), targets))


def test_micro_batches_have_their_own_part(prepared) -> None:
    augment = Augment(TARGETS, flip=0.5, scale=[1.0, 1.5], colour=0.3)
    samples = Samples(prepared(Toy()), augment, augment_on="device")
    batch = next(iter(train_loader(samples, Shuffled(10, 4, 1), accumulation=2)))
    image, targets = finished(batch)
    parts = [finished(part) for part in micro_batches(batch, 2)]
    assert_batch(
        (image, targets), (torch.cat([p[0] for p in parts]), {n: torch.cat([p[1][n] for p in parts]) for n in TARGETS})
    )


def test_the_predictor_takes_what_crosses(prepared) -> None:
    samples = Samples(prepared(Toy()), Augment(TARGETS, flip=1.0), augment_on="device")
    batch = next(iter(train_loader(samples, Shuffled(10, 4, 0))))
    predictor = Predictor(torch.nn.Identity(), dict.fromkeys(["distance"]), None, torch.device("cpu"), "fp64")
    image, targets = predictor.inputs(batch)
    assert (image.dtype, targets["distance"].dtype, set(targets)) == (torch.float64, torch.float64, {"distance"})
    assert_same_bits(image, finished(batch)[0].double())


# ---- kinds that cannot


class Heat(DenseKind):
    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return height, width

    def flip(self, values: np.ndarray) -> np.ndarray:
        return -values


class Batched(Heat):
    def change_batch(self, values: Tensor, motions) -> Tensor:
        return values * (1 - 2 * motions.mirrored)[:, None, None]


class Changed(Batched):
    def zoom(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        return values * 2


class Place(Kind):
    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (2,)

    def move(self, values: np.ndarray, motion: Motion) -> np.ndarray:
        return values


@pytest.mark.parametrize(("kind", "moves"), [(Heat, False), (Batched, True), (Changed, False), (Place, False)])
def test_a_kind_that_moves_only_single_values_stays_in_the_loader(kind: type, moves: bool) -> None:
    KINDS.register("warmth")(kind)
    dataset = Toy()
    dataset.targets["heat"] = Target("warmth")
    augment = Augment(dataset.targets, flip=1.0)
    samples = Samples(dataset, augment, augment_on="device")
    assert samples.augment_on == ("device" if moves else "loader")
    assert samples.only_in_loader == ([] if moves else ["heat"])
    assert Samples(dataset, augment, augment_on="loader").only_in_loader == []
    batch = next(iter(eval_loader(samples, 2)))
    assert ("finish" in batch) == moves
    record = augmented_on(samples)
    assert record["augment_on"] == samples.augment_on
    assert ("incident" in record) != moves
    assert moves or "targets heat move single values only" in record["incident"]
    assert augmented_on(Samples(dataset)) == {"augment_on": None}
