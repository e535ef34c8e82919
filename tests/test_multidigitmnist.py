"""The data set multidigitmnist: its pictures follow the generator's recipe, and its splits have the published pairs."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts.mnist import idx, write

from mtlkit.config.composition import compose
from mtlkit.data.dataset import DATASETS
from mtlkit.data.files import resize
from mtlkit.datasets.multidigitmnist import MultiDigitMNIST

PARITY = {
    "train": "01 05 09 21 23 29 41 43 45 63 65 69 81 85 87 89",
    "val": "03 07 27 61",
    "test": "25 47 49 67 83",
}
SHA256 = {  # of the bytes of all 1,000 pictures of a pair
    ("train", "01"): "b904a30e5b83b79406103aeede1fc677c324e0b36bec339ec11afa8fdd13e1be",
    ("val", "03"): "a00e42492029b8d6e0890098f1433f35354f6233b4d08d6e3530b8bcf902a798",
    ("test", "25"): "0290bd5c9a6e20b787800a534f79b65a51761de0a31e213b022029cbd7198ec6",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "MNIST" / "raw")
    return tmp_path


def pair(data: MultiDigitMNIST, index: int) -> str:
    """Returns the two digits of a sample according to its labels, such as "49"."""
    return "".join(data.targets[name].classes[int(value)] for name, value in data[index]["targets"].items())


def pairs(data: MultiDigitMNIST, per_class: int) -> list[str]:
    return sorted(pair(data, i) for i in range(len(data) // per_class))


def picture(data: MultiDigitMNIST, index: int) -> np.ndarray:
    image = data[index]["image"]
    assert torch.equal(image, image[:1].expand(3, -1, -1))
    return (image[0] * 255).round().byte().numpy()


def drawn(digits: np.ndarray, labels: np.ndarray, per_class: int) -> dict[str, list[np.ndarray]]:
    """Returns the pictures of all 100 pairs in the generator's order. Draws one random number at a time."""
    random = np.random.RandomState(123)
    order = list(np.arange(100))
    random.shuffle(order)
    random = np.random.RandomState(123)
    found: dict[str, list[np.ndarray]] = {}
    for name in (f"{number:02d}" for number in order):
        found[name] = []
        for _ in range(per_class):
            chosen = [digits[random.choice(list(np.where(labels == int(d))[0]))] for d in name]
            ys, xs = random.randint(36, size=2), random.randint(4, size=2)
            canvas = np.zeros((64, 64), np.uint8)
            for side in (0, 1):
                x = xs[side] + 32 * side
                canvas[ys[side] : ys[side] + 28, x : x + 28] = chosen[side]
            found[name].append(canvas)
    return found


@pytest.mark.parametrize("classes", ["parity", "all"])
def test_samples_follow_the_recipe(tmp_path: Path, classes: str) -> None:
    arrays = write(tmp_path / "MNIST" / "raw")
    digits, labels = (
        np.concatenate([arrays[f"{file}-{kind}-ubyte"] for file in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    expected, seen = drawn(digits, labels, 3), []
    for split in ("train", "val", "test"):
        data = MultiDigitMNIST(tmp_path, split, classes=classes, per_class=3)
        count = len(data) // 3
        for i in range(len(data)):
            name = pair(data, i)
            assert name == pair(data, i % count)
            assert (picture(data, i) == expected[name][i // count]).all()
        seen += pairs(data, 3)
    if classes == "all":
        assert sorted(seen) == sorted(expected)  # each of the 100 pairs is in exactly one split
    else:
        assert sorted(seen) == sorted(f"{a}{b}" for a in "02468" for b in "13579")


def test_the_splits_have_the_pairs_of_cosreg(root: Path) -> None:
    for split, expected in PARITY.items():
        data = DATASETS.build("multidigitmnist", root=root, split=split)
        assert len(data) == {"train": 16_000, "val": 4_000, "test": 5_000}[split]
        assert pairs(data, 1000) == expected.split()
        assert [target.classes for target in data.targets.values()] == [tuple("02468"), tuple("13579")]


def test_all_pairs_are_split_as_64_16_and_20(root: Path) -> None:
    found = {}
    for split, count in (("train", 64), ("val", 16), ("test", 20)):
        data = MultiDigitMNIST(root, split, classes="all", per_class=2)
        assert len(data) == 2 * count
        assert [target.classes for target in data.targets.values()] == [tuple("0123456789")] * 2
        found[split] = pairs(data, 2)
        assert set(PARITY[split].split()) <= set(found[split])


def test_formats(root: Path) -> None:
    data = MultiDigitMNIST(root)
    sample = data[0]
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 64, 64), torch.float32)
    assert list(sample["targets"]) == list(data.targets) == ["left", "right"]
    for name, value in sample["targets"].items():
        assert (value.shape, value.dtype, data.targets[name].type) == ((), torch.int64, "classification")


def test_the_first_samples_are_of_all_pairs(root: Path) -> None:
    whole, part = MultiDigitMNIST(root), MultiDigitMNIST(root, limit=20)
    assert len(part) == 20
    assert sorted(pair(part, i) for i in range(16)) == PARITY["train"].split()
    for i in range(20):
        assert torch.equal(whole[i]["image"], part[i]["image"])
        assert whole[i]["targets"] == part[i]["targets"]


def test_another_size(root: Path) -> None:
    data, small = MultiDigitMNIST(root), MultiDigitMNIST(root, size=(48, 32))
    expected = torch.from_numpy(resize(picture(data, 5), (48, 32))) / 255
    assert torch.equal(small[5]["image"], expected.expand(3, 32, 48))


def test_changing_a_sample_leaves_the_data_set_alone(root: Path) -> None:
    data = MultiDigitMNIST(root)
    before, again = data[3], data[3]
    again["image"].fill_(0.5)
    for value in again["targets"].values():
        value.fill_(3)
    assert torch.equal(data[3]["image"], before["image"])
    assert data[3]["targets"] == before["targets"]


def test_workers_get_the_same_samples_and_numpy_s_own_stream_is_left_alone(root: Path) -> None:
    np.random.seed(5)
    state = np.random.get_state()[1].tolist()
    data = MultiDigitMNIST(root)
    assert np.random.get_state()[1].tolist() == state
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[7]["image"], data[7]["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "data set 'multidigitmnist' has no split 'trian'. Did you mean 'train'"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"classes": "partiy"}, r"data\.classes: expected one of parity, all, found 'partiy'. Did you mean 'parity'"),
        ({"per_class": 0}, r"data\.per_class: expected an integer >= 1, found 0"),
        ({"root": None}, r"data\.root is not set"),
    ],
)
def test_options_are_checked(root: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiDigitMNIST(**{"root": root, **options})


def test_every_split_needs_all_files_and_all_digits(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    for file, count in (("train", 36), ("t10k", 12)):
        (raw / f"{file}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 7))
    with pytest.raises(ValueError, match="hold no 7, of which pictures are to be made"):
        MultiDigitMNIST(root)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        MultiDigitMNIST(root)


@pytest.mark.parametrize(("split", "name"), SHA256)
def test_real_mnist_gives_the_known_pictures(mnist: Path, split: str, name: str) -> None:
    data = MultiDigitMNIST(mnist, split)
    count = len(PARITY[split].split())
    first = next(i for i in range(count) if pair(data, i) == name)
    digest = hashlib.sha256()
    for i in range(first, len(data), count):
        digest.update(picture(data, i).tobytes())
    assert digest.hexdigest() == SHA256[split, name]


def test_augmentation_cuts_no_digit_off() -> None:
    augmentation = compose("multidigitmnist").data.augmentation
    assert (augmentation.flip, augmentation.scale) == (0, (1,))
