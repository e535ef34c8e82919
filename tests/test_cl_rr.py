"""The data set cl_rr: the pictures of multimnist, with two other tasks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from layouts.mnist import write

from mtlkit.config.composition import compose
from mtlkit.data.dataset import DATASETS, Target
from mtlkit.datasets.cl_rr import CLRR
from mtlkit.datasets.multimnist import MultiMNIST
from mtlkit.run.build import build_parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "number", "part"), [("train", 0, slice(30)), ("val", 1, slice(30, 36)), ("test", 2, slice(12))]
)
def test_the_right_digit_is_the_one_in_the_picture_but_whole(
    tmp_path: Path, split: str, number: int, part: slice
) -> None:
    arrays = write(tmp_path / "MNIST" / "raw")
    file = "t10k" if split == "test" else "train"
    digits, labels = (arrays[f"{file}-{kind}-ubyte"][part] for kind in ("images-idx3", "labels-idx1"))
    data, pictures = CLRR(tmp_path, split, dataset_seed=7), MultiMNIST(tmp_path, split, dataset_seed=7)
    partners = np.random.Generator(np.random.PCG64([7, number])).integers(len(digits), size=len(digits))
    assert len(data) == len(pictures) == len(digits)
    for i, j in enumerate(partners):
        sample, targets = data[i], data[i]["targets"]
        assert torch.equal(sample["image"], pictures[i]["image"])
        assert (targets["classify"].dtype, int(targets["classify"])) == (torch.int64, labels[i])
        assert targets["reconstruct"].dtype == torch.float32
        assert torch.equal(targets["reconstruct"], torch.from_numpy(digits[j : j + 1] / np.float32(255)))


def test_declared_targets(root: Path) -> None:
    data = DATASETS.build("cl_rr", root=root)
    assert data.targets["classify"] == Target("classification", tuple("0123456789"))
    assert data.targets["reconstruct"] == Target("reconstruction", ("grey",))
    assert list(data[0]["targets"]) == list(data.targets)


def test_changing_a_sample_leaves_the_data_set_alone(root: Path) -> None:
    data = CLRR(root)
    before, again = data[3], data[3]
    again["image"].fill_(0.5)
    for value in again["targets"].values():
        value.fill_(3)
    assert torch.equal(data[3]["image"], before["image"])
    assert all(torch.equal(data[3]["targets"][name], before["targets"][name]) for name in data.targets)


def test_limit_takes_the_first_samples(root: Path) -> None:
    whole, part = CLRR(root), CLRR(root, limit=5)
    assert len(part) == 5
    for i in range(5):
        assert torch.equal(whole[i]["image"], part[i]["image"])
        assert all(torch.equal(whole[i]["targets"][name], part[i]["targets"][name]) for name in whole.targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "data set 'cl_rr' has no split 'trian'. Did you mean 'train'"),
        ({"size": (32, 32)}, r"data set 'cl_rr' comes in size \[28, 28\] only, got \[32, 32\]"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"dataset_seed": -1}, r"data\.dataset_seed: expected an integer >= 0, found -1"),
    ],
)
def test_options_are_checked(root: Path, options: dict, message: str) -> None:
    CLRR(root, size=[28, 28])
    with pytest.raises(ValueError, match=message):
        CLRR(root, **options)


def test_files_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        CLRR(None)
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte .* data\.download=true"):
        CLRR(tmp_path)


def test_real_mnist(mnist: Path) -> None:
    data = CLRR(mnist, "val", limit=2000)
    ink = torch.stack([data[i]["targets"]["reconstruct"] for i in range(2000)])
    assert float(ink.mean()) == pytest.approx(0.1307, rel=0.02)  # the mean of MNIST's pixels
    assert float(ink.max()) == 1


def ratio(data: CLRR, *words: str) -> float:
    """Returns the length of the reconstruction's gradient at the features, divided by that of the classification.

    The result is the mean over 8 seeds.
    """
    found = []
    for seed in range(8):
        parts = build_parts(compose("cl_rr", [f"seed={seed}", *words]), data.targets, (28, 28))
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:256].tolist()
        samples = [data[i] for i in rows]
        (features,) = parts.model.encoder(torch.stack([sample["image"] for sample in samples]))
        features = features.detach().requires_grad_()
        lengths = {}
        for name, task in parts.tasks.items():
            target = torch.stack([sample["targets"][name] for sample in samples])
            total, count = task.loss(parts.model.decoders[name]([features]), target)
            lengths[name] = float(torch.autograd.grad(total / count, features)[0].norm())
        found.append(lengths["reconstruct"] / lengths["classify"])
    return sum(found) / len(found)


def test_the_first_gradients_are_as_unequal_as_in_the_source(mnist: Path) -> None:
    """In the source's code the ratio is 0.074, the mean over 8 seeds. It varies by 16 % between seeds.

    So the mean varies by 6 %. The test allows 25 %, which is about four times as much. With another start, or with
    pixels as outputs, the ratio is several times larger.
    """
    data = CLRR(mnist, limit=4000)
    assert ratio(data) == pytest.approx(0.074, rel=0.25)  # about four standard errors, as above
    assert ratio(data, "model.start=he") > 2 * 0.074
