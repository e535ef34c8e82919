"""The data set cityscapes: MTAN's archives, values, splits and errors."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import cityscapes as layout
from tolerances import SINGLE
from torch.utils.data import DataLoader

from mtlkit.data.dataset import DATASETS, BadSampleError
from mtlkit.datasets.cityscapes import CLASSES, Cityscapes

SIZE = (5, 3)


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    """The complete data set. Tests must not change it."""
    root = tmp_path_factory.mktemp("cityscapes")
    layout.write(root)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A smaller data set, with labels of 7 classes only. Tests may damage it."""
    layout.write(tmp_path / "data", train=12, test=4, labels=("label_7",))
    return tmp_path / "data"


def whole(root: Path, split: str = "train", **options) -> Cityscapes:
    return Cityscapes(root, split, holdout=0, **options)


def numbers(data: Cityscapes) -> list[int]:
    return [int(Path(data.label(i)).stem) for i in range(len(data))]


def shrunk(values: np.ndarray) -> np.ndarray:
    """Returns the values at SIZE: each pixel is the source pixel below its centre."""
    rows = [(2 * y + 1) * 8 // (2 * SIZE[1]) for y in range(SIZE[1])]
    columns = [(2 * x + 1) * 12 // (2 * SIZE[0]) for x in range(SIZE[0])]
    return np.array([[values[y, x] for x in columns] for y in rows])


@pytest.mark.parametrize("classes", [2, 7, 19])
@pytest.mark.parametrize(("split", "folder", "count"), [("train", "train", 60), ("test", "val", 12)])
def test_every_sample_has_the_values_of_its_files(
    complete: Path, split: str, folder: str, count: int, classes: int
) -> None:
    data = whole(complete, split, classes=classes)
    assert numbers(data) == list(range(count))  # sorted by number: 10 comes after 9
    assert data.targets["segmentation"].classes == CLASSES[classes]
    assert [len(names) for names in CLASSES.values()] == list(CLASSES)
    assert (data.targets["depth"].type, data.camera_of(0)) == ("disparity", None)
    for i in range(count):
        sample = data[i]
        image, label, depth = sample["image"], *sample["targets"].values()
        assert list(sample["targets"]) == list(data.targets) == ["segmentation", "depth"]
        assert (image.dtype, label.dtype, depth.dtype) == (torch.float32, torch.int64, torch.float32)
        np.testing.assert_allclose(image.permute(1, 2, 0), layout.image(i, folder), rtol=SINGLE)
        assert np.array_equal(label, layout.label(i, folder, classes))
        assert depth.shape == (1, 8, 12)
        np.testing.assert_allclose(depth.permute(1, 2, 0), layout.depth(i, folder), rtol=SINGLE)


def test_size(complete: Path) -> None:
    sample = whole(complete, size=SIZE)[7]
    assert sample["image"].shape == (3, 3, 5)
    assert 0 <= sample["image"].min() < sample["image"].max() <= 1
    assert np.array_equal(sample["targets"]["segmentation"], shrunk(layout.label(7, "train", 7)))
    np.testing.assert_allclose(
        sample["targets"]["depth"][0], shrunk(layout.depth(7, "train"))[..., 0].astype(np.float32), rtol=SINGLE
    )


def test_other_types_of_numbers(root: Path) -> None:
    expected = whole(root)[0]
    for name, values in (
        ("image", (layout.image(0, "train") * 255).round().astype(np.uint8)),
        ("label_7", layout.label(0, "train", 7).astype(np.int8)),
        ("depth", layout.depth(0, "train")[..., 0].astype(np.float32)),
    ):
        np.save(root / "train" / name / "0.npy", values)
    found = whole(root)[0]
    assert (found["image"] - expected["image"]).abs().max() < 0.003
    for name, target in expected["targets"].items():
        assert torch.equal(found["targets"][name], target)


def test_labels_saved_as_bytes_have_255_for_what_is_ignored(tmp_path: Path) -> None:
    layout.write(tmp_path, train=3, test=1, labels=("label_7", "label"))
    for i, name in ((0, "label_7"), (0, "label"), (1, "label"), (2, "label")):
        values = layout.label(i, "train", 7).astype(np.int64)
        np.save(tmp_path / "train" / name / f"{i}.npy", values.astype(np.uint8))
    assert (layout.label(0, "train", 7) == -1).any()
    assert np.array_equal(whole(tmp_path)[0]["targets"]["segmentation"], layout.label(0, "train", 7))
    shutil.rmtree(tmp_path / "train" / "label_7")  # only the folder that does not tell its number of classes is left
    assert np.array_equal(whole(tmp_path)[2]["targets"]["segmentation"], layout.label(2, "train", 7))


def test_what_resizing_left_beyond_the_range_of_an_image_is_cut_off(root: Path) -> None:
    image = layout.image(0, "train")
    image[2, 4] = -0.001, 0.5, 1.001
    np.save(root / "train" / "image" / "0.npy", image)
    assert whole(root)[0]["image"][:, 2, 4].tolist() == [0, 0.5, 1]


def test_depth_that_is_no_number_is_unknown(root: Path) -> None:
    depth = layout.depth(0, "train")
    depth[2, 4] = np.nan
    np.save(root / "train" / "depth" / "0.npy", depth)
    found = whole(root)[0]["targets"]["depth"][0]
    assert found[2, 4] == 0
    assert found.isfinite().all()


def test_validation_frames_are_blocks_of_training_frames(complete: Path) -> None:
    parts = {split: numbers(Cityscapes(complete, split)) for split in ("train", "val", "test")}
    assert parts["val"] == list(range(27, 33))
    assert parts["train"] == [*range(22), *range(38, 60)]
    assert Cityscapes(complete, "val").label(0) == str(complete / "train" / "image" / "27.npy")
    assert parts["test"] == list(range(12))
    assert any(
        "60 training frames, 6 are held out for validation and 10 beside" in n for n in Cityscapes(complete).notes
    )
    assert numbers(whole(complete)) == list(range(60))
    with pytest.raises(ValueError, match=r"data\.holdout=0 .* no split 'val': its folder val .*such as 0\.1"):
        whole(complete, "val")


def test_limit_and_notes(complete: Path) -> None:
    data = Cityscapes(complete, "val", limit=2)
    assert numbers(data) == [27, 28]
    assert len(Cityscapes(complete, limit=10_000)) == 44
    assert f"{complete / 'train'} has 60 frames, 2975 as published." in data.notes
    assert any("inverse depth" in note for note in data.notes)
    assert any("8 x 12 pixels (height x width), the size of neither of MTAN's archives" in note for note in data.notes)
    assert DATASETS.build("cityscapes", root=complete).licence


@pytest.mark.parametrize(
    ("size", "note"),
    [
        ((256, 128), r"128 x 256 pixels (height x width), the small archive (cityscapes2.zip)."),
        ((512, 256), "the large archive (cityscapes.zip). Published tables of balancers are for 128 x 256 pixels."),
    ],
)
def test_the_two_archives_are_told_apart(tmp_path: Path, size: tuple[int, int], note: str) -> None:
    layout.write(tmp_path, train=1, test=1, size=size)
    data = whole(tmp_path)
    assert data.notes[0].endswith(note)
    assert data[0]["image"].shape == (3, size[1], size[0])


@pytest.mark.parametrize("classes", [7, 19])
def test_a_folder_that_does_not_tell_its_classes(tmp_path: Path, classes: int) -> None:
    layout.write(tmp_path, train=9, test=2, labels=("label",), classes=classes)
    data = whole(tmp_path, classes=classes)
    assert np.array_equal(data[3]["targets"]["segmentation"], layout.label(3, "train", classes))
    other = 26 - classes
    with pytest.raises(ValueError, match=rf"label holds labels up to {classes - 1}, so {classes} .*classes={other}"):
        whole(tmp_path, classes=other)


def test_the_root_may_be_a_level_too_high(complete: Path, root: Path) -> None:
    assert len(whole(root.parent)) == 12
    for part in ("train", "val"):
        with pytest.raises(FileNotFoundError, match=rf"is one split of Cityscapes: set data\.root={complete}\."):
            whole(complete / part)


def test_two_archives_in_one_folder_are_not_chosen_between(tmp_path: Path) -> None:
    for name, size in (("cityscapes", (16, 8)), ("cityscapes2", (8, 4))):
        layout.write(tmp_path / name, train=1, test=1, size=size)
    both = f"{tmp_path / 'cityscapes'}, {tmp_path / 'cityscapes2'}"
    with pytest.raises(
        ValueError, match=rf"holds 2 folders with train and val: {both}\. Set data\.root to one.*128 x 256"
    ):
        whole(tmp_path)
    assert whole(tmp_path / "cityscapes2")[0]["image"].shape == (3, 4, 8)


def test_a_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set: .* 'cityscapes'.*, from the archive cityscapes2"):
        Cityscapes(None)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        whole(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"does not hold train/ and val/.*cityscapes2\.zip.*lorenmt/mtan there"):
        whole(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileNotFoundError, match="loop"):
        whole(tmp_path / "loop")
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(FileNotFoundError, match=r"as cityscapes-dataset\.com has it .*Unpack the archive"):
        whole(tmp_path)


def test_half_an_archive(root: Path) -> None:
    train = root / "train"
    (train / "depth" / "11.npy").unlink()
    (train / "depth" / "5.npy").unlink()
    assert re.match(r"\S*train/depth lacks 2 of 12 files, the first 5\.npy\. Unpack the archive", whole(root).missing)
    assert len(whole(root)) == 12
    assert not whole(root, limit=5).missing
    assert not whole(root, "test").missing
    assert len(whole(root, "test")) == 4
    shutil.rmtree(train / "depth")
    assert "depth lacks 12 of 12 files, the first 0.npy" in whole(root).missing
    shutil.rmtree(train / "label_7")
    with pytest.raises(FileNotFoundError, match=r"no folder label_7 for data\.classes=7, only no labels"):
        whole(root)
    shutil.rmtree(train)
    with pytest.raises(FileNotFoundError, match=r"train is missing\. Unpack the archive"):
        whole(root)


def test_extra_images_and_empty_folders(root: Path, tmp_path: Path) -> None:
    np.save(root / "train" / "image" / "12.npy", layout.image(12, "train"))
    missing = whole(root).missing
    assert all(f"{part} lacks 1 of 13 files, the first 12.npy" in missing for part in ("label_7", "depth"))
    for name in ("image", "label_7", "depth"):
        (tmp_path / "empty" / "train" / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"there are no \.npy files in image, label_7, depth\. Unpack"):
        whole(tmp_path / "empty")


def test_labels_of_other_classes_are_not_taken(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder label_19 for data\.classes=19, only label_7\. Choose"):
        whole(root, classes=19)


def save(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, values)


GOOD = {"image": layout.image(3, "train"), "label_7": layout.label(3, "train", 7), "depth": layout.depth(3, "train")}


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        *(
            (part, damage, "damaged or not what its name says")
            for part in GOOD
            for damage in (
                lambda path: os.truncate(path, path.stat().st_size - 8),
                lambda path: os.truncate(path, 60),
                lambda path: os.truncate(path, 0),
                lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
                save(np.array([{}], object)),
            )
        ),
        ("image", lambda path: path.unlink(), r"3\.npy is missing"),
        ("image", save(GOOD["image"] * 255), "holds values from 0 to .*, expected an image in .0, 1."),
        ("image", save(GOOD["image"] - 0.5), "holds values from -0.5 to 0.4.*, expected an image"),
        ("image", save(GOOD["image"] * np.nan), "holds values from nan to nan, expected an image"),
        ("image", save(GOOD["image"].transpose(2, 0, 1)), r"array \(3, 8, 12\), expected \(any, any, 3\)"),
        ("label_7", save(GOOD["label_7"] + 1), "values from 0 to 7, expected whole numbers from -1 .ignored. to 6"),
        ("label_7", save(GOOD["label_7"] - 1), "values from -2 to 5, expected whole numbers"),
        ("label_7", save((GOOD["label_7"] - 1).astype(np.uint8)), "values from -1 to 254, expected whole"),
        ("label_7", save(GOOD["label_7"] / 2), "values from -0.5 to 3, expected whole"),
        ("label_7", save(GOOD["label_7"] * np.nan), "values from nan to nan, expected whole"),
        ("label_7", save(GOOD["label_7"][:, :-1]), r"array \(8, 11\), expected \(8, 12\)"),
        ("depth", save(GOOD["depth"] * 65535), "to 8.*, expected inverse depth .disparity / 65535. in .0, 1."),
        ("depth", save(GOOD["depth"] - 0.001), "values from -0.001 to .*, expected inverse depth"),
        ("depth", save(GOOD["depth"] + np.inf), "values from .* to inf, expected inverse depth"),
        ("depth", save(GOOD["depth"][..., [0, 0]]), r"array \(8, 12, 2\), expected \(8, 12\)"),
        ("depth", save(GOOD["depth"][:-1]), r"array \(7, 12\), expected \(8, 12\)"),
    ],
)
def test_damaged_files_are_named_when_their_sample_is_read(
    root: Path, part: str, damage: Callable[[Path], object], message: str
) -> None:
    data = whole(root)
    path = root / "train" / part / "3.npy"
    damage(path)
    with pytest.raises(BadSampleError, match=message) as error:
        data[3]
    assert str(path) in str(error.value)
    assert data[2]["image"].shape == (3, 8, 12)


def test_damaged_first_files_do_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    layout.write(tmp_path, train=3, test=1, labels=("label",))
    for part in ("image", "label"):
        os.truncate(tmp_path / "train" / part / "0.npy", 20)
    data = whole(tmp_path)
    assert data[1]["image"].shape == (3, 8, 12)
    with pytest.raises(BadSampleError):
        data[0]


def test_a_link_that_leads_to_itself(root: Path) -> None:
    path = root / "train" / "depth" / "3.npy"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises((BadSampleError, OSError), match=r"depth/3\.npy"):
        whole(root)[3]


def test_nothing_is_written_and_a_read_only_root_does(root: Path) -> None:
    before = sorted(root.rglob("*"))
    for path in (root, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert set(whole(root)[0]["targets"]) == {"segmentation", "depth"}
    for path in (root, *before):
        path.chmod(0o755)
    assert sorted(root.rglob("*")) == before


def test_worker_processes_and_copies_give_the_same(complete: Path) -> None:
    data = whole(complete)
    copy = pickle.loads(pickle.dumps(data))
    loaded = list(DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert len(loaded) == len(data)
    for i in (0, 33, 59):
        for other in (loaded[i], copy[i]):
            assert torch.equal(other["image"], data[i]["image"])
            for name, target in data[i]["targets"].items():
                assert torch.equal(other["targets"][name], target)
    data[0]["targets"]["depth"].fill_(3)
    assert data[0]["targets"]["depth"].max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "no split 'trian'. Did you mean 'train'"),
        ({"size": (32,)}, r"data\.size must be \[width, height\], whole numbers of at least 1, got \[32\]"),
        ({"size": (0, 32)}, r"whole numbers of at least 1, got \[0, 32\]"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"classes": 8}, r"data\.classes: expected one of 2, 7, 19, found 8"),
        ({"holdout": -0.1}, r"data\.holdout: expected a number >= 0 and < 1, found -0.1"),
        ({"holdout": 0.9}, "holdout=0.9 leaves nothing to train on of 60 samples"),
    ],
)
def test_options_are_checked(complete: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cityscapes(complete, **options)
