"""The data set `hf`: columns by name, values, splits, and what is refused."""

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tolerances import SINGLE

from mtlkit.data.dataset import DATASETS, Dataset
from mtlkit.testing import check_dataset

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed (pip install 'mtlkit[hf]')")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:datasets.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocess.*"),
]

LABELS = {
    "depth": {"type": "depth", "columns": ["depth"], "scale": 0.001},
    "mask": {"type": "segmentation", "columns": ["mask"], "classes": ["a", "b"], "ignore": 255},
    "room": {"type": "classification", "columns": ["room"]},
    "cars": {"type": "regression", "columns": ["cars"]},
    "sunny": {"type": "multilabel", "columns": ["sunny"]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rows: row n has the grey value 8 n, the depth 100 n + 500 mm, the class n % 2 and the room n % 3."""
    rows = {
        "photo": [Image.fromarray(np.full((4, 6, 3), 8 * n, np.uint8)) for n in range(30)],
        "depth": [Image.fromarray(np.full((4, 6), 100 * n + 500, np.uint16)) for n in range(30)],
        "mask": [[[n % 2] * 6] * 3 + [[255] * 6] for n in range(30)],
        "room": [n % 3 for n in range(30)],
        "cars": [None if n == 1 else n / 2 for n in range(30)],
        "sunny": [n % 2 == 0 for n in range(30)],
    }
    features = {
        "photo": datasets.Image(),
        "depth": datasets.Image(),
        "room": datasets.ClassLabel(names=["x", "y", "z"]),
    }
    features |= {"mask": datasets.Array2D((4, 6), "uint8"), "cars": datasets.Value("float32")}
    features |= {"sunny": datasets.Value("bool")}
    folder = tmp_path_factory.mktemp("hf") / "data"
    datasets.Dataset.from_dict(rows, datasets.Features(features)).save_to_disk(str(folder))
    return folder


def build(root: Path, split: str = "train", **options) -> Dataset:
    return DATASETS.build("hf", root=root, split=split, **{"labels": LABELS, "image": "photo", "gap": 0} | options)


def test_the_values(root: Path) -> None:
    dataset = build(root)
    image, targets = dataset[1].values()
    assert image.unique().tolist() == pytest.approx([8 / 255], rel=SINGLE)
    assert targets["depth"].unique().tolist() == pytest.approx([0.6], rel=SINGLE)
    assert targets["mask"].tolist() == [[1] * 6] * 3 + [[-1] * 6]
    assert (targets["room"].item(), targets["sunny"].tolist(), "cars" in targets) == (1, [0.0], False)
    assert dataset[2]["targets"]["cars"].tolist() == [1.0]
    assert dataset.targets["room"].classes == ("x", "y", "z")


def test_the_promises_of_every_data_set(root: Path) -> None:
    check_dataset("hf", root=str(root), splits=("train", "val"), labels=LABELS, image="photo", size=(12, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "foto"}, r"data\.image: .* has no column 'foto'\. Did you mean 'photo'"),
        ({"labels": {"x": {"type": "depth", "columns": ["dpth"]}}}, r"labels\.x\.columns: .*Did you mean 'depth'"),
        ({"labels": {"x": {"type": "depth"}}}, r"data\.labels\.x\.columns: missing"),
        ({"labels": {"x": {"type": "classification", "columns": ["cars"]}}}, r"labels\.x\.classes: missing"),
        ({"splits": {"val": "validation"}}, r"data\.splits\.val: .* has no split 'validation'"),
        ({"holdout": 0.95}, r"data\.holdout=0\.95 leaves nothing"),
        ({"split": "test"}, r"has no split 'test', but train"),
    ],
)
def test_mistakes(root: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(root, **{"gap": 5} | options)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not what save_to_disk of the package datasets wrote"):
        build(tmp_path)


def test_without_the_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs the package datasets\. Install it: pip install 'mtlkit\[hf\]'"):
        build(root)
