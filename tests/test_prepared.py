"""The fast format: it returns every sample bit for bit, and after any interruption no file is half written."""

import errno
import itertools
import json
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader

from mtlkit.data import prepared as prepared_module
from mtlkit.data.blocks import Block, narrow, open_block, widen
from mtlkit.data.dataset import DATASETS, BadSampleError, Dataset, Sample, Target
from mtlkit.data.loader import eval_loader
from mtlkit.data.manifest import damaged
from mtlkit.data.prepare import PROGRESS, prepare_dataset
from mtlkit.data.prepared import Prepared, is_prepared, read_manifest
from mtlkit.data.samples import Samples
from mtlkit.target import KINDS, Kind

HEIGHT, WIDTH, NAN = 4, 6, float("nan")
SOURCE = {"name": "toy", "options": {"seed": 0}}
TARGETS = {
    "classes": Target("segmentation", tuple(f"class {i}" for i in range(300))),
    "distance": Target("depth"),
    "surface": Target("normals"),
    "image": Target("reconstruction", ("red", "green")),  # the format itself uses this name too
    "flags": Target("multilabel", ("p", "q", "r")),
    "label": Target("classification", ("a", "b")),
    "number": Target("regression", ("n",)),
}
FORK = multiprocessing.get_context("fork")


class Toy(Dataset):
    """Sample i is random, from a generator with the seed i. `change(index, sample)` may change it."""

    targets = TARGETS
    licence = "For tests only."
    notes = ("made up",)
    camera = (1.0, 1.5, 0.5, 0.5)

    def __init__(self, length: int = 10, change: Callable[[int, Sample], None] | None = None) -> None:
        self.length, self.change = length, change
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        self.asked.append(index)
        draw = torch.Generator().manual_seed(index)
        size = (HEIGHT, WIDTH)
        targets = {
            "classes": torch.randint(-1, 3, size, generator=draw),
            "distance": torch.rand(1, *size, generator=draw) + 1,
            "surface": torch.nn.functional.normalize(torch.randn(3, *size, generator=draw), dim=0),
            "image": torch.rand(2, *size, generator=draw),
            "flags": torch.tensor([1.0, NAN, 0.0]),
            "label": torch.tensor(index % 3 - 1),
            "number": torch.tensor([index + 0.1]),
        }
        image = torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8) / 255
        sample: Sample = {"image": image, "targets": targets}
        if self.change:
            self.change(index, sample)
        return sample

    def label(self, index: int) -> str:
        return f"toy/{index}.png"


def spoil(index: int, sample: Sample) -> None:
    """Removes labels in every possible way, and sets values that need wider types."""
    targets = sample["targets"]
    for position, name in enumerate(TARGETS):
        if (index + position) % 4 == 3:
            if index % 2:
                del targets[name]
            else:
                targets[name] = None
    if index == 5:
        sample["image"] = torch.linspace(0, 1, 3 * HEIGHT * WIDTH).view(3, HEIGHT, WIDTH)
        targets["classes"] = torch.full((HEIGHT, WIDTH), 299)
    if index == 6:
        targets["distance"] = torch.zeros(1, HEIGHT, WIDTH)
        targets["number"] = torch.tensor([NAN])
        targets["flags"] = torch.tensor([1.0, 0.0, 0.0])


def same_bits(one: Tensor, other: Tensor) -> bool:
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    return one.numpy().tobytes() == other.numpy().tobytes()


def assert_same(one: Dataset, other: Dataset) -> None:
    assert len(one) == len(other)
    for i in range(len(one)):
        expected = {name: value for name, value in other[i]["targets"].items() if value is not None}
        assert same_bits(one[i]["image"], other[i]["image"]), i
        assert one[i]["targets"].keys() == expected.keys()
        for name, value in expected.items():
            assert same_bits(one[i]["targets"][name], value), (i, name)
        assert one.camera_of(i) == other.camera_of(i)


def make(out: Path, train: Dataset | None = None, **options) -> Path:
    splits = {"train": train or Toy(), "val": Toy(3)}
    return prepare_dataset(splits, out, SOURCE, **{"block_bytes": 2000, "progress": False} | options)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def blocks(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name.endswith("safetensors")}


def dtypes(out: Path, tensor: str) -> list[str]:
    found = []
    for path in sorted((out / "train").iterdir()):
        with safe_open(path, "pt") as file:
            found.append(file.get_slice(tensor).get_dtype())
    return found


def edit(out: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((out / "manifest.json").read_text())
    change(values)
    (out / "manifest.json").write_text(json.dumps(values))


# ---- values


FLOATS = [0.0, -0.0, 1.0, 2.0, 127.0, 128.0, -1.0, 0.5, 1e-45, 3e38, math.inf, -math.inf, NAN, 51 / 255, 1 + 2**-23]


def test_narrow_floats_come_back_bit_for_bit() -> None:
    for pair in itertools.product(FLOATS, FLOATS):
        exact = torch.tensor(pair)
        assert same_bits(widen(narrow(exact), torch.float32), exact), pair


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (torch.tensor([1.0, 0.0, NAN]), torch.int8),
        (torch.tensor([127.0]), torch.int8),
        (torch.tensor([128.0]), torch.float16),
        (torch.tensor([-1.0]), torch.int16),
        (torch.tensor([-0.0]), torch.float16),
        (torch.tensor([0.0, 0.713, 32.767]), torch.int16),  # depth in millimetres
        (torch.tensor([0.713, 32.768]), torch.float32),
        (torch.tensor([0.713, NAN]), torch.float32),
        (torch.tensor([2.0**-12, -1.5]), torch.float16),
        (torch.tensor([1e5]), torch.float32),
        (torch.tensor([math.inf]), torch.float16),
        (torch.tensor([NAN]).view(torch.int32).bitwise_or(1).view(torch.float32), torch.float32),  # a NaN of other bits
        (torch.tensor([1.0] * 1000 + [0.1 + 2**-20]), torch.float32),
        (torch.tensor([0.2, 1.0]), torch.uint8),
        (torch.tensor([0.2, NAN]), torch.float32),
        (torch.tensor([0.2 + 2**-24]), torch.float32),
        (torch.tensor(-1), torch.int8),
        (torch.tensor([128]), torch.int16),
        (torch.tensor([-32769]), torch.int32),
        (torch.tensor([2**31]), torch.int64),
        (torch.tensor([0.5], dtype=torch.float64), torch.float64),
        (torch.tensor([True]), torch.bool),
    ],
)
def test_the_narrowest_type_that_is_exact(values: Tensor, dtype: torch.dtype) -> None:
    stored = narrow(values)
    assert stored.dtype == dtype
    assert same_bits(widen(stored, values.dtype), values)


def test_every_value_of_a_picture_is_a_byte() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for picture in (levels / 255, torch.from_numpy(np.arange(256, dtype=np.float32) / np.float32(255))):
        assert torch.equal(narrow(picture), levels)
        assert same_bits(widen(levels, torch.float32), picture)


# ---- round trip


@pytest.mark.parametrize("change", [None, spoil], ids=["whole", "spoilt"])
@pytest.mark.parametrize("block_bytes", [1, 2000, 10**9])
def test_samples_come_back_bit_for_bit(tmp_path: Path, change, block_bytes: int) -> None:
    toy = Toy(10, change)
    make(tmp_path / "out", toy, block_bytes=block_bytes)
    data = Prepared(tmp_path / "out")
    assert_same(data, toy)
    assert_same(Prepared(tmp_path / "out", "val"), Toy(3))
    middle = 3 if change else 4  # without some of the labels, more samples fit in a block
    assert len(list((tmp_path / "out" / "train").iterdir())) == {1: 10, 2000: middle, 10**9: 1}[block_bytes]
    assert dict(data.targets) == TARGETS
    assert list(data.targets) == list(TARGETS)
    assert (data.licence, data.notes[1:], data.camera) == (toy.licence, ["made up"], toy.camera)
    assert data.notes[0].startswith("Prepared from toy on 20")


def test_what_loaders_give_is_the_same(tmp_path: Path) -> None:
    toy = Toy(10, lambda index, sample: sample["targets"].pop("classes") if index % 2 else None)
    make(tmp_path / "out", toy)
    loaders = (eval_loader(Samples(data), batch_size=4) for data in (Prepared(tmp_path / "out"), toy))
    for one, other in zip(*loaders, strict=True):
        image, targets = one["finish"](one["image"], one["targets"])
        found = {"image": image, "targets": targets}
        torch.testing.assert_close(found, other, rtol=0, atol=0, equal_nan=True)


def test_each_block_has_the_types_that_it_needs(tmp_path: Path) -> None:
    make(tmp_path / "out", Toy(10, spoil), block_bytes=1000)
    assert dtypes(tmp_path / "out", "image") == ["U8", "U8", "F32", "U8", "U8"]
    assert dtypes(tmp_path / "out", "target.classes") == ["I8", "I8", "I16", "I8", "I8"]
    assert set(dtypes(tmp_path / "out", "target.flags")) == {"I8"}
    whole = make(tmp_path / "one", Toy(10, spoil), block_bytes=10**9)
    with safe_open(whole / "train" / "000000.safetensors", "pt") as file:
        assert "present.image" not in file.keys()  # noqa: SIM118 (not a mapping)
        assert file.get_tensor("present.target.classes").tolist() == [i % 4 != 3 for i in range(10)]
        assert file.get_tensor("target.classes").shape == (8, HEIGHT, WIDTH)


def test_samples_are_copies(tmp_path: Path) -> None:
    data = Prepared(make(tmp_path / "out", Toy()))
    sample = data[3]
    for value in (sample["image"], *sample["targets"].values()):
        value.zero_()
    assert_same(data, Toy())


class Own(Toy):
    targets = TARGETS | {"own": Target("a_kind_of_their_own")}

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample["targets"]["own"] = torch.tensor([[index, 0.1]], dtype=torch.float64)
        return sample


def test_a_kind_of_the_users_own(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="'own' is of the kind 'a_kind_of_their_own', which is not registered"):
        prepare_dataset({"train": Own()}, tmp_path / "out", SOURCE, progress=False)

    @KINDS.register("a_kind_of_their_own")
    class Theirs(Kind):
        dtype = torch.float64

        def shape(self, height: int, width: int) -> tuple[int, ...]:
            return 1, 2

    out = prepare_dataset({"train": Own()}, tmp_path / "out", SOURCE, progress=False)
    assert_same(Prepared(out), Own())


class Cameras(Toy):
    def camera_of(self, index: int):
        return {4: None, 5: (np.float32(0.1), 0.2, 0.3, 0.4)}.get(index, self.camera)


def test_cameras_of_samples(tmp_path: Path) -> None:
    data = Prepared(make(tmp_path / "out", Cameras()))
    assert [data.camera_of(i) for i in (0, 4, 5)] == [Toy.camera, None, (float(np.float32(0.1)), 0.2, 0.3, 0.4)]
    assert data.camera == Toy.camera
    with safe_open(tmp_path / "out" / "train" / "000000.safetensors", "pt") as file:
        assert "camera" not in file.keys()  # noqa: SIM118 (not a mapping)


def test_indices_labels_and_limit(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    data = Prepared(out, limit=4)
    assert len(data) == 4
    assert len(Prepared(out, limit=99)) == 10
    assert data.label(3) == f"{out}/train/000001.safetensors, row 0"
    assert same_bits(data[-1]["image"], Toy()[3]["image"])
    with pytest.raises(IndexError):
        data[4]
    assert DATASETS.get("prepared") is Prepared
    assert len(DATASETS.build("prepared", root=str(out), split="val", size=[WIDTH, HEIGHT])) == 3


def test_few_blocks_stay_mapped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prepared_module, "OPEN", 2)
    data = Prepared(make(tmp_path / "out", block_bytes=1))
    assert_same(data, Toy())
    folder = str(tmp_path / "out" / "train")
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if folder in line]
    assert {line[-19:] for line in maps} == {"/000008.safetensors", "/000009.safetensors"}
    assert not [name for name in os.listdir("/proc/self/fd") if folder in _target(name)]


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


# ---- workers


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_one_process_reads(tmp_path: Path, method: str) -> None:
    data = Prepared(make(tmp_path / "out", Toy(10, spoil)))
    data[0]  # a block is open before the workers start
    assert len(pickle.dumps(data)) == len(pickle.dumps(Prepared(tmp_path / "out")))
    workers = 2 if method == "fork" else 1  # spawned workers take seconds to start
    loader = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=method)
    for i, sample in enumerate(loader):
        assert same_bits(sample["image"], data[i]["image"])
        for name, value in data[i]["targets"].items():
            assert same_bits(sample["targets"][name], value)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_workers_write_what_one_process_writes(tmp_path: Path, on_error: str) -> None:
    change = fail(4, 7) if on_error == "skip" else spoil
    parts = [blocks(make(tmp_path / str(n), Toy(10, change), workers=n, on_error=on_error)) for n in (0, 1, 2)]
    assert parts[0] == parts[1] == parts[2]
    assert len(parts[0]) >= 4


# ---- interruptions


def killed(work: Callable[[], object]) -> int | None:
    """Runs `work` in its own process. Returns the exit code, which is negative for a signal."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def kill_at_fsync(out: Path, number: int, before: bool) -> None:
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(0)
        if before and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync
    make(out, Toy(10, spoil))


@pytest.mark.parametrize("before", [True, False])
def test_killed_anywhere_it_goes_on_and_gives_the_same_files(tmp_path: Path, before: bool) -> None:
    expected = contents(make(tmp_path / "expected", Toy(10, spoil)))
    out, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(out, ignore_errors=True)
        code = killed(lambda number=number: kill_at_fsync(out, number, before))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        whole = blocks(out)
        assert whole.items() <= expected.items()  # no file under its final name is half written
        finished = (out / "manifest.json").exists()  # killed after the last file had its name
        assert is_prepared(out) == finished
        toy = Toy(10, spoil)
        found = contents(out if finished else make(out, toy))
        if finished:
            del found[PROGRESS]  # which is of no more use
        assert without_date(found) == without_date(expected)
        if len(whole) > 1:
            assert 1 not in toy.asked  # finished blocks are not read again
    # One kill for the settings. A file and its folder are synced one after the other: two kills for each of four
    # blocks, and one for its line of progress; two for the manifest. The last run is not killed.
    assert number == 1 + 3 * 4 + 2 + 1


def without_date(found: dict[str, bytes]) -> dict[str, object]:
    return found | {"manifest.json": json.loads(found["manifest.json"]) | {"date": ""}}


class Suicidal(Toy):
    def __getitem__(self, index: int) -> Sample:
        if index == 7:  # the worker kills the main process
            os.kill(os.getppid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_killed_with_workers_it_can_go_on_at_once(tmp_path: Path) -> None:
    assert killed(lambda: make(tmp_path / "out", Suicidal(), workers=2)) == -signal.SIGKILL
    make(tmp_path / "out")
    assert blocks(tmp_path / "out") == blocks(make(tmp_path / "expected"))


@pytest.mark.parametrize("lost", [1, 30, 200])
def test_a_torn_line_of_progress(tmp_path: Path, lost: int) -> None:
    with pytest.raises(BadSampleError):
        make(tmp_path / "out", Toy(10, fail(9)))
    progress = tmp_path / "out" / PROGRESS
    progress.write_bytes(progress.read_bytes()[:-lost])
    with pytest.raises(BadSampleError):  # goes on, and stops again
        make(tmp_path / "out", Toy(10, fail(9)))
    assert blocks(make(tmp_path / "out")) == blocks(make(tmp_path / "expected"))


def test_progress_that_is_no_progress(tmp_path: Path) -> None:
    with pytest.raises(BadSampleError):
        make(tmp_path / "out", Toy(10, fail(9)))
    progress = tmp_path / "out" / PROGRESS
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text(lines[0] + '{"split": "train"}\n')
    with pytest.raises(ValueError, match=r"progress.jsonl is damaged: block.bytes: missing.*into another folder"):
        make(tmp_path / "out")
    progress.write_text(lines[0].replace('"version": 2', '"version": 9'))
    with pytest.raises(ValueError, match=r"progress.jsonl is of version 9 of the format"):
        make(tmp_path / "out")


def test_a_finished_folder_is_left_alone(tmp_path: Path, capfd) -> None:
    out = make(tmp_path / "out")
    before = times(out)
    toy = Toy()
    assert make(out, toy, progress=True) == out
    assert times(out) == before
    assert toy.asked == []
    assert f"{out} is complete: 10 train, 3 val samples, and all checksums are right." in capfd.readouterr().err


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_damaged_blocks_are_found_and_made_again(tmp_path: Path, finished: bool, damage: str) -> None:
    expected = blocks(make(tmp_path / "expected", Toy(10, spoil)))
    out = tmp_path / "out"
    make(out, Toy(10, spoil))
    if not finished:
        shutil.rmtree(out)
        with pytest.raises(BadSampleError):
            make(out, Toy(10, lambda index, sample: fail(9)(index, sample) or spoil(index, sample)))
    path = out / "train" / "000001.safetensors"
    harm(path, damage)
    others = times(out / "train")
    if finished:
        assert damaged(out) == ["train/000001.safetensors"]
    toy = Toy(10, spoil)
    make(out, toy)
    assert blocks(out) == expected
    changed = {name for name, time in times(out / "train").items() if others.get(name) != time}
    assert changed == ({path.name} if finished else {path.name, "000002.safetensors"})
    assert not (out / PROGRESS).exists()
    assert damaged(out) == []


def times(out: Path) -> dict[str, tuple[int, int]]:
    found = {str(path.relative_to(out)): path.stat() for path in out.rglob("*")}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


def harm(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink()
    if damage != "remove":
        path.write_bytes(data if damage == "flip" else data[:-5])


def test_a_damaged_block_of_a_source_that_has_changed(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    harm(out / "train" / "000001.safetensors", "flip")
    before = contents(out)
    with pytest.raises(ValueError, match=r"000001.safetensors is missing or damaged, and the source gives other sampl"):
        make(out, Toy(10, spoil))
    after = contents(out)
    assert after.pop(PROGRESS) == b""
    assert after == before


# ---- reading damaged files


def test_damaged_blocks_are_named(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    path = out / "train" / "000001.safetensors"
    whole = path.read_bytes()
    harm(path, "flip")
    assert len(Prepared(out)[3]["targets"]) == 7  # reading does not notice this damage; `damaged` does
    data = Prepared(out)
    data[0]
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"000001.safetensors has \d+ bytes, expected \d+. Run prepare again"):
        Prepared(out)
    with pytest.raises(BadSampleError, match=r"000001.safetensors is damaged: it has \d+ bytes, .*Run prepare again"):
        data[3]
    for header in (b"\0" * len(whole), whole[:20] + b"?" * (len(whole) - 20), whole.replace(b'"image"', b'"imago"')):
        path.write_bytes(header)
        with pytest.raises(BadSampleError, match=r"000001.safetensors is damaged: .*Run prepare again"):
            Prepared(out)[3]
    path.write_bytes((out / "train" / "000000.safetensors").read_bytes())
    edit(out, lambda values: values["splits"]["train"]["blocks"][1].update(count=2, skipped=["x"]))
    with pytest.raises(
        BadSampleError, match=r"000001.safetensors is damaged: image has the shape .*, expected 2 samples"
    ):
        Prepared(out)[3]
    path.unlink()
    with pytest.raises(BadSampleError, match=r"000001.safetensors is missing. Run prepare again"):
        data[3]
    with pytest.raises(FileNotFoundError, match=r"train lacks 1 of 4 blocks, first 000001.safetensors. Run prepare"):
        Prepared(out)
    assert len(Prepared(out, "val")) == 3
    shutil.rmtree(out / "train")
    with pytest.raises(FileNotFoundError, match=r"train lacks 4 of 4 blocks"):
        Prepared(out)


def change_block(**values):
    return lambda manifest: manifest["splits"]["train"]["blocks"][1].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=3), "manifest.json is of version 3 of the format, and this .* up to version 2"),
        (lambda m: m.pop("version"), "is of version None of the format"),
        (lambda m: m.update(format="zip"), "manifest.json does not belong to a prepared data set"),
        (lambda m: m.pop("targets"), "manifest.targets: missing"),
        (lambda m: m.update(target={}), "manifest.target: unknown key .*Did you mean 'targets'"),
        (lambda m: m["targets"].update(x=1), "manifest.targets.x: expected a mapping of keys, .*found 1"),
        (lambda m: m["targets"]["label"].pop("type"), "manifest.targets.label.type: missing"),
        (lambda m: m["splits"].update(trian=m["splits"].pop("train")), "splits.trian: unknown split.*mean 'train'"),
        (lambda m: m["splits"].pop("val"), r"\{'train': 10\} samples, but the recipe has \{'train': 10, 'val': 3\}"),
        (lambda m: m["splits"]["train"].update(size=[0, 4]), r"splits.train.size: expected \[an integer >= 1"),
        (change_block(count=4), "'train': 11, 'val': 3} samples, but"),
        (change_block(bytes="many"), "splits.train.blocks.1.bytes: expected an integer >= 1, found 'many'"),
        (change_block(file="../../x"), "blocks.1: expected the file 'train/000001.safetensors' and its .*'../../x'"),
        (change_block(sha256="/etc/x"), "blocks.1: expected the file .* and its SHA-256, found .*'/etc/x'"),
    ],
)
def test_manifests_are_checked(tmp_path: Path, change, message: str) -> None:
    out = make(tmp_path / "out")
    edit(out, change)
    with pytest.raises(ValueError, match=message) as error:
        Prepared(out)
    assert str(out / "manifest.json") in str(error.value)


def test_no_manifest_and_half_a_manifest(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    assert is_prepared(out)
    assert is_prepared(str(out))
    assert read_manifest(out).recipe.samples == {"train": 10, "val": 3}
    (out / "manifest.json").write_text((out / "manifest.json").read_text()[:500])
    with pytest.raises(ValueError, match=r"manifest.json is damaged: .*Prepare the data set again"):
        Prepared(out)
    (out / "manifest.json").unlink()
    assert not is_prepared(out)
    assert not is_prepared(out / "train" / "000000.safetensors")
    assert not is_prepared(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"not a prepared data set: there is no manifest.*Run prepare again"):
        Prepared(out)
    with pytest.raises(FileNotFoundError, match=r"data.root=.*nowhere does not exist; expected a folder with manifest"):
        Prepared(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"data.root is not set: name the folder of the data set 'prepared'"):
        Prepared(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "has no split 'test'. Known: train, val"),
        ({"split": "trian"}, "has no split 'trian'. Did you mean 'train'"),
        ({"size": (12, 8)}, r"prepared at size \[6, 4\], got data.size=\[12, 8\]. Leave data.size out, or prepare toy"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"source": {"name": "toys"}}, 'prepared with other settings: name is "toy" there and "toys" now'),
        (
            {"source": {"name": "toy", "options": {"seed": 1}}},
            "other settings: options.seed is 0 there and 1 now. Use those, or prepare the data set",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, options: dict, message: str) -> None:
    out = make(tmp_path / "out")
    Prepared(out, source=SOURCE)
    with pytest.raises(ValueError, match=message):
        Prepared(out, **options)


def test_options_that_are_defaults_need_not_be_said(tmp_path: Path) -> None:
    source = {"name": "multimnist", "dataset_seed": 0, "version": 3, "root": "/a"}
    prepare_dataset({"train": Toy()}, tmp_path / "out", source, progress=False)
    for same in ({"name": "multimnist"}, {"name": "multimnist", "dataset_seed": 0, "root": "/b", "size": [1, 2]}):
        Prepared(tmp_path / "out", source=same)
    with pytest.raises(ValueError, match="other settings: dataset_seed is 0 there and 1 now"):
        Prepared(tmp_path / "out", source={"name": "multimnist", "dataset_seed": 1})
    prepare_dataset({"train": Toy()}, tmp_path / "other", source | {"dataset_seed": 1}, progress=False)
    with pytest.raises(ValueError, match="other settings: dataset_seed is 1 there and 0 now"):
        Prepared(tmp_path / "other", source={"name": "multimnist"})


# ---- errors while preparing


def fail(*indices: int):
    def change(index: int, sample: Sample) -> None:
        if index in indices:
            raise BadSampleError(f"toy/{index}.png is damaged.")

    return change


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_stops_it_by_name(tmp_path: Path, workers: int) -> None:
    with pytest.raises(BadSampleError, match=r"^toy/7.png is damaged. Preparing has stopped; .*data.on_error=skip"):
        make(tmp_path / "out", Toy(10, fail(7)), workers=workers)
    assert len(blocks(tmp_path / "out")) == 2
    out = make(tmp_path / "out", Toy(10, fail(7)), on_error="skip")  # goes on after the stop
    assert len(Prepared(out)) == 9


@pytest.mark.parametrize("missing", [(0,), (2,), (3,), (4, 5, 6), (9,), (0, 1, 2, 3, 8, 9)])
def test_samples_that_are_left_out_are_recorded(tmp_path: Path, missing: tuple[int, ...]) -> None:
    out = make(tmp_path / "out", Toy(10, fail(*missing)), on_error="skip")
    data, kept = Prepared(out), [i for i in range(10) if i not in missing]
    assert len(data) == len(kept)
    for i, index in enumerate(kept):
        assert same_bits(data[i]["image"], Toy()[index]["image"])
    names = [f"toy/{i}.png" for i in missing]
    assert [name for block in read_manifest(out).splits["train"].blocks for name in block.skipped] == names
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    assert data.notes[-1] == f"{len(names)} samples could not be read and were left out: {shown}"
    for path in sorted((out / "train").iterdir()):
        expected = path.read_bytes()
        path.unlink()
        make(out, Toy(10, fail(*missing)), on_error="skip")
        assert path.read_bytes() == expected


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    def grow(index: int, sample: Sample) -> None:
        if index == 4:
            sample["image"] = torch.zeros(3, 5, 6)

    with pytest.raises(ValueError, match=r"^toy/4.png: the image must be .*, found float32 \(3, 5, 6\).*data.size"):
        make(tmp_path / "out", Toy(10, grow))


class Wrong(Toy):
    targets = TARGETS | {"label": Target("classification", ("a", "b", "c"))}


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({}, {}, "There is no split to prepare"),
        ({"trian": Toy()}, {}, "There is no split 'trian'. Did you mean 'train'"),
        ({"train": Toy(0)}, {}, "no samples"),
        ({"train": Toy()}, {"block_bytes": 0}, "block_bytes must be at least 1, got 0"),
        ({"train": Toy(), "val": Wrong()}, {}, "The splits 'train' and 'val' have different targets"),
        ({"train": Toy(4, fail(0, 1, 2, 3))}, {"on_error": "skip"}, "None of the 4 samples can be read"),
        ({"train": Toy(4, lambda i, sample: sample.update(targets={"x": 1}))}, {}, "its target 'x' is not among"),
    ],
)
def test_what_cannot_be_prepared(tmp_path: Path, splits: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_dataset(splits, tmp_path / "out", SOURCE, progress=False, **options)
    assert not blocks(tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "out"
    if finished:
        make(out)
    else:
        with pytest.raises(BadSampleError):
            make(out, Toy(10, fail(7)))
    before = contents(out)
    for splits, source, block_bytes, message in (
        ({"train": Toy(), "val": Toy(3)}, SOURCE | {"options": {"seed": 1}}, 2000, "source.options.seed is 0 there"),
        ({"train": Toy(), "val": Toy(3)}, SOURCE | {"version": 2}, 2000, "source.version is null there and 2 now"),
        ({"train": Toy(), "val": Toy(3)}, SOURCE, 2001, "block_bytes is 2000 there and 2001 now"),
        ({"train": Toy(9)}, SOURCE, 2000, "samples.train is 10 there and 9 now; samples.val is 3 there and null now"),
    ):
        with pytest.raises(ValueError, match=f"{out} was begun with other settings: {message}.*another folder"):
            prepare_dataset(splits, out, source, block_bytes=block_bytes, progress=False)
    assert contents(out) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.png").touch()
    with pytest.raises(ValueError, match=r"holds other files, train among them. Prepare into a new or empty folder"):
        make(tmp_path)
    assert os.listdir(tmp_path) == ["train"]
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(ValueError, match=r"holds other files"):
        make(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    reached, leave = FORK.Event(), FORK.Event()

    def wait(index: int, sample: Sample) -> None:
        if index == 5:
            reached.set()
            leave.wait()

    process = FORK.Process(target=lambda: make(tmp_path / "out", Toy(10, wait), workers=0))
    process.start()
    while not reached.wait(0.1):
        assert process.is_alive()
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"Another process prepares a data set in .*out. Wait until it has ended"):
        make(tmp_path / "out")
    assert contents(tmp_path / "out") == before
    leave.set()
    process.join()
    assert process.exitcode == 0
    assert blocks(tmp_path / "out") == blocks(make(tmp_path / "expected"))
    assert make(tmp_path / "out")


def test_a_full_disk(tmp_path: Path) -> None:
    expected = blocks(make(tmp_path / "expected"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 100, 1000, 2500):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(OSError, match=r"cannot be written: (File too large|No space left)") as error:
                make(tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(tmp_path / "out") in str(error.value)
        assert blocks(tmp_path / "out").items() <= expected.items()
        assert not [name for name in contents(tmp_path / "out") if name.endswith(".tmp")]
    assert blocks(make(tmp_path / "out")) == expected


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/out cannot be written: Not a directory"):
        make(tmp_path / "file" / "out")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match=r"out cannot be written: Read-only file system"):
        make(tmp_path / "out")


def test_what_is_told(tmp_path: Path, capfd, monkeypatch) -> None:
    make(tmp_path / "silent")
    assert capfd.readouterr() == ("", "")
    make(tmp_path / "plain", progress=True)
    told = capfd.readouterr()
    assert told.out == ""
    first, last = told.err.splitlines()
    assert first == "Preparing 13 samples ..."
    assert last.startswith(f"{tmp_path / 'plain'} is complete: 10 train, 3 val samples; 13 read now, ")
    assert last.endswith(" samples/s.")
    harm(tmp_path / "plain" / "val" / "000000.safetensors", "flip")
    make(tmp_path / "plain", progress=True)
    assert "damaged blocks are made again: val/000000.safetensors" in capfd.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    make(tmp_path / "bar", progress=True)
    assert "samples/s" in capfd.readouterr().err.partition("is complete")[0]


# ---- URLs


@pytest.fixture
def url(tmp_path: Path):
    """A prepared data set in fsspec's memory file system."""
    out = make(tmp_path / "remote")
    memory = fsspec.filesystem("memory")
    memory.put(str(out), "/bucket/toy", recursive=True)
    yield "memory://bucket/toy"
    memory.rm("/bucket", recursive=True)


def test_a_url_is_fetched_once(tmp_path: Path, url: str, monkeypatch) -> None:
    cache = tmp_path / "cache"
    assert is_prepared(url)
    assert not is_prepared("memory://bucket/other")
    data = Prepared(url, cache=str(cache))
    assert not cache.exists()
    assert_same(data, Toy())
    assert data.label(3) == "memory://bucket/toy/train/000001.safetensors, row 0"
    assert len(list(cache.glob("*.safetensors"))) == 4
    again = Prepared(url, cache=str(cache))
    fsspec.filesystem("memory").rm("/bucket/toy/train", recursive=True)
    assert_same(again, Toy())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert_same(Prepared(f"file://{tmp_path}/remote/", "val"), Toy(3))
    assert len(list((tmp_path / "home" / "mtlkit" / "prepared").glob("*.safetensors"))) == 1


def no_credentials(*_: object) -> None:
    raise RuntimeError("No credentials.")


def test_a_url_with_damaged_and_missing_files(tmp_path: Path, url: str, monkeypatch) -> None:
    memory, cache = fsspec.filesystem("memory"), tmp_path / "cache"
    data = Prepared(url, cache=str(cache))
    path = "/bucket/toy/train/000001.safetensors"
    whole = memory.cat_file(path)
    for wrong in (whole[:-1], whole[:-1] + b"?"):
        memory.pipe_file(path, wrong)
        with pytest.raises(BadSampleError, match=r"memory://bucket/toy/train/000001.safetensors is not what its manif"):
            data[3]
    memory.rm(path)
    with pytest.raises(BadSampleError, match=r"memory://bucket/toy/train/000001.safetensors is missing"):
        data[3]
    assert not list(cache.glob("*.safetensors"))
    memory.pipe_file(path, whole)
    assert same_bits(data[3]["image"], Toy()[3]["image"])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"train/000000.safetensors could not be fetched into .*file/x, .*data.cache"):
        Prepared(url, cache=str(tmp_path / "file" / "x"))[0]
    monkeypatch.setattr(type(memory), "cat_file", no_credentials)
    with pytest.raises(OSError, match=r"memory://bucket/toy/manifest.json cannot be read: No credentials"):
        Prepared(url)
    with pytest.raises(OSError, match=r"000002.safetensors could not be fetched into .*: memory:.*: No credentials"):
        data[6]
    monkeypatch.undo()
    memory.rm("/bucket/toy/manifest.json")
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/toy is not a prepared data set"):
        Prepared(url)
    with pytest.raises(ValueError, match=r"data.root=gopher://x cannot be read: .*gopher"):
        Prepared("gopher://x")


def test_workers_fetch_from_a_url(tmp_path: Path) -> None:
    make(tmp_path / "remote")
    data = Prepared(f"file://{tmp_path}/remote", cache=str(tmp_path / "cache"))
    for i, sample in enumerate(DataLoader(data, batch_size=None, num_workers=2)):
        assert same_bits(sample["image"], Toy()[i]["image"])


def test_processes_that_want_the_same_block_fetch_it_once(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path / "remote")
    log, read = tmp_path / "log", prepared_module.read_bytes

    def slowly(root: str, name: str) -> bytes:
        with open(log, "a") as file:
            file.write(f"{name}\n")
        time.sleep(0.2)
        return read(root, name)

    def work() -> None:
        data = Prepared(f"file://{tmp_path}/remote", cache=str(tmp_path / "cache"))
        assert all(same_bits(data[i]["image"], Toy()[i]["image"]) for i in range(5))

    monkeypatch.setattr(prepared_module, "read_bytes", slowly)
    processes = [FORK.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(log.read_text().split()) == ["train/000000.safetensors", "train/000001.safetensors"]
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("tensors", "dtypes", "message"),
    [
        ({"target.a": torch.zeros(3)}, {"image": "float32", "target.a": "float32"}, None),
        ({}, {"image": "float32"}, None),  # no sample of this block has the target
        ({}, {"image": "float32", "target.a": "float32"}, "it lacks target.a, which its head names"),
        ({"target.a": torch.zeros(3)}, {"image": "float32"}, "its head does not name target.a"),
        (
            {"target.a": torch.zeros(2)},
            {"image": "float32", "target.a": "float32"},
            "target.a has .*2.*, expected 3 sam",
        ),
        ({"target.a": torch.zeros(())}, {"image": "float32", "target.a": "float32"}, "target.a has .*, expected 3 sam"),
        (
            {"target.a": torch.zeros(1), "present.target.a": torch.tensor([True, True, False])},
            {"image": "float32", "target.a": "float32"},
            "expected 2 samples",
        ),
        (
            {"target.a": torch.zeros(1), "present.target.a": torch.tensor([1, 0])},
            {"image": "float32", "target.a": "float32"},
            "present.target.a is no list of 3|expected 1 samples",
        ),
    ],
)
def test_a_block_whose_tensors_do_not_belong_together(tmp_path: Path, tensors, dtypes, message) -> None:
    data = save({"image": torch.zeros(3, 3, 2, 2), **tensors}, {"dtypes": json.dumps(dtypes)})
    (tmp_path / "a.safetensors").write_bytes(data)
    block = Block("a.safetensors", 3, len(data), "", ())
    with nullcontext() if message is None else pytest.raises(BadSampleError, match=f"is damaged: .*{message}"):
        assert len(open_block(tmp_path / "a.safetensors", block).tensors["image"]) == 3
