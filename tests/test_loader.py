"""The loader checks and completes samples, and each step has the same samples for any number of processes."""

import errno
import itertools
import re
import traceback

import pytest
import torch
from torch import Tensor

from mtlkit.data import loader
from mtlkit.data.dataset import BadSampleError, Dataset, Sample, Target
from mtlkit.data.order import Shuffled
from mtlkit.data.samples import Samples
from mtlkit.data.transforms import Augment
from mtlkit.target import KINDS, Kind, kinds_of

HEIGHT, WIDTH = 4, 6
TARGETS = {
    "classes": Target("segmentation", ("a", "b", "c")),
    "distance": Target("depth"),
    "surface": Target("normals"),
    "flags": Target("multilabel", ("p", "q")),
    "label": Target("classification", ("a", "b")),
    "number": Target("regression", ("n",)),
}
FORMATS = {
    "classes": ((HEIGHT, WIDTH), torch.int64, -1.0),
    "distance": ((1, HEIGHT, WIDTH), torch.float32, 0.0),
    "surface": ((3, HEIGHT, WIDTH), torch.float32, 0.0),
    "flags": ((2,), torch.float32, float("nan")),
    "label": ((), torch.int64, -1.0),
    "number": ((1,), torch.float32, float("nan")),
}


class Toy(Dataset):
    """Sample i is random, from the seed i, and its `number` is i. `change(index, sample)` may change it."""

    camera = (1, 1, 0.5, 0.5)

    def __init__(self, length: int = 10, change=None, targets=None) -> None:
        self.length, self.change = length, change
        self.targets = targets or TARGETS

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(index)
        size = (HEIGHT, WIDTH)
        normals = torch.nn.functional.normalize(torch.randn(3, *size, generator=draw), dim=0)
        targets = {
            "classes": torch.randint(-1, 3, size, generator=draw),
            "distance": torch.rand(1, *size, generator=draw) + 1,
            "surface": normals,
            "flags": torch.tensor([1.0, float("nan")]),
            "label": torch.tensor(index % 2),
            "number": torch.tensor([float(index)]),
        }
        sample: Sample = {"image": torch.rand(3, *size, generator=draw), "targets": targets}
        if self.change:
            self.change(index, sample)
        return sample


def train_loader(dataset: Dataset, augment, batch_size: int, seed: int, **options):
    return loader.train_loader(Samples(dataset, augment, seed), Shuffled(len(dataset), batch_size, seed), **options)


def eval_loader(dataset: Dataset, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1):
    return loader.eval_loader(Samples(dataset), batch_size, workers=workers, rank=rank, world=world)


def numbers(batch: Sample) -> list[int]:
    return batch["targets"]["number"][:, 0].int().tolist()


def assert_equal(one: Sample, other: Sample) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def take(loader, steps: int) -> list[Sample]:
    return list(itertools.islice(loader, steps))


# ---- Samples


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("absent", ["key", "none", "every"])
def test_missing_labels_are_filled_as_invalid(name: str, absent: str) -> None:
    def change(index: int, sample: Sample) -> None:
        if absent == "every" or index % 2:
            sample["targets"].pop(name)
        if absent == "none" and index % 2:
            sample["targets"][name] = None

    batch = next(iter(eval_loader(Toy(4, change), batch_size=4)))
    shape, dtype, invalid = FORMATS[name]
    whole = next(iter(eval_loader(Toy(4), batch_size=4)))
    for i in range(4):
        value = batch["targets"][name][i]
        assert (value.shape, value.dtype) == (shape, dtype)
        expected = whole["targets"][name][i] if absent != "every" and i % 2 == 0 else torch.full(shape, invalid)
        torch.testing.assert_close(value, expected.to(dtype), equal_nan=True)


def spoil(name: str, value: Tensor | str):
    def change(index: int, sample: Sample) -> None:
        if index == 2:
            (sample if name == "image" else sample["targets"])[name] = value

    return change


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", torch.zeros(3, 5, 6), r"Sample 2: the image must be float32 \(3, 4, 6\), found float32 \(3, 5, 6\)"),
        ("image", torch.zeros(3, 4, 6, dtype=torch.uint8), r"must be float32 .*, found uint8 \(3, 4, 6\)\.$"),
        (
            "image",
            torch.full((3, 4, 6), 255.0),
            r"values must be in \[0, 1\], found 255\. Divide .* by 255",
        ),
        ("image", torch.full((3, 4, 6), -0.1), r"in \[0, 1\], found -0.1"),
        ("image", torch.full((3, 4, 6), float("nan")), r"Sample 2: .*in \[0, 1\], found 72 of 72 that are NaN"),
        (
            "classes",
            torch.zeros(1, 4, 6).long(),
            r"Sample 2: the target 'classes' \(segmentation\) must be int64 \(4, 6\)",
        ),
        ("classes", torch.full((4, 6), 255), r"must hold classes from 0 to 2 or -1 .*found 255\.$"),
        ("distance", torch.zeros(4, 6), r"'distance' \(depth\) must be float32 \(1, 4, 6\), found float32 \(4, 6\)"),
        ("distance", torch.zeros(1, 4, 6).double(), r"found float64 \(1, 4, 6\)"),
        ("surface", torch.zeros(4, 6, 3), r"must be float32 \(3, 4, 6\)"),
        ("flags", torch.zeros(3), r"'flags' \(multilabel\) must be float32 \(2,\), found float32 \(3,\)"),
        ("label", torch.tensor(2), r"must hold classes from 0 to 1 or -1 .*found 2\.$"),
        ("label", torch.tensor(-2), r"found -2\.$"),
        ("label", torch.tensor([1]), r"must be int64 \(\), found int64 \(1,\)"),
        ("number", "three", r"must be float32 \(1,\), found str"),
        ("nmber", torch.zeros(1), "Sample 2: its target 'nmber' is not among the data set's `targets`"),
    ],
)
def test_samples_out_of_format_are_named(name: str, value: Tensor | str, message: str) -> None:
    samples = Samples(Toy(change=spoil(name, value)))
    samples[0, 1]
    with pytest.raises(ValueError, match=message):
        samples[0, 2]


def test_the_first_sample_is_checked_before_any_work() -> None:
    def change(index: int, sample: Sample) -> None:
        sample["image"] = torch.zeros(HEIGHT, WIDTH, 3)

    with pytest.raises(ValueError, match=r"tensor \(C, H, W\), found float32 \(4, 6, 3\)\. The channels come first"):
        Samples(Toy(change=change))
    with pytest.raises(ValueError, match="no samples"):
        Samples(Toy(0))


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "distance",
            (0, NAN),
            r"'distance' \(depth\) must hold finite .*of at least 0 .*found 1 of 24 that are NaN",
        ),
        ("distance", (0, INF), "found 1 of 24 that are NaN or infinite"),
        ("distance", (0, -0.5), r"must hold finite numbers of at least 0 \(0: no label\), found -0.5 to 1.9"),
        ("surface", (0, NAN), r"must hold unit normals .*found these lengths: 1 of 1 that are NaN or infinite"),
        ("surface", (slice(None), 0.5), r"must hold unit normals .*\(0, 0, 0\) .*found these lengths: 0\.8660"),
        ("flags", (0, 0.5), r"must hold 0, 1 or NaN \(unknown\), found 0.5\.$"),
        ("flags", (0, INF), "must hold 0, 1 or NaN .*1 of 1 that are NaN or infinite"),
        ("number", (0, INF), r"must hold finite numbers \(NaN: no label\), found 1 of 1 that are NaN or infinite"),
        ("picture", (0, 1.5), r"finite numbers from 0 to 1 \(NaN: no label\), found .* to 1\.5"),
        ("picture", (0, -INF), "found 1 of 24 that are NaN or infinite"),
    ],
)
def test_numbers_out_of_range_are_named_and_can_be_skipped(name: str, value: tuple, message: str) -> None:
    """Sample 2 is refused, although it is not the first one and not a probe. `data show` refuses it too."""

    def change(index: int, sample: Sample) -> None:
        sample["targets"]["distance"].clamp_(max=2)
        sample["targets"]["picture"] = torch.full((1, HEIGHT, WIDTH), 0.5)
        if index == 2:
            target = sample["targets"][name]
            where, what = value
            target.view(len(target), -1)[where, 0] = what

    dataset = Toy(4, change, TARGETS | {"picture": Target("reconstruction", ("grey",))})
    samples = Samples(dataset)
    for read in (samples.plain, lambda index: samples[3, index], samples.checked):
        read(1)
        with pytest.raises(BadSampleError, match=f"Sample 2: the target .*{message}"):
            read(2)
    (batch,) = loader.eval_loader(Samples(dataset, skip=True), 4)
    assert [bool(error) for error in batch["error"]] == [False, False, True, False]


def test_unknown_labels_are_in_range() -> None:
    """For every kind, the result of `invalid` has the right format, and none of its elements is valid."""
    targets = TARGETS | {"picture": Target("reconstruction", ("grey",)), "near": Target("disparity")}
    for name, kind in kinds_of(targets).items():
        value = kind.invalid(HEIGHT, WIDTH)
        assert not kind.problem(value), name
        assert not kind.valid(value).any(), name


def test_half_precision_and_eight_bits_are_unit_normals() -> None:
    normals = torch.nn.functional.normalize(torch.randn(3, 50, 50, generator=torch.Generator().manual_seed(0)), dim=0)
    (kind,) = kinds_of({"n": Target("normals")}).values()
    for stored in (normals, normals.half().float(), ((normals + 1) / 2 * 255).round() / 255 * 2 - 1):
        assert not kind.problem(stored)


class Keypoints(Kind):
    """The positions (x, y, visible) of 17 joints."""

    unit = "px"

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 17, 3


def test_a_strangers_kind_may_be_missing() -> None:
    targets = TARGETS | {"joints": Target("keypoints")}

    def change(shape: tuple, absent: tuple = ()):
        def give(index: int, sample: Sample) -> None:
            if index not in absent:
                sample["targets"]["joints"] = torch.ones(shape)

        return give

    with pytest.raises(LookupError, match=r"'joints' is of the kind 'keypoints', which is not registered.*`plugins`"):
        Samples(Toy(4, change((17, 3)), targets))
    KINDS.register("keypoints")(Keypoints)
    batch = next(iter(eval_loader(Toy(4, change((17, 3), (0, 3)), targets), batch_size=4)))
    assert batch["targets"]["joints"].shape == (4, 17, 3)
    assert batch["targets"]["joints"].isnan().all(dim=(1, 2)).tolist() == [True, False, False, True]
    small = Samples(Toy(4, change((17, 3), (0,)), targets), Augment(targets, flip=1.0), target_size=(3, 2))
    assert [small[0, index]["targets"]["joints"].shape for index in (0, 1)] == [(17, 3)] * 2
    with pytest.raises(BadSampleError, match=r"Sample 0: .*'joints' \(keypoints\) must be float32 \(17, 3\), found"):
        Samples(Toy(4, change((17, 2)), targets))


@pytest.mark.parametrize("sample", [None, torch.zeros(3, 4, 6), {"image": torch.zeros(3, 4, 6)}])
def test_what_is_no_sample_is_refused(sample: object) -> None:
    class Wrong(Toy):
        def __getitem__(self, index: int):
            return sample

    with pytest.raises(ValueError, match=r"Sample 0: a sample must be \{'image': tensor, 'targets': .*, found"):
        Samples(Wrong())


def test_each_epoch_and_sample_has_its_own_seed() -> None:
    class Record:
        turned = ()

        def __call__(self, sample: Sample, seed: int, camera) -> Sample:
            seeds.append(seed)
            return sample

    keys = list(itertools.product(range(4), range(10)))
    runs = []
    for run_seed, order in ((0, keys), (0, keys[::-1]), (1, keys)):
        seeds: list[int] = []
        samples = Samples(Toy(), Record(), run_seed)
        seeds.clear()  # forget the seed of the check at the start
        for key in order:
            samples[key]
        runs.append(dict(zip(order, seeds, strict=True)))
    assert runs[0] == runs[1]
    assert len({*runs[0].values(), *runs[2].values()}) == 80
    assert min(runs[0].values()) >= 0


# ---- loaders


def test_workers_change_nothing() -> None:
    augment = Augment(TARGETS, flip=0.5, scale=[1.0, 1.5], colour=0.3)
    plain = take(train_loader(Toy(), None, 4, seed=1), 4)
    alone = take(train_loader(Toy(), augment, 4, seed=1), 4)
    helped = take(train_loader(Toy(), augment, 4, seed=1, workers=2), 4)
    for one, other in zip(alone, helped, strict=True):
        assert_equal(one, other)
    assert [numbers(batch) for batch in alone] == [numbers(batch) for batch in plain]
    assert not torch.equal(alone[0]["image"], plain[0]["image"])


def test_two_processes_and_a_resume_see_the_samples_of_one() -> None:
    augment = Augment(TARGETS, flip=0.5, colour=0.3)
    whole = take(train_loader(Toy(), augment, 4, seed=1), 6)
    ranks = [take(train_loader(Toy(), augment, 4, seed=1, rank=r, world=2, start_step=3), 3) for r in range(2)]
    for one, parts in zip(whole[3:], zip(*ranks, strict=True), strict=True):
        torch.testing.assert_close(one["image"], torch.cat([part["image"] for part in parts]), rtol=0, atol=0)


def test_batches_have_the_format_of_samples_with_a_batch_axis() -> None:
    batch = next(iter(train_loader(Toy(), None, 4, seed=1)))
    assert batch["image"].shape == (4, 3, HEIGHT, WIDTH)
    assert {name: (tuple(v.shape), v.dtype) for name, v in batch["targets"].items()} == {
        name: ((4, *shape), dtype) for name, (shape, dtype, _) in FORMATS.items()
    }


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (8, 0)])
def test_evaluation_sees_every_sample_once_in_the_batches_of_one_process(world: int, workers: int) -> None:
    shares = [eval_loader(Toy(5), 2, workers, rank, world) for rank in range(world)]
    for _ in range(2):
        seen = [[numbers(batch) for batch in share] for share in shares]
        assert seen == [[[0, 1], [2, 3], [4]][rank::world] for rank in range(world)]


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    take(train_loader(Toy(), Augment(TARGETS, flip=0.5, colour=0.1), 4, seed=1), 3)
    take(eval_loader(Toy(), 4), 3)
    assert torch.equal(torch.get_rng_state(), before)


class PeculiarError(Exception):
    def __init__(self, path: str, line: int) -> None:
        super().__init__(f"{path} is broken in line {line}")


OF_THE_SAMPLE = (ValueError("cannot parse '12,5'"), EOFError(), OSError("image file is truncated"))


@pytest.mark.parametrize("error", [*OF_THE_SAMPLE, FileNotFoundError(errno.ENOENT, "No such file", "7.png")], ids=repr)
@pytest.mark.parametrize("workers", [0, 1])
def test_the_data_sets_own_errors_are_named_and_can_be_skipped(error: Exception, workers: int) -> None:
    def change(index: int, sample: Sample) -> None:
        if index == 2:
            raise error

    text = str(error) or type(error).__name__
    with pytest.raises(BadSampleError, match=rf"Sample 2: {re.escape(text)}") as caught:
        take(eval_loader(Toy(change=change), 1, workers), 5)
    assert workers or caught.value.__cause__ is error
    (batch,) = loader.eval_loader(Samples(Toy(4, change), skip=True), 4, workers=workers)
    assert batch["error"] == ["", "", f"Sample 2: {text}", ""]


@pytest.mark.parametrize("error", [TypeError("'NoneType' is no number"), KeyError("7.png"), PeculiarError("a.txt", 3)])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("skip", [False, True])
def test_a_programs_errors_stay_what_they_are_and_name_the_sample(error: Exception, workers: int, skip: bool) -> None:
    def change(index: int, sample: Sample) -> None:
        if index == 2:
            raise error

    # PyTorch cannot build a PeculiarError again in the main process, so it raises a RuntimeError.
    kind = RuntimeError if workers and isinstance(error, PeculiarError) else type(error)
    with pytest.raises(kind) as caught:
        take(loader.eval_loader(Samples(Toy(change=change), skip=skip), 1, workers=workers), 5)
    told = "".join(traceback.format_exception(caught.value)).replace("\\n", "\n")
    assert "the data set read the sample 'Sample 2' (index 2)" in told
    assert str(error) in told


def test_a_full_disk_is_no_fault_of_the_sample() -> None:
    def change(index: int, sample: Sample) -> None:
        if index == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"Sample 2: .*No space left"):
        take(loader.eval_loader(Samples(Toy(change=change), skip=True), 1), 5)


# ---- samples that cannot be read


def damage(*broken: int):
    def change(index: int, sample: Sample) -> None:
        if index in broken:
            raise BadSampleError(f"{index}.png is damaged")

    return change


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_named(workers: int) -> None:
    with pytest.raises(BadSampleError, match=r"2\.png is damaged"):
        take(eval_loader(Toy(change=damage(2)), 1, workers), 5)


def test_a_bad_sample_is_left_out_if_asked() -> None:
    """It becomes a black image without labels, and the batch contains its message."""
    samples = Samples(Toy(4, damage(0, 2)), skip=True)
    assert samples.image_size == (WIDTH, HEIGHT)
    (batch,) = loader.eval_loader(samples, 4)
    assert batch["error"] == ["0.png is damaged", "", "2.png is damaged", ""]
    whole = next(iter(eval_loader(Toy(4), batch_size=4)))
    for i in range(4):
        for name, (shape, dtype, invalid) in FORMATS.items():
            expected = torch.full(shape, invalid, dtype=dtype) if i in (0, 2) else whole["targets"][name][i]
            torch.testing.assert_close(batch["targets"][name][i], expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(batch["image"][i], torch.zeros_like(batch["image"][i]) if i in (0, 2) else whole["image"][i])


@pytest.mark.parametrize(
    "spoilt",
    [
        spoil("image", torch.zeros(3, 5, 6)),
        spoil("image", torch.full((3, 4, 6), float("nan"))),
        spoil("classes", torch.full((4, 6), 3)),
        spoil("distance", torch.zeros(4, 6)),
    ],
)
def test_samples_out_of_format_are_left_out_alike(spoilt) -> None:
    (batch,) = loader.eval_loader(Samples(Toy(4, spoilt), skip=True), 4)
    assert [bool(error) for error in batch["error"]] == [False, False, True, False]
    assert batch["error"][2].startswith("Sample 2: the ")


def test_other_errors_are_never_skipped() -> None:
    samples = Samples(Toy(change=spoil("nmber", torch.zeros(1))), skip=True)
    with pytest.raises(ValueError, match="'nmber' is not among"):
        samples[0, 2]


def test_a_data_set_of_which_nothing_can_be_read() -> None:
    with pytest.raises(ValueError, match=r"None of the 3 samples can be read\. The last error: 2\.png is damaged"):
        Samples(Toy(3, damage(0, 1, 2)), skip=True)


def test_targets_of_pixels_come_at_their_own_size() -> None:
    plain = Samples(Toy())[0, 1]
    small = Samples(Toy(), Augment(TARGETS, flip=1.0), target_size=(3, 2))[0, 1]
    assert small["image"].shape == plain["image"].shape
    rows, columns = torch.tensor([[1], [3]]), torch.tensor([1, 3, 5])  # of 4 and 6: those with the nearest centres
    assert torch.equal(small["targets"]["classes"], plain["targets"]["classes"].flip(-1)[rows, columns])
    assert small["targets"]["distance"].shape == (1, 2, 3)
    assert small["targets"]["surface"].shape == (3, 2, 3)
    assert torch.equal(small["targets"]["number"], plain["targets"]["number"])


def test_every_probe_is_checked_at_once() -> None:
    class Probed(Toy):
        def probes(self):
            return (0, 7)

    Samples(Toy(change=damage(7)))
    with pytest.raises(BadSampleError, match=r"7\.png"):
        Samples(Probed(change=damage(7)))


def test_each_sample_has_its_own_camera() -> None:
    class Cameras(Toy):
        def camera_of(self, index: int):
            return (1, 1, 0.5, 0.5) if index % 2 else None

    samples = Samples(
        Cameras(change=lambda index, sample: index or sample["targets"].pop("surface")), Augment(TARGETS, scale=[2.0])
    )
    samples[0, 1]
    with pytest.raises(ValueError, match="depends on the camera"):
        samples[0, 2]


@pytest.mark.parametrize(
    ("options", "asked"),
    [({"scale": [1.0]}, []), ({"scale": [2.0], "compat": "mtan"}, []), ({"scale": [2.0]}, [1, 2])],
)
def test_the_camera_is_asked_for_only_where_something_is_turned(options: dict, asked: list[int]) -> None:
    class Counting(Toy):
        def camera_of(self, index: int):
            indices.append(index)
            return self.camera

    indices: list[int] = []
    samples = Samples(Counting(), Augment(TARGETS, flip=0.5, **options))
    indices.clear()
    for index in (1, 2):
        samples[0, index]
    assert indices == asked


def test_a_data_set_that_does_not_say_its_targets_is_named():
    dataset = Toy()
    del dataset.targets
    with pytest.raises(ValueError, match=r"Toy does not say which targets .* Write self\.targets = "):
        Samples(dataset)
