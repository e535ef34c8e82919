"""The data set nyuv2: its official form, and what all forms have in common."""

import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from layouts import nyuv2 as layout
from scipy.io import savemat
from torch.utils.data import DataLoader

from mtlkit.data.dataset import DATASETS, BadSampleError
from mtlkit.datasets.nyuv2 import NYUv2
from mtlkit.datasets.nyuv2.classes import CLASSES_13, CLASSES_40, TO_13

TRAIN, TEST = (2, 3, 5, 6, 8, 9), (0, 1, 4, 7)
CROPS = {"eigen": layout.EIGEN, "gupta": layout.GUPTA, None: (slice(0, 480), slice(0, 640))}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Ten frames without normals. Tests must not change them."""
    folder = tmp_path_factory.mktemp("official")
    layout.official(folder, TRAIN)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    layout.official(folder, train=(0, 1), count=3)
    return folder


@pytest.fixture
def small(three: Path, tmp_path: Path) -> Path:
    """Three frames. Tests may damage them."""
    return Path(shutil.copytree(three, tmp_path / "small"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def notes(data: NYUv2) -> str:
    return " ".join(data.notes)


@pytest.mark.parametrize("crop", ["eigen", "gupta", None])
def test_frames_are_read_as_matlab_meant_them(root: Path, crop) -> None:
    for split, frames in (("train", TRAIN), ("test", TEST)):
        data = DATASETS.build("nyuv2", root=root, split=split, crop=crop, classes=40, holdout=0)
        assert len(data) == len(frames)
        for i, frame in enumerate(frames):
            sample, part = data[i], CROPS[crop]
            assert torch.equal(sample["image"], torch.from_numpy(layout.image(frame)[part]).permute(2, 0, 1) / 255)
            assert torch.equal(sample["targets"]["depth"], torch.from_numpy(layout.room(frame)[0][part])[None])
            expected = np.append(0, layout.to_40())[layout.labels(frame, 894)[part]].astype(int) - 1
            assert torch.equal(sample["targets"]["segmentation"], torch.from_numpy(expected))
            assert data.label(i) == f"{root / 'nyu_depth_v2_labeled.mat'}, frame {frame}"


def test_formats_and_declared_targets(root: Path) -> None:
    data = NYUv2(root, size=(64, 48), normals="depth")
    sample = data[0]
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 48, 64), torch.float32)
    found = {name: (tuple(value.shape), value.dtype) for name, value in sample["targets"].items()}
    assert found == {
        "segmentation": ((48, 64), torch.int64),
        "depth": ((1, 48, 64), torch.float32),
        "normals": ((3, 48, 64), torch.float32),
    }
    assert {name: target.type for name, target in data.targets.items()} == {name: name for name in found}
    assert data.targets["segmentation"].classes == CLASSES_13
    assert NYUv2(root, classes=40).targets["segmentation"].classes == CLASSES_40
    assert "Silberman" in data.licence


def test_fourteen_classes_count_what_is_unlabelled(root: Path) -> None:
    with_background, plain = NYUv2(root, classes=14), NYUv2(root)
    assert with_background.targets["segmentation"].classes == ("background", *CLASSES_13)
    labels = plain[0]["targets"]["segmentation"]
    assert (labels == -1).any()
    assert torch.equal(with_background[0]["targets"]["segmentation"], labels + 1)


def test_thirteen_classes_are_joined_from_forty(root: Path) -> None:
    fine, coarse = NYUv2(root, classes=40)[0]["targets"]["segmentation"], NYUv2(root)[0]["targets"]["segmentation"]
    for label in range(-1, 40):
        assert (coarse[fine == label] == (-1 if label < 0 else TO_13[label] - 1)).all(), label
    assert set(coarse.unique().tolist()) == set(range(-1, 13))
    names = {CLASSES_40[i]: CLASSES_13[TO_13[i] - 1] for i in range(40)}
    assert (names["bed"], names["floor mat"], names["television"]) == ("bed", "floor", "tv")
    assert (names["blinds"], names["night stand"], names["other prop"]) == ("window", "furniture", "objects")


def test_depth_filled_or_raw_zero_is_unknown(small: Path) -> None:
    with h5py.File(small / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["rawDepths"][0, 300, 200] = np.nan  # column 300, row 200
        file["rawDepths"][0, 302, 200] = -1
        file["rawDepths"][0, 304, 200] = np.inf
    filled, raw = (
        NYUv2(small, depth=kind, crop=None, holdout=0)[0]["targets"]["depth"][0] for kind in ("filled", "raw")
    )
    expected = torch.from_numpy(layout.raw(layout.room(0)[0], 0))
    expected[200, [300, 302, 304]] = 0
    assert torch.equal(raw, expected)
    assert (raw[:, ::7] == 0).all()
    assert (filled > 0).all()


@pytest.mark.parametrize("crop", ["eigen", "gupta", None])
def test_camera_is_that_of_the_pixels_returned(root: Path, crop) -> None:
    data = NYUv2(root, crop=crop)
    assert data.camera == data.camera_of(0) == pytest.approx(layout.camera(CROPS[crop]))
    assert NYUv2(root, crop=crop, size=(100, 100)).camera == data.camera
    if crop is None:  # the toolbox's numbers; it counts pixels from 1
        assert data.camera[0] * 640 == pytest.approx(518.857901)
        assert data.camera[2] * 640 + 0.5 == pytest.approx(325.582449)
        assert data.camera[3] * 480 + 0.5 == pytest.approx(253.736166)


def test_resizing_invents_no_values(root: Path) -> None:
    whole, small = (NYUv2(root, size=size, normals="depth")[2] for size in (None, (56, 42)))
    y, x = ((torch.arange(n) + 0.5) * m / n for n, m in ((42, 427), (56, 561)))
    for name, values in small["targets"].items():
        assert torch.equal(values, whole["targets"][name][..., y.long()[:, None], x.long()]), name
    assert small["image"].shape == (3, 42, 56)
    # Resizing keeps the mean, except for the edges.
    assert small["image"].mean() == pytest.approx(whole["image"].mean().item(), abs=0.01)


def test_normals_from_depth(root: Path) -> None:
    data = NYUv2(root, "test", normals="depth", depth="raw")  # the normals come from the filled depth anyway
    normals = data[3]["targets"]["normals"]
    known = normals.norm(dim=0) > 0.5
    assert known.float().mean() > 0.9
    cosine = (normals * torch.from_numpy(layout.room(7)[1][layout.EIGEN]).permute(2, 0, 1)).sum(0)
    assert cosine[known].mean() > 0.995
    assert known[0].any()  # normals are computed before the crop, so the border of the crop has them too
    assert "computed from the filled depth" in notes(data)
    with pytest.raises(ValueError, match=r"data\.convention=zyx is of no use: there are no files of normals"):
        NYUv2(root, normals="depth", convention="zyx")


def test_without_normals_the_notes_say_what_to_do(root: Path) -> None:
    data = NYUv2(root)
    assert "normals" not in data.targets
    assert "normals" not in data[0]["targets"]
    assert "No normals" in notes(data)
    assert "data.normals=depth" in notes(data)
    assert "https://web.archive.org/web/20220412033406/" in notes(data)
    assert "https://www.dropbox.com/s/dn5sxhlgml78l03/nyu_normals_gt.zip" in notes(data)
    with pytest.raises(ValueError, match="no files of normals"):
        NYUv2(root, convention="zyx")


def test_notes_tell_the_form_and_other_counts(root: Path) -> None:
    data = NYUv2(root)
    assert "The official nyu_depth_v2_labeled.mat, rows 44 to 470, columns 40 to 600." in data.notes
    assert "6 training and 4 test frames; the published data has 795 and 654." in data.notes
    assert "data.classes=40 keeps them" in notes(data)
    assert "data.classes=40" not in notes(NYUv2(root, classes=40))


def test_the_file_itself_or_a_folder_above_may_be_the_root(root: Path, small: Path) -> None:
    assert NYUv2(small.parent, "test").label(0) == NYUv2(small, "test").label(0)
    for place in (root, root / "nyu_depth_v2_labeled.mat"):
        assert len(NYUv2(place, form="official", holdout=0)) == 6
        with pytest.raises(ValueError, match=r"data\.form=mtan, but data\.root=.* holds the form official\."):
            NYUv2(place, form="mtan")
    assert NYUv2(str(root / "nyu_depth_v2_labeled.mat")).label(0) == NYUv2(root).label(0)


def test_validation_holds_out_whole_scenes(root: Path) -> None:
    parts = {split: NYUv2(root, split, holdout=0.3) for split in ("train", "val")}
    frames = {s: [int(data.label(i).split()[-1]) for i in range(len(data))] for s, data in parts.items()}
    assert sorted(frames["train"] + frames["val"]) == list(TRAIN)
    assert not {i // 2 for i in frames["train"]} & {i // 2 for i in frames["val"]}
    assert len(frames["val"]) >= 2
    assert f"Validation: {len(frames['val'])} training frames, all those of " in notes(parts["val"])
    assert len(NYUv2(root, holdout=0)) == 6
    with pytest.raises(ValueError, match=r"'val' is empty with data\.holdout=0"):
        NYUv2(root, "val", holdout=0)
    with pytest.raises(ValueError, match=r"data\.holdout: expected a number >= 0 and < 1, found 1"):
        NYUv2(root, "val", holdout=1)


def test_limit_takes_the_first_frames(root: Path) -> None:
    data = NYUv2(root, "test", limit=2)
    assert [data.label(i).split()[-1] for i in range(len(data))] == ["0", "1"]
    assert len(NYUv2(root, "test", limit=100)) == 4


def test_changing_a_sample_leaves_the_data_set_alone(root: Path) -> None:
    data = NYUv2(root, normals="depth")
    before, again = data[1], data[1]
    again["image"].fill_(0.5)
    for value in again["targets"].values():
        value.fill_(0)
    assert torch.equal(data[1]["image"], before["image"])
    assert all(torch.equal(data[1]["targets"][name], value) for name, value in before["targets"].items())


def test_forked_workers_read_what_the_parent_reads(root: Path) -> None:
    data = NYUv2(root, "test", size=(64, 48))
    expected = [data[i] for i in range(len(data))]  # the parent's file is open now
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for found, sample in zip(loader, expected, strict=True):
        assert torch.equal(found["image"], sample["image"])
        assert torch.equal(found["targets"]["depth"], sample["targets"]["depth"])
    assert torch.equal(data[0]["image"], expected[0]["image"])


def test_forked_workers_open_the_file_themselves(small: Path) -> None:
    data = NYUv2(small, "test")
    old = data[0]["targets"]["depth"]
    other = Path(shutil.copy(small / "nyu_depth_v2_labeled.mat", small / "other.mat"))
    with h5py.File(other, "r+") as file:
        file["depths"][2] = 1.5
    other.replace(small / "nyu_depth_v2_labeled.mat")  # the parent still has the old one open
    (found,) = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert (found["targets"]["depth"] == 1.5).all()
    assert torch.equal(data[0]["targets"]["depth"], old)


def test_pickling_for_spawned_workers_takes_no_open_file_along(root: Path) -> None:
    data = NYUv2(root)
    before = data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[0]["image"], before["image"])
    assert copy.notes == data.notes


def test_nothing_is_written_beside_the_data(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    NYUv2(root)[0]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_labels40_stand_in_for_the_class_map(small: Path) -> None:
    expected = NYUv2(small, classes=40, holdout=0)[1]["targets"]["segmentation"]
    (small / "classMapping40.mat").unlink()
    mapped = np.stack([np.append(0, layout.to_40())[layout.labels(i, 894)] for i in range(3)], axis=-1)
    savemat(small / "labels40.mat", {"labels40": mapped.astype(np.uint8)})
    data = NYUv2(small, classes=40, holdout=0)
    assert torch.equal(data[1]["targets"]["segmentation"], expected)
    assert "labels40.mat take 1 MB" in notes(data)
    mapped[100, 100, 1] = 41
    savemat(small / "labels40.mat", {"labels40": mapped.astype(np.uint8)})
    with pytest.raises(BadSampleError, match=r"labels40\.mat holds the labels 41; expected whole numbers from 0 to 40"):
        NYUv2(small, holdout=0)[1]
    savemat(small / "labels40.mat", {"labels40": mapped[..., :2]})
    with pytest.raises(ValueError, match=r"shape \(480, 640, 2\), expected \(480, 640, 3\)"):
        NYUv2(small)


def test_missing_files_are_named_with_their_source(small: Path) -> None:
    (small / "classMapping40.mat").rename(small / "x.mat")
    with pytest.raises(
        FileNotFoundError, match=r"lacks classMapping40\.mat.*labels40\.mat.*ankurhanda/nyuv2-meta-data"
    ):
        NYUv2(small)
    (small / "splits.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks splits\.mat.*ankurhanda/nyuv2-meta-data"):
        NYUv2(small)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainNdxs": [[1], [2]], "testNdxs": [[2]]}, "does not split 3 frames"),
        ({"trainNdxs": [[1], [2]], "testNdxs": [[4]]}, "does not split 3 frames"),
        ({"trainNdxs": [[0], [2]], "testNdxs": [[1]]}, "does not split 3 frames"),
        ({"trainNdxs": [[1], [2]]}, "holds no array of numbers 'testNdxs'"),
    ],
)
def test_wrong_splits(small: Path, values: dict, message: str) -> None:
    savemat(small / "splits.mat", values)
    with pytest.raises(ValueError, match=rf"splits\.mat.*{message}"):
        NYUv2(small)


def test_damaged_small_files(small: Path) -> None:
    data = (small / "classMapping40.mat").read_bytes()
    (small / "classMapping40.mat").write_bytes(data[:-200])
    with pytest.raises(ValueError, match=r"classMapping40\.mat is damaged"):
        NYUv2(small)
    savemat(small / "classMapping40.mat", {"mapClass": np.full((1, 894), 41)})
    with pytest.raises(ValueError, match="must hold ids from 1 to 40"):
        NYUv2(small)
    data = (small / "splits.mat").read_bytes()
    for damaged in (data[:143] + b"9999" + data[147:], b""):  # an array of no type, which SciPy does not expect
        (small / "splits.mat").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"splits\.mat is damaged"):
            NYUv2(small)


def test_a_label_that_the_map_lacks(small: Path) -> None:
    with h5py.File(small / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["labels"][1, 300, 200] = 895
    data = NYUv2(small, holdout=0)
    data[0]
    with pytest.raises(
        BadSampleError, match=r"labeled\.mat, frame 1 holds the label 895, but .*40\.mat knows 1 to 894"
    ):
        data[1]


def test_truncated_mat(small: Path) -> None:
    file = small / "nyu_depth_v2_labeled.mat"
    file.write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"labeled\.mat cannot be read: .*truncated.*2,972,037,809 bytes"):
        NYUv2(small)


@pytest.mark.parametrize("mark", [b"TREE", b"HEAP", b"SNOD"])
def test_damage_inside_of_the_mat(small: Path, mark: bytes) -> None:
    file = small / "nyu_depth_v2_labeled.mat"
    content = file.read_bytes()
    file.write_bytes(content.replace(mark, b"9999", 1))
    with pytest.raises(ValueError, match=r"labeled\.mat cannot be read: .*2,972,037,809 bytes"):
        NYUv2(small)


def test_labels_that_are_no_whole_numbers(small: Path) -> None:
    path = small / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as file:
        values = file["labels"][()]
    for changed in (values + 0.5, values.astype("S3")):
        with h5py.File(path, "r+") as file:
            del file["labels"]
            file["labels"] = changed
        with pytest.raises(BadSampleError, match=r"labeled\.mat, frame 0 holds (the labels|no numbers)"):
            NYUv2(small, holdout=0)[0]


def test_a_damaged_frame_among_good_ones(small: Path) -> None:
    file = small / "nyu_depth_v2_labeled.mat"
    with h5py.File(file) as data:
        chunk = data["labels"].id.get_chunk_info(1)
    content = bytearray(file.read_bytes())
    content[512 + chunk.byte_offset + 200 : 512 + chunk.byte_offset + 400] = b"\xff" * 200
    file.write_bytes(content)
    data = NYUv2(small, holdout=0)
    data[0]
    with pytest.raises(BadSampleError, match=r"labeled\.mat, frame 1 is damaged"):
        data[1]


def test_other_files_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "nyu_depth_v2_labeled.mat"
    savemat(file, {"depths": np.zeros((3, 3))})
    with pytest.raises(ValueError, match=r"cannot be read: it is a MATLAB file older than v7\.3.*cs\.nyu\.edu"):
        NYUv2(file)
    file.unlink()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ValueError, match="cannot be read: it is a zip archive"):
        NYUv2(tmp_path)
    file.write_text("<!DOCTYPE html><html>404")
    with pytest.raises(ValueError, match=r"cannot be read: .*file signature not found"):
        NYUv2(tmp_path)
    with h5py.File(file, "w") as data:
        data["SUNRGBD2Dseg"], data["depths"] = [1], [2]
    with pytest.raises(ValueError, match="lacks images, rawDepths, labels, scenes; found SUNRGBD2Dseg, depths"):
        NYUv2(tmp_path)


def test_arrays_of_another_shape(small: Path) -> None:
    with h5py.File(small / "nyu_depth_v2_labeled.mat", "r+") as data:
        values = data["labels"][()].transpose(0, 2, 1)
        del data["labels"]
        data["labels"] = values
    with pytest.raises(ValueError, match=r"labels in .* has the shape \(3, 480, 640\), expected \(3, 640, 480\)"):
        NYUv2(small)


def test_options_out_of_range(root: Path) -> None:
    for options, message in (
        ({"split": "valid"}, "has no split 'valid'. Did you mean 'val'"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"classes": 894}, r"data\.classes: expected one of 13, 14, 40, found 894"),
        ({"crop": "center"}, r"data\.crop: expected one of eigen, gupta or null, found 'center'"),
        ({"depth": "row"}, r"data\.depth: expected one of filled, raw, found 'row'\. Did you mean 'raw'\?"),
        ({"convention": "xyy"}, r"data\.convention: expected 'auto' or the axis .* found 'xyy'"),
    ):
        with pytest.raises(ValueError, match=message):
            NYUv2(root, **options)
    with pytest.raises(ValueError, match=r"data set 'nyuv2' has no option 'croop'. Did you mean 'crop'"):
        DATASETS.build("nyuv2", root=root, croop="eigen")


def test_roots_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.root is not set.*_labeled\.mat \(from https://cs\.nyu.*dropbox.*drive\.google"
    ):
        NYUv2(None)
    with pytest.raises(FileNotFoundError, match="does not exist; expected a folder with nyu_depth_v2_labeled"):
        NYUv2(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no form of NYUv2: neither nyu_depth.*MTAN.*Found: nothing\."):
        NYUv2(tmp_path)
    (tmp_path / "nyuv2").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Found: nyuv2\."):
        NYUv2(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileNotFoundError, match="loop"):
        NYUv2(tmp_path / "loop")
    (tmp_path / "nyu_depth_v2_labeled.mat").symlink_to(tmp_path / "nyu_depth_v2_labeled.mat")
    with pytest.raises(ValueError, match=r"labeled\.mat cannot be read: .*symbolic links"):
        NYUv2(tmp_path)


def test_a_loop_of_links_among_the_normals(small: Path) -> None:
    layout.eigen(small / "normals_gt", count=3)
    shutil.rmtree(small / "normals_gt" / "masks")
    (small / "normals_gt" / "masks").symlink_to(small / "normals_gt" / "masks")
    with pytest.raises(FileNotFoundError, match=r"masks cannot be listed: .*symbolic links"):
        NYUv2(small)
