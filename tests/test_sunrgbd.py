"""The data set sunrgbd: its layouts, values, splits and errors."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from layouts import sunrgbd as layout
from PIL import Image
from scipy.io import savemat
from tolerances import SINGLE, SINGLE_SUM
from torch.utils.data import DataLoader

from mtlkit.data.dataset import DATASETS, BadSampleError
from mtlkit.data.geometry import normals_from_depth
from mtlkit.datasets.nyuv2.classes import CLASSES_13, CLASSES_40, TO_13
from mtlkit.datasets.sunrgbd import SunRGBD
from mtlkit.datasets.sunrgbd.index import frame_folder
from mtlkit.datasets.sunrgbd.scenes import hold_out, scenes
from mtlkit.datasets.sunrgbd.values import coding_of, metres

SIZE = (9, 7)
FIRST = layout.TRAIN[0]  # of the sensor kv2
SEGMENTATION, META, SPLIT = "Metadata/SUNRGBD2Dseg.mat", "Metadata/SUNRGBDMeta.mat", "traintestSUNRGBD/allsplit.mat"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """SUNRGBD and SUNRGBDtoolbox. Tests must not change them."""
    root = tmp_path_factory.mktemp("sunrgbd")
    layout.write_frames(root)
    layout.write_toolbox(root)
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    """A copy that tests may damage."""
    return Path(shutil.copytree(published, tmp_path / "data"))


def whole(root: Path, split: str = "train", **options) -> SunRGBD:
    return SunRGBD(root, split, size=SIZE, holdout=0, **options)


def shrunk(values: np.ndarray) -> np.ndarray:
    """Returns the values at SIZE: each pixel is the source pixel below its centre."""
    height, width = values.shape[:2]
    rows = [(2 * y + 1) * height // (2 * SIZE[1]) for y in range(SIZE[1])]
    columns = [(2 * x + 1) * width // (2 * SIZE[0]) for x in range(SIZE[0])]
    return np.array([[values[y, x] for x in columns] for y in rows])


def folders(data: SunRGBD) -> list[str]:
    return [str(Path(data.label(i)).relative_to(data.images)) for i in range(len(data))]


def path_of(root: Path, folder: str, part: str) -> Path:
    """Returns the only file of a part of a frame."""
    (path,) = (root / "SUNRGBD" / folder / part).iterdir()
    return path


@pytest.mark.parametrize(("split", "frames"), [("train", layout.TRAIN), ("test", layout.TEST)])
def test_every_sample_has_the_values_of_its_own_files(published: Path, split: str, frames: tuple[str, ...]) -> None:
    data = whole(published, split)
    assert folders(data) == list(frames)
    for i, folder in enumerate(frames):
        sample = data[i]
        image, targets = sample["image"], sample["targets"]
        assert (image.shape, image.dtype) == ((3, 7, 9), torch.float32)
        assert image[:, :, :3].mean((1, 2)).tolist() == pytest.approx(
            # JPEG changes the colours a little.
            [c / 255 for c in layout.colour(folder)],
            abs=0.02,
        )
        assert image[:, :, -3:].max() < 0.03
        label, depth = targets["segmentation_37"], targets["depth"]
        assert (label.dtype, depth.shape, depth.dtype) == (torch.int64, (1, 7, 9), torch.float32)
        assert np.array_equal(label.numpy(), shrunk(layout.label(folder)).astype(int) - 1)
        expected = np.minimum(shrunk(layout.depth(folder)) / 1000, 8)
        np.testing.assert_allclose(depth[0].numpy(), expected, rtol=SINGLE)
        assert list(targets) == list(data.targets)


def test_images_have_their_own_size_without_data_size(published: Path) -> None:
    data = SunRGBD(published, limit=6, holdout=0)  # all frames of kv2
    sample = data[5]
    assert sample["image"].shape == (3, 14, 20)
    assert np.array_equal(sample["targets"]["segmentation_37"].numpy(), layout.label(layout.TRAIN[5]).astype(int) - 1)
    assert sample["targets"]["depth"][0, 0, 0] == 8


def test_sizes_of_several_sensors_are_refused_at_once(published: Path) -> None:
    with pytest.raises(ValueError, match=r"differ in size: 20 x 14 \(kv2/.*16 x 12 \(kv1/.*Set data\.size=\[width"):
        SunRGBD(published)
    with pytest.raises(ValueError, match="differ in size: 20 x 14"):
        SunRGBD(published, limit=7, holdout=0)
    assert len(SunRGBD(published, size=[9, 7], limit=7, holdout=0)) == 7


def test_classes_and_their_names(published: Path) -> None:
    data = whole(published)
    assert data.targets["segmentation_37"].classes == CLASSES_40[:37]
    assert data.targets["segmentation"].classes == CLASSES_13
    assert (CLASSES_40[36], TO_13[36]) == ("bag", 7)
    table = torch.tensor([-1] + [TO_13[i] - 1 for i in range(37)])
    for i in range(len(data)):
        targets = data[i]["targets"]
        assert torch.equal(targets["segmentation"], table[targets["segmentation_37"] + 1])


def test_raw_depth(published: Path) -> None:
    data = whole(published, depth="raw")
    for i in (0, 7, 20):
        expected = np.minimum(shrunk(layout.depth(layout.TRAIN[i], "depth")) / 1000, 8)
        assert (expected == 0).any()
        np.testing.assert_allclose(data[i]["targets"]["depth"][0].numpy(), expected, rtol=SINGLE)


@pytest.mark.parametrize(
    ("coding", "words", "farthest"),
    [("rotated", "bits rotated", 8), ("tenths", "tenths of a millimetre", 6.5535), ("plain", "in millimetres, as", 8)],
)
def test_the_coding_of_depth_is_recognised(tmp_path: Path, coding: str, words: str, farthest: float) -> None:
    layout.write_frames(tmp_path, coding)
    layout.write_toolbox(tmp_path)
    for split, frames in (("train", layout.TRAIN), ("test", layout.TEST)):
        data = whole(tmp_path, split)
        assert any(words in note for note in data.notes)
        for i in (0, len(data) - 1):
            expected = np.minimum(shrunk(layout.depth(frames[i])) / 1000, farthest)
            np.testing.assert_allclose(data[i]["targets"]["depth"][0].numpy(), expected, rtol=SINGLE)


def test_rotation_is_undone_for_every_value() -> None:
    millimetres = np.arange(65536, dtype=np.uint16)
    rotated = layout.encode(millimetres)
    assert np.array_equal(metres(rotated, "rotated"), np.minimum(millimetres / 1000, 8).astype(np.float32))


def test_an_empty_depth_picture_does_not_decide_the_coding(tmp_path: Path) -> None:
    for name, values in (("a", np.zeros((4, 4))), ("b", np.full((4, 4), 23_459))):
        (tmp_path / name).mkdir()
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / name / "1.png")
    assert coding_of([tmp_path / "a"]) == "rotated"
    assert coding_of([tmp_path / "a", tmp_path / "b", tmp_path / "missing"]) == "tenths"


def test_the_camera_of_every_frame(published: Path) -> None:
    data = whole(published)
    for i, folder in enumerate(layout.TRAIN):
        (fx, fy, cx, cy), (width, height) = layout.intrinsics(folder), layout.size_of(folder)
        assert data.camera_of(i) == pytest.approx((fx / width, fy / height, cx / width, cy / height), rel=SINGLE_SUM)
    assert data.camera is None


def test_normals_are_computed_from_depth_with_the_frames_own_camera(published: Path) -> None:
    data = whole(published, normals="depth")
    assert data.targets["normals"].type == "normals"
    assert "normals" not in whole(published).targets
    for i in (0, 8, 21):
        normals = data[i]["targets"]["normals"].numpy()
        depth = np.minimum(layout.depth(layout.TRAIN[i]) / 1000, 8)
        expected = shrunk(normals_from_depth(depth, data.camera_of(i)))
        assert normals.shape == (3, 7, 9)
        assert (np.linalg.norm(normals, axis=0) > 0.99).any()
        np.testing.assert_allclose(normals.transpose(1, 2, 0), expected, atol=SINGLE_SUM)


def test_validation_frames_are_of_scenes_of_their_own(published: Path) -> None:
    parts = {split: folders(SunRGBD(published, split, size=SIZE, holdout=0.3)) for split in ("train", "val", "test")}
    scene = dict(zip(layout.TRAIN, scenes(layout.TRAIN), strict=True))
    assert len(parts["val"]) >= 0.3 * len(layout.TRAIN)
    assert not {scene[f] for f in parts["train"]} & {scene[f] for f in parts["val"]}
    unused = set(layout.TRAIN).difference(parts["train"], parts["val"])
    assert unused == set(layout.TRAIN[11:16])  # NYU0040 to NYU0044: too close to NYU0035 to NYU0039, which are in val
    assert parts["test"] == list(layout.TEST)
    for split in ("train", "val"):
        assert parts[split] == [f for f in layout.TRAIN if f in parts[split]]  # in the published order
    note = SunRGBD(published, "val", size=SIZE, holdout=0.3).notes[-1]
    assert note.startswith(
        f"Of the 27 training frames, {len(parts['val'])} are held out for validation, by scene, and 5 "
    )
    assert "of NYUv2 and B3DO within 5 numbers of these are left out" in note


def test_numbered_neighbours_of_validation_frames_are_not_used() -> None:
    """The next block of numbers may show the same room. The two sets are numbered independently."""
    frames = [f"kv1/{name}/{n:04d}" for name in ("NYUdata", "b3dodata") for n in range(100)]
    train, val = hold_out(frames, 0.1)
    numbers = [(frames[i].split("/")[1], int(frames[i][-4:])) for i in range(len(frames))]
    assert len({(name, n // 20) for name, n in (numbers[i] for i in val)}) == 1
    for i in train:
        assert all(numbers[i][0] != numbers[j][0] or abs(numbers[i][1] - numbers[j][1]) > 5 for j in val)
    edges = sum(0 < n < 99 for n in (numbers[val[0]][1], numbers[val[-1]][1]))
    assert len(train) == 200 - 20 - 5 * edges
    assert [part.tolist() for part in hold_out(frames, 0.1)] == [train.tolist(), val.tolist()]
    assert len(hold_out(frames, 0)[0]) == 200
    with pytest.raises(ValueError, match="leaves nothing to train on of 25 frames: those within 5 numbers"):
        hold_out(frames[:25], 0.5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (layout.TRAIN[0], layout.TRAIN[2], True),  # two seconds apart
        (layout.TRAIN[0], layout.TRAIN[3], False),  # an hour apart
        ("realsense/sa/2014_10_21-18_58_24-1311000073", "realsense/sa/2014_10_21-19_02_24-1311000073", True),
        ("realsense/sa/2014_10_21-23_58_24-1311000073", "realsense/sa/2014_10_22-00_02_24-1311000073", True),
        ("realsense/sa/2014_10_21-18_44_24-1311000073", "realsense/sa/2014_10_21-18_54_24-1311000073", True),
        ("realsense/sa/2014_10_21-18_44_24-1311000073", "realsense/sa/2014_10_21-18_54_25-1311000073", False),
        ("kv1/NYUdata/NYU0039", "kv1/NYUdata/NYU0020", True),
        ("kv1/NYUdata/NYU0039", "kv1/NYUdata/NYU0040", False),
        ("kv1/NYUdata/NYU0145", "kv1/b3dodata/img_0145", False),
        ("xtion/sun3ddata/home_amo/floor1v2/0000760-1", "xtion/sun3ddata/home_amo/floor2-1/0000164-2", True),
        ("xtion/sun3ddata/brown_bm_1/brown_bm_1/1", "xtion/sun3ddata/brown_bm_2/brown_bm_2/1", False),
        ("xtion/xtion_align_data/2014_12_18_12_3_40", "kv2/align_kv2/2014-12-18_12-04-09_260595134347", True),
        ("xtion/xtion_align_data/2014_12_18_12_3_40", "xtion/xtion_align_data/2014_12_18_1_2_40", False),
    ],
)
def test_scenes(one: str, other: str, same: bool) -> None:
    for pair in ([one, other], [other, one]):
        assert len(set(scenes(pair))) == 2 - same


def test_frames_that_follow_each_other_are_of_one_scene_however_long_it_takes() -> None:
    frames = [f"kv2/kinect2data/{i:06d}_2014-05-16_20-{6 * i:02d}-30_260595134347_rgbf000121-resize" for i in range(10)]
    assert len(set(scenes(frames))) == 1
    assert len(set(scenes(frames[:4] + frames[6:]))) == 2  # there is no frame for 18 minutes


def test_without_holdout_there_is_no_validation(published: Path) -> None:
    assert folders(whole(published)) == list(layout.TRAIN)
    with pytest.raises(ValueError, match=r"data\.holdout=0 .* no split 'val'.*such as 0\.1"):
        whole(published, "val")


def test_limit_takes_the_first_frames_and_counts_are_told(published: Path) -> None:
    data = whole(published, limit=3)
    assert folders(data) == list(layout.TRAIN[:3])
    assert "There are 27 train frames, 5285 as published." in data.notes
    assert "There are 5 test frames, 5050 as published." in whole(published, "test").notes
    assert str(published / "SUNRGBDtoolbox" / SEGMENTATION) in data.notes[0]
    assert DATASETS.build("sunrgbd", root=published, limit=3).licence


def pictures(root: Path, place: str = ".", to_13: tuple[int, ...] | None = None) -> None:
    shutil.rmtree(root / "SUNRGBDtoolbox", ignore_errors=True)
    layout.write_lists(root / place)
    layout.write_pictures(root / place, to_13)


@pytest.mark.parametrize("place", [".", "sunrgbd-meta-data"])
def test_label_pictures_give_the_same_as_the_toolbox(root: Path, published: Path, place: str) -> None:
    pictures(root, place)
    for split in ("train", "test"):
        data, expected = whole(root, split), whole(published, split)
        assert str(root / place / "sunrgbd_train_test_labels") in data.notes[0]
        assert folders(data) == folders(expected)
        for i in range(len(data)):
            for name in ("segmentation", "segmentation_37"):
                assert torch.equal(data[i]["targets"][name], expected[i]["targets"][name])


def test_label_pictures_of_13_classes(root: Path, published: Path) -> None:
    pictures(root, to_13=TO_13[:37])
    for split in ("train", "test"):
        data, expected = whole(root, split), whole(published, split)
        assert str(root / f"{split}13labels") in data.notes[0]
        for i in range(len(data)):
            assert torch.equal(data[i]["targets"]["segmentation"], expected[i]["targets"]["segmentation"])
        assert "segmentation_37" not in data.targets


def test_the_root_may_be_a_level_too_high_or_be_sunrgbd_itself(root: Path) -> None:
    for place in (root, root.parent, root / "SUNRGBD"):
        assert folders(whole(place)) == list(layout.TRAIN)
        assert whole(place)[3]["targets"]["depth"].max() == 8
    nested = root / "SUNRGBDtoolbox" / "SUNRGBDtoolbox"
    nested.mkdir()
    for name in ("Metadata", "traintestSUNRGBD"):
        (root / "SUNRGBDtoolbox" / name).rename(nested / name)
    assert len(whole(root)) == len(layout.TRAIN)


def test_a_root_too_low_is_told_the_right_one(published: Path) -> None:
    for place in ("kv1", "kv1/NYUdata", "kv1/NYUdata/NYU0035"):
        with pytest.raises(FileNotFoundError, match=rf"is a part of .*set data\.root={published}, the"):
            whole(published / "SUNRGBD" / place)


def test_a_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.root is not set: .* 'sunrgbd'.*, from https://rgbd\.cs\.princeton\.edu"
    ):
        SunRGBD(None)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        whole(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"holds none of the folders SUNRGBD/kv1.*SUNRGBD\.zip"):
        whole(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileNotFoundError, match="loop"):
        whole(tmp_path / "loop")


@pytest.mark.parametrize("name", [SEGMENTATION, META, SPLIT])
def test_a_missing_part_of_the_toolbox(root: Path, name: str) -> None:
    (root / "SUNRGBDtoolbox" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no labels.*SUNRGBDtoolbox\.zip.*toolbox: {name}\)"):
        whole(root)
    shutil.rmtree(root / "SUNRGBDtoolbox")
    with pytest.raises(
        FileNotFoundError, match=rf"missing of SUNRGBDtoolbox: {SEGMENTATION}, {META}, {SPLIT}.*seg\.mat"
    ):
        whole(root)
    pictures(root)
    (root / "sunrgbd_testing_images.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no labels.*sunrgbd_testing_images\.txt"):
        whole(root)


def test_missing_frames_and_parts(root: Path) -> None:
    frames = root / "SUNRGBD"
    shutil.rmtree(frames / layout.TRAIN[8])
    shutil.rmtree(frames / "xtion" / "sun3ddata" / "home_at")
    missing = whole(root).missing
    assert re.search(rf"SUNRGBD lacks 3 of 27 files, the first {layout.TRAIN[8]}.*SUNRGBD\.zip", missing)
    assert len(whole(root)) == 27
    assert not whole(root, limit=8).missing
    assert not whole(root, "test").missing
    for folder in frames.glob("*/*/*/depth"):
        shutil.rmtree(folder)
    assert len(whole(root, "test")) == 5
    assert not whole(root, "test").missing
    assert re.search(r"has no depth\. Unpack SUNRGBD\.zip", whole(root, "test", depth="raw").missing)
    for path in frames.glob("*/*/*/intrinsics.txt"):
        path.unlink()
    assert re.search(r"has no intrinsics\.txt\. Unpack SUNRGBD\.zip", whole(root, "test", normals="depth").missing)


def test_missing_label_pictures(root: Path) -> None:
    pictures(root)
    labels = root / "sunrgbd_train_test_labels"
    for number in (7, 9):
        (labels / f"img-{number:06d}.png").unlink()
    assert re.search(r"labels lacks 2 of 27 files, the first img-000007\.png.*ankurhanda", whole(root).missing)
    assert not whole(root, "test").missing


def not_from_server(toolbox: Path) -> None:
    cells = np.empty((1, 1), object)
    cells[0, 0] = "/home/me/frame"
    savemat(toolbox / SPLIT, {"alltrain": cells})


def version_5(toolbox: Path) -> None:
    savemat(toolbox / SEGMENTATION, {"SUNRGBD2Dseg": np.zeros(3)})


def version_7_3(toolbox: Path) -> None:
    with h5py.File(toolbox / META, "w", userblock_size=512) as file:
        file["SUNRGBDMeta/rgbpath"] = np.zeros(3)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with (toolbox / META).open("r+b") as file:
        file.write(header)


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (lambda t: os.truncate(t / SEGMENTATION, 3000), SEGMENTATION, "damaged or not what its name says"),
        (lambda t: os.truncate(t / META, 300), META, "damaged or not what its name says"),
        (lambda t: os.truncate(t / META, (t / META).stat().st_size - 9), META, "damaged or not what its name says"),
        (lambda t: os.truncate(t / SPLIT, 0), SPLIT, "damaged or not what its name says"),
        (lambda t: (t / SPLIT).write_bytes(b"<html>404</html>" * 20), SPLIT, "damaged or not what its name says"),
        (lambda t: (t / SEGMENTATION).write_bytes(b"<html>404</html>"), SEGMENTATION, "damaged or not what its name"),
        (version_5, SEGMENTATION, "damaged or not what its name says"),
        (version_7_3, META, "damaged or not what its name says"),
        (lambda t: savemat(t / META, {"other": 1}), META, "has no variable SUNRGBDMeta"),
        (lambda t: savemat(t / META, {"SUNRGBDMeta": np.ones(3)}), META, "SUNRGBDMeta has no field rgbpath"),
        (lambda t: savemat(t / SPLIT, {"alltrain": np.ones((2, 2))}), SPLIT, "names '1.0', expected one"),
        (not_from_server, SPLIT, "names '/home/me/frame', expected one with kv1, kv2, realsense, xtion in it"),
        (lambda t: layout.write_meta(t, layout.META[:-2]), SPLIT, f"names 2 frames that .*Meta.mat lacks.*{FIRST}"),
        (lambda t: layout.write_segmentation(t, [layout.label(FIRST)]), SEGMENTATION, r"holds 1 labels, but .* 32 fr"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_toolboxes(root: Path, damage: Callable[[Path], object], name: str, message: str) -> None:
    toolbox = root / "SUNRGBDtoolbox"
    damage(toolbox)
    with pytest.raises(ValueError, match=message) as error:
        whole(root)
    assert str(toolbox / name) in str(error.value)
    assert re.search(r"Unpack (it|SUNRGBDtoolbox\.zip from https://rgbd\.cs\.princeton\.edu) anew", str(error.value))


def write_label(root: Path, values: np.ndarray) -> None:
    labels = [values if folder == FIRST else layout.label(folder) for folder in layout.META]
    layout.write_segmentation(root / "SUNRGBDtoolbox", labels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (layout.label(FIRST) + 1, "values from 1 to 38, expected whole numbers from 0 .void. to 37"),
        (layout.label(FIRST).astype(np.int16) - 1, "values from -1 to 36"),
        (layout.label(FIRST) * 0.5, "from 0 to 18.5, expected whole numbers"),
        (np.full((14, 20), np.nan), "values from nan to nan"),
        (np.zeros((14, 20, 3), np.uint8), r"holds uint8 \(14, 20, 3\), expected numbers \(height, width\)"),
        (np.zeros((0, 0), np.uint8), r"holds uint8 \(0, 0\), expected numbers"),
        (layout.label(FIRST).T, "has 14 x 20 pixels, but the image in .* 20 x 14"),
    ],
)
def test_labels_out_of_range_or_shape(root: Path, values: np.ndarray, message: str) -> None:
    write_label(root, values.transpose(2, 1, 0).T if values.ndim == 3 else values)
    data = whole(root)
    with pytest.raises(BadSampleError, match=message) as error:
        data[0]
    assert f"SUNRGBD2Dseg.mat (label {len(layout.META)}, of {FIRST})" in str(error.value)
    assert data[1]["image"].shape == (3, 7, 9)


def test_a_label_that_went_missing(root: Path) -> None:
    data = whole(root)
    with h5py.File(root / "SUNRGBDtoolbox" / SEGMENTATION, "a") as file:
        file["SUNRGBD2Dseg/seglabel"][len(layout.META) - 1, 0] = h5py.Reference()
    with pytest.raises(BadSampleError, match=r"label 32, of kv2.*cannot be read"):
        data[0]
    (root / "SUNRGBDtoolbox" / SEGMENTATION).unlink()
    with pytest.raises(BadSampleError, match=r"label 31, of kv2.*cannot be read"):
        data[1]


def save(values: np.ndarray, file_format: str = "png") -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values).save(path, file_format)


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("image", lambda path: os.truncate(path, 200), "damaged or not what its name says"),
        ("image", lambda path: path.write_bytes(b""), "damaged or not what its name says"),
        ("image", lambda path: path.unlink(), r"image is missing or holds none, expected one \.jpg or \.png file"),
        (
            "image",
            lambda path: shutil.copy(path, path.with_name("b.jpg")),
            r"image holds 000065_2.jpg, b.jpg, expected",
        ),
        ("depth_bfx", lambda path: os.truncate(path, 100), "damaged or not what its name says"),
        ("depth_bfx", lambda path: path.unlink(), r"depth_bfx is missing or holds none, expected one \.png file"),
        ("depth_bfx", lambda path: shutil.rmtree(path.parent), "depth_bfx is missing or holds none"),
        ("depth_bfx", save(np.zeros((14, 20), np.uint8), "jpeg"), "is a JPEG file, whatever its name says"),
        ("depth_bfx", save(np.zeros((14, 20), np.uint8)), "holds uint8 values, expected a PNG of 16 bits"),
        ("depth_bfx", save(np.zeros((14, 20, 3), np.uint8)), r"holds \(14, 20, 3\) values, expected 1 per pixel"),
        ("depth_bfx", save(np.zeros((14, 21), np.uint16)), "has 21 x 14 pixels, but the image in .* 20 x 14"),
    ],
)
def test_damaged_pictures(root: Path, part: str, damage: Callable[[Path], object], message: str) -> None:
    data = whole(root)
    damage(path_of(root, FIRST, part))
    with pytest.raises(BadSampleError, match=message) as error:
        data[0]
    assert FIRST in str(error.value)
    assert len(data) == len(whole(root) if part == "image" else data)


def test_damaged_label_pictures(root: Path) -> None:
    pictures(root)
    path = root / "sunrgbd_train_test_labels" / "img-000006.png"
    data = whole(root)
    for values, file_format, message in (
        (layout.label(FIRST), "jpeg", "is a JPEG file"),
        (layout.label(FIRST) + 1, "png", "from 1 to 38, expected whole numbers from 0"),
        (layout.label(FIRST)[:, :-1], "png", "has 19 x 14 pixels"),
    ):
        Image.fromarray(values).save(path, file_format)
        with pytest.raises(BadSampleError, match=message) as error:
            data[0]
        assert str(path) in str(error.value)


def test_depth_of_which_nothing_can_be_read_is_refused_at_once(root: Path) -> None:
    for path in (root / "SUNRGBD").glob("**/depth_bfx/*.png"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(BadSampleError, match="damaged or not what its name says"):
        whole(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged or not what its name says"),
        ("1 0 2 0 1 2 0 0", "holds f_x, f_y, c_x, c_y = 1, 1, 2, 2, no pinhole camera of an image of 20 x 14 pixels"),
        ("20 0 10 0 20 7 0 0 nan", "no pinhole camera"),
        ("20 1 10 0 20 7 0 0 1", "no pinhole camera"),
        ("20 0 400 0 20 300 0 0 1", "c_y = 20, 20, 400, 300, no pinhole camera of an image of 20 x 14"),
        ("20,0,10,0,20,7,0,0,1", "damaged or not what its name says"),
    ],
)
def test_damaged_intrinsics(root: Path, text: str, message: str) -> None:
    data = whole(root, normals="depth")
    path = root / "SUNRGBD" / FIRST / "intrinsics.txt"
    path.write_text(text)
    for read in (data.camera_of, data.__getitem__):
        with pytest.raises(BadSampleError, match=message) as error:
            read(0)
        assert str(path) in str(error.value)
    assert whole(root)[0]["image"].shape == (3, 7, 9)  # without normals, the camera is not read


def test_a_link_that_leads_to_itself(root: Path) -> None:
    data = whole(root)
    path = path_of(root, FIRST, "image")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises((BadSampleError, OSError), match="image"):
        data[0]


def test_nothing_is_written_and_a_read_only_root_does(root: Path) -> None:
    before = sorted(root.rglob("*"))
    for path in (root, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data = whole(root, normals="depth")
    assert [set(data[i]["targets"]) for i in (0, 26)] == [{"segmentation", "segmentation_37", "depth", "normals"}] * 2
    for path in (root, *before):
        path.chmod(0o755)
    assert sorted(root.rglob("*")) == before


def test_worker_processes_and_copies_give_the_same(published: Path) -> None:
    data = whole(published, normals="depth")
    first = data[0]  # read before the processes start
    copy = pickle.loads(pickle.dumps(data))
    loaded = list(DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert len(loaded) == len(data)
    for i in (0, 12, 26):
        for other in (loaded[i], copy[i]):
            assert torch.equal(other["image"], data[i]["image"])
            for name, target in data[i]["targets"].items():
                assert torch.equal(other["targets"][name], target)
    first["targets"]["depth"].fill_(3)
    assert data[0]["targets"]["depth"].max() == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "no split 'trian'. Did you mean 'train'"),
        ({"size": (32,)}, r"data\.size must be \[width, height\], whole numbers of at least 1, got \[32\]"),
        ({"size": (32, 0)}, r"whole numbers of at least 1, got \[32, 0\]"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"depth": "refind"}, r"data\.depth: expected one of refined, raw, found 'refind'. Did you mean 'refined'"),
        ({"normals": "yes"}, r"data\.normals: expected one of depth or null, found 'yes'"),
        ({"holdout": 1}, r"data\.holdout: expected a number >= 0 and < 1, found 1"),
        ({"holdout": 0.99}, "holdout=0.99 leaves nothing to train on"),
    ],
)
def test_options_are_checked(published: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SunRGBD(published, **options)


def test_a_list_names_no_frame_outside() -> None:
    assert frame_folder("/n/fs/sun3d/data/SUNRGBD/kv2/a/b", Path("allsplit.mat")) == "kv2/a/b"
    with pytest.raises(ValueError, match=r"allsplit\.mat names 'kv2/\.\./\.\./\.\./home', which leads out of"):
        frame_folder("/n/fs/kv2/../../../home", Path("allsplit.mat"))
