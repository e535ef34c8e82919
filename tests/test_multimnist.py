"""The data set multimnist: how its samples are made, its files, and its errors."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from layouts.mnist import idx, write

from mtlkit.config.composition import compose
from mtlkit.data.dataset import DATASETS, Target
from mtlkit.datasets.multimnist import MultiMNIST

FIRST = [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # MNIST's first training labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "number", "part"), [("train", 0, slice(30)), ("val", 1, slice(30, 36)), ("test", 2, slice(12))]
)
def test_samples_follow_the_recipe(tmp_path: Path, split: str, number: int, part: slice) -> None:
    arrays = write(tmp_path / "MNIST" / "raw")
    file = "t10k" if split == "test" else "train"
    digits, labels = (arrays[f"{file}-{kind}-ubyte"][part] for kind in ("images-idx3", "labels-idx1"))
    data = MultiMNIST(tmp_path, split, dataset_seed=7)
    partners = np.random.Generator(np.random.PCG64([7, number])).integers(len(digits), size=len(digits))
    assert len(data) == len(digits)
    for i, j in enumerate(partners):
        canvas = [[0] * 36 for _ in range(36)]
        for digit, shift in ((digits[i], 0), (digits[j], 6)):
            for y in range(28):
                for x in range(28):
                    canvas[y + shift][x + shift] = max(canvas[y + shift][x + shift], int(digit[y, x]))
        small = [[canvas[(2 * y + 1) * 36 // 56][(2 * x + 1) * 36 // 56] for x in range(28)] for y in range(28)]
        sample = data[i]
        assert sample["image"].shape == (3, 28, 28)
        assert torch.equal(sample["image"], (torch.tensor(small, dtype=torch.float32) / 255).expand(3, 28, 28))
        lit = sum(value / 255 > 0.5 for row in small for value in row)
        left, right = int(labels[i]), int(labels[j])
        found = {name: value.tolist() for name, value in sample["targets"].items()}
        assert found.pop("density") == pytest.approx([100 * lit / 784])
        assert found == {"left": left, "right": right, "sum": [left + right], "product": [left * right]}


def test_formats_and_declared_targets(root: Path) -> None:
    data = DATASETS.build("multimnist", root=root)
    targets = data[0]["targets"]
    assert list(targets) == list(data.targets) == ["left", "right", "sum", "product", "density"]
    for name, target in data.targets.items():
        if target.type == "classification":
            assert (targets[name].shape, targets[name].dtype) == ((), torch.int64)
            assert target.classes == tuple("0123456789")
        else:
            assert (target.type, target.classes) == ("regression", (name,))
            assert (targets[name].shape, targets[name].dtype) == ((1,), torch.float32)


def test_parity_takes_the_place_of_the_product(root: Path) -> None:
    plain, data = MultiMNIST(root), DATASETS.build("multimnist", root=root, parity=True)
    assert data.targets["parity"] == Target("multilabel", ("odd",))
    assert {name: data.targets[name] for name in ("left", "right", "sum", "density")} == {
        name: target for name, target in plain.targets.items() if name != "product"
    }
    found = set()
    for i in range(len(plain)):
        one, other = data[i], plain[i]
        assert torch.equal(one["image"], other["image"])
        assert list(one["targets"]) == list(data.targets) == ["left", "right", "parity", "sum", "density"]
        parity = one["targets"].pop("parity")
        odd = int(other["targets"]["left"]) % 2 == 1 and int(other["targets"]["right"]) % 2 == 1
        assert (parity.dtype, parity.tolist()) == (torch.float32, [float(odd)])
        assert other["targets"].pop("product").remainder(2) == parity
        assert one["targets"] == other["targets"]
        found.add(odd)
    assert found == {False, True}
    assert "product" in MultiMNIST(root).targets  # the option does not change the class's own targets


def test_changing_a_sample_leaves_the_data_set_alone(root: Path) -> None:
    data = MultiMNIST(root)
    before, again = data[3], data[3]
    again["image"].fill_(0.5)
    for value in again["targets"].values():
        value.fill_(3)
    assert torch.equal(data[3]["image"], before["image"])
    assert data[3]["targets"] == before["targets"]


def test_limit_takes_the_first_samples_and_the_seed_changes_the_pairs(root: Path) -> None:
    whole, part, other = MultiMNIST(root), MultiMNIST(root, limit=5), MultiMNIST(root, dataset_seed=1)
    assert len(part) == 5
    for i in range(5):
        assert torch.equal(whole[i]["image"], part[i]["image"])
        assert whole[i]["targets"] == part[i]["targets"]
    assert len(MultiMNIST(root, limit=10_000)) == len(whole)
    assert all(whole[i]["targets"]["left"] == other[i]["targets"]["left"] for i in range(len(whole)))
    assert any(whole[i]["targets"]["right"] != other[i]["targets"]["right"] for i in range(len(whole)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
def test_where_and_how_the_files_lie_makes_no_difference(
    root: Path, tmp_path_factory, place: str, zipped: bool
) -> None:
    other = tmp_path_factory.mktemp("other")
    write(other / place, zipped)
    assert torch.equal(MultiMNIST(other)[4]["image"], MultiMNIST(root)[4]["image"])


def test_missing_files(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert len(MultiMNIST(tmp_path, "val")) == 6  # the split val does not need the test files
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.*data\.download=true") as error:
        MultiMNIST(tmp_path, "test")
    for folder in (tmp_path / "MNIST" / "raw", tmp_path / "raw", tmp_path):
        assert str(folder) in str(error.value)


def test_download_goes_through_torchvision_and_only_when_needed(tmp_path: Path, monkeypatch) -> None:
    calls = []

    def fetch(root: Path, download: bool) -> None:
        calls.append((root, download))
        write(root / "MNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    for _ in range(2):
        assert len(MultiMNIST(tmp_path, download=True)) == 30
    assert calls == [(tmp_path, True)]


def test_failed_download(tmp_path: Path, monkeypatch) -> None:
    def fetch(root: Path, download: bool) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    with pytest.raises(ValueError, match=r"could not be downloaded to .*raw: Error downloading train-images"):
        MultiMNIST(tmp_path, download=True)


IMAGES, LABELS = np.zeros((12, 28, 28)), np.zeros(12)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t10k-images-idx3-ubyte", b"\0\0\x08", "holds 3 bytes, less than the header"),
        ("t10k-images-idx3-ubyte", idx(IMAGES, 0x801), "starts with 0x00000801, not 0x00000803"),
        ("t10k-images-idx3-ubyte", b"<!DOCTYPE html><html>404", "starts with 0x3c21444f"),
        ("t10k-images-idx3-ubyte", idx(IMAGES)[:-1], r"holds 9423 bytes, expected 9424 for the shape \[12, 28, 28\]"),
        ("t10k-images-idx3-ubyte", idx(IMAGES) + b"x", "holds 9425 bytes, expected 9424"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-20], "damaged gzip file"),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", "damaged gzip file"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:10] + b"\xff" * 40, "damaged gzip file"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((12, 20, 28))), r"images of shape \(12, 20, 28\)"),
        ("t10k-images-idx3-ubyte", idx(IMAGES[:11]), "holds 11 images, but .*t10k-labels-idx1-ubyte 12 labels"),
        ("t10k-labels-idx1-ubyte", idx(LABELS + 10), "holds the label 10, expected digits"),
    ],
    ids=["short", "magic", "html", "truncated", "long", "cut", "no_gzip", "corrupt", "shape", "count", "label"],
)
def test_damaged_files_are_named(root: Path, name: str, data: bytes, message: str) -> None:
    raw = root / "MNIST" / "raw"
    (raw / name.removesuffix(".gz")).unlink()
    (raw / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        MultiMNIST(root, "test")
    assert str(raw / name) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "no split 'trian'. Did you mean 'train'"),
        ({"size": (32, 32)}, r"size \[28, 28\] only, got \[32, 32\]"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"dataset_seed": -1}, r"data\.dataset_seed: expected an integer >= 0, found -1"),
    ],
)
def test_options_are_checked(root: Path, options: dict, message: str) -> None:
    MultiMNIST(root, size=[28, 28])
    with pytest.raises(ValueError, match=message):
        MultiMNIST(root, **options)


def test_real_mnist_has_its_labels_and_statistics(mnist: Path) -> None:
    data = MultiMNIST(mnist)
    assert (len(data), len(MultiMNIST(mnist, "val")), len(MultiMNIST(mnist, "test"))) == (50_000, 10_000, 10_000)
    assert [int(data[i]["targets"]["left"]) for i in range(10)] == FIRST
    targets = [data[i]["targets"] for i in range(6_000)]
    # Mean and variance, measured without this code on the whole file. The density is in percent of 784 pixels.
    for name, mean, variance in (("sum", 9, 16.8), ("product", 19.9, 405), ("density", 14.85, 11.4)):
        values = torch.cat([target[name] for target in targets])
        # The test reads 6,000 of 50,000 samples. The tolerances are three standard errors or more.
        assert float(values.mean()) == pytest.approx(mean, rel=0.02), name
        assert float(values.var()) == pytest.approx(variance, rel=0.05), name


@pytest.mark.parametrize("experiment", ["multimnist", "multimnist_parity"])
def test_augmentation_leaves_the_digits_and_their_density_alone(experiment: str) -> None:
    augmentation = compose(experiment).data.augmentation
    assert (augmentation.flip, augmentation.scale, augmentation.colour) == (0, (1,), 0)
