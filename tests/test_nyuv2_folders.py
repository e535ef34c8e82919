"""The data set nyuv2 in the forms that others made: MTAN's arrays, and the folders of ASTMT and its successors."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import nyuv2 as layout
from PIL import Image
from scipy.io import savemat
from tolerances import SINGLE, SINGLE_SUM

from mtlkit.config.composition import compose
from mtlkit.data.dataset import BadSampleError
from mtlkit.data.samples import Samples
from mtlkit.datasets.nyuv2 import NYUv2
from mtlkit.datasets.nyuv2.classes import CLASSES_13, CLASSES_40, TO_13

MTAN, ASTMT = (64, 48), (112, 85)  # the frame sizes of the two layouts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def mtan(tmp_path: Path) -> Path:
    layout.mtan(tmp_path / "mtan")
    return tmp_path / "mtan"


@pytest.fixture
def astmt(tmp_path: Path) -> Path:
    layout.astmt(tmp_path / "astmt")
    return tmp_path / "astmt"


def notes(data: NYUv2) -> str:
    return " ".join(data.notes)


def truth(number: int, size, crop) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns depth (1, H, W) and normals (3, H, W) of a frame of the layouts. Unknown pixels are 0."""
    depth, normals = (torch.from_numpy(v) for v in layout.room(number, size, layout.camera(crop)))
    depth[:2], normals[:, :3] = 0, 0
    return depth[None], normals.permute(2, 0, 1)


def angle(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the largest angle in degrees. Checks that the same pixels are unknown in both."""
    known = expected.norm(dim=0) > 0
    assert torch.equal(found.norm(dim=0) > 0, known)
    assert found.norm(dim=0)[known].numpy() == pytest.approx(1, abs=SINGLE_SUM)
    return float(torch.rad2deg(torch.acos((found * expected).sum(0)[known].clamp(-1, 1))).max())


TYPES = {
    "float64": ((np.float64,) * 4, True),
    "float32, flat depth": ((np.float32, np.int64, np.float32, np.float32), False),
    "float16": ((np.float16, np.float16, np.float16, np.float16), True),
    "bytes": ((np.uint8, np.uint8, np.float32, np.float32), True),  # the label -1 is stored as 255
}


@pytest.mark.parametrize("types", TYPES)
def test_mtan_arrays_of_any_type(tmp_path: Path, types: str) -> None:
    kinds, dense = TYPES[types]
    layout.mtan(tmp_path, types=kinds, dense=dense)
    for split, first, count in (("train", 0, 12), ("test", 100, 11)):
        data = NYUv2(tmp_path, split, holdout=0)
        assert len(data) == count
        for i in (0, 2, count - 1):  # sorted by number: 2.npy comes before 10.npy
            sample, number = data[i], first + i
            assert data.label(i) == str(tmp_path / {"train": "train", "test": "val"}[split] / "image" / f"{i}.npy")
            depth, normals = truth(number, MTAN, layout.EIGEN)
            image = torch.from_numpy(layout.image(number, MTAN)).permute(2, 0, 1) / 255
            assert sample["image"].dtype == torch.float32
            # Some arrays are float16: 11 bits, so relative errors of up to 5e-4.
            assert torch.allclose(sample["image"], image, atol=5e-4)
            expected = torch.from_numpy(layout.labels(number, 13, MTAN).astype(np.int64)) - 1
            assert torch.equal(sample["targets"]["segmentation"], expected)
            # Some arrays are float16, as above.
            assert torch.allclose(sample["targets"]["depth"], depth, rtol=1e-3, atol=0)
            assert angle(sample["targets"]["normals"], normals) < 0.1
    assert data.targets["segmentation"].classes == CLASSES_13
    assert data.camera == pytest.approx(layout.camera(layout.EIGEN))


def test_mtan_says_what_its_folders_are(mtan: Path) -> None:
    data = NYUv2(mtan, holdout=0.08)
    assert "their folder val holds the official test frames: split test" in notes(data)
    assert "12 training and 11 test frames; the published data has 795 and 654." in data.notes
    assert "No scene is known in this form" in notes(data)
    assert "hold xyz" in notes(data)
    assert "the camera is that of Eigen's crop" in notes(data)


def test_published_counts_need_no_note(mtan: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "mtlkit.datasets.nyuv2.folders.Mtan._frames",
        lambda self, part: [(part, "0.npy")] * {"train": 795, "val": 654}[part],
    )
    monkeypatch.setattr("mtlkit.datasets.nyuv2.folders.Mtan.missing", lambda self, keys: "")
    assert "published data" not in notes(NYUv2(mtan))
    assert [len(NYUv2(mtan, split)) for split in ("train", "val", "test")] == [650, 95, 654]


def test_validation_is_a_block_with_unused_neighbours(tmp_path: Path) -> None:
    layout.mtan(tmp_path, train=40, test=1, size=(32, 24))
    numbers = {}
    for split in ("train", "val"):
        data = NYUv2(tmp_path, split, holdout=0.1)
        numbers[split] = [int(Path(data.label(i)).stem) for i in range(len(data))]
    assert numbers["val"] == list(range(numbers["val"][0], numbers["val"][0] + 4))
    assert min(abs(a - b) for a in numbers["train"] for b in numbers["val"]) == 6
    with pytest.raises(ValueError, match=r"'val' is empty with data\.holdout=0"):
        NYUv2(tmp_path, "val", holdout=0)


def test_a_normal_whose_channels_sum_to_zero_is_valid(mtan: Path) -> None:
    values = np.load(mtan / "train" / "normal" / "3.npy")
    values[20, 30] = 0.5**0.5, -(0.5**0.5), 0
    values[21, 30] = np.nan
    values[22, 30] = 0.2, 0.1, 0.2  # a short vector, as between two surfaces
    np.save(mtan / "train" / "normal" / "3.npy", values)
    normals = NYUv2(mtan, holdout=0)[3]["targets"]["normals"]
    # The expected values have four digits.
    assert normals[:, 20, 30].tolist() == pytest.approx([0.7071, -0.7071, 0], abs=1e-4)
    assert normals[:, 21, 30].tolist() == normals[:, 22, 30].tolist() == [0, 0, 0]


def test_mtan_says_how_many_normals_are_not_of_unit_length(mtan: Path) -> None:
    """MTAN's code does not scale normals to unit length, so its angles are larger. The test counts the share itself."""
    assert "All normals in 6 frames are of unit length (up to 1 %)." in NYUv2(mtan, holdout=0).notes
    lengths = []
    for i in range(0, 12, 2):  # at most eight frames, evenly spread, are read: every second of twelve
        path = mtan / "train" / "normal" / f"{i}.npy"
        values = np.load(path)
        values[5] *= 0.97  # as at a pixel between two others on a curved surface
        values[6] *= 0.4  # as at a pixel on an edge
        values[7] *= 0.995
        np.save(path, values)
        lengths.append(np.linalg.norm(values, axis=-1)[values.any(-1)])
    found = np.concatenate(lengths)
    odd, short = (100 * np.mean(part) for part in (np.abs(found - 1) > 0.01, found < 0.5))
    (note,) = [note for note in NYUv2(mtan, holdout=0).notes if "unit length" in note]
    assert note.startswith(f"{odd:.3g} % of the normals in 6 frames are not of unit length (up to 1 %).")
    assert f"those of at most 0.5 ({short:.3g} %) are left out" in note
    assert short < odd < 10
    assert "All normals in 6 frames" in notes(NYUv2(mtan, "test"))  # every second of eleven frames
    normals = NYUv2(mtan, holdout=0)[0]["targets"]["normals"]
    torch.testing.assert_close(normals[:, 5, 10].norm(), torch.tensor(1.0))
    assert not normals[:, 6].any()


def test_mtan_has_thirteen_classes_and_no_other_options(mtan: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.classes=40: the labels of this form have 13 classes only"):
        NYUv2(mtan, classes=40)
    fourteen, thirteen = (NYUv2(mtan, classes=n)[0]["targets"]["segmentation"] for n in (14, 13))
    assert torch.equal(fourteen, thirteen + 1)
    for option, value in (("crop", "gupta"), ("crop", None), ("depth", "raw"), ("normals", "depth")):
        with pytest.raises(ValueError, match=rf"^data\.{option}: for nyu_depth_v2_labeled\.mat only"):
            NYUv2(mtan, **{option: value})
    assert len(NYUv2(mtan, "test", crop="eigen")) == 11


def test_half_of_mtan(mtan: Path) -> None:
    (mtan / "train" / "depth" / "7.npy").unlink()
    data = NYUv2(mtan, holdout=0)
    assert re.search(r"train/depth lacks 1 of 12 files, the first 7\.npy.*unpacking.*dropbox\.com/sh/86n", data.missing)
    assert len(data) == 12
    assert not NYUv2(mtan, holdout=0, limit=7).missing
    assert not NYUv2(mtan, "test").missing
    for file in (mtan / "train" / "depth").iterdir():
        file.unlink()
    missing = NYUv2(mtan, holdout=0, convention="xyz").missing
    assert "train/depth lacks 12 of 12 files, the first 0.npy" in missing
    shutil.rmtree(mtan / "train" / "depth")
    assert NYUv2(mtan, holdout=0, convention="xyz").missing == missing


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_mtan_without_a_part(mtan: Path, part: str, split: str) -> None:
    shutil.rmtree(mtan / part)
    if (part == "val") != (split == "test"):  # this split does not need the part that is missing
        assert not NYUv2(mtan, split).missing
        return
    with pytest.raises(ValueError, match=rf"The split '{split}' has no frames .*mtan/{part} is missing\. .*dropbox"):
        NYUv2(mtan, split)
    for kind in ("image", "label", "depth", "normal"):
        (mtan / part / kind).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"mtan/{part} holds no \.npy files\. .*dropbox"):
        NYUv2(mtan, split)


def test_a_frame_that_is_in_none_of_the_folders_is_told(mtan: Path) -> None:
    assert "between the others" not in notes(NYUv2(mtan))
    for part, numbers in (("train", (3, 7)), ("val", (0,))):
        for kind in ("image", "label", "depth", "normal"):
            for number in numbers:
                (mtan / part / kind / f"{number}.npy").unlink()
    data = NYUv2(mtan, holdout=0)
    assert len(data) == 10
    assert f"{mtan / 'train'} lacks 2 frames between the others, the first being 3.npy." in data.notes
    assert f"{mtan / 'val'} lacks 1 frames between the others, the first being 0.npy." in data.notes


def test_a_root_a_level_too_high_or_too_low(mtan: Path, astmt: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"several forms of NYUv2: {astmt} \(astmt\), {mtan} \(mtan\)\. Choose by"):
        NYUv2(tmp_path)
    assert NYUv2(tmp_path, form="mtan").label(0) == NYUv2(mtan).label(0)
    assert NYUv2(tmp_path, form="astmt").label(0) == NYUv2(astmt).label(0)
    for part in ("train", "val"):
        with pytest.raises(FileNotFoundError, match=rf"is a part of MTAN's arrays: set data\.root={mtan}\."):
            NYUv2(mtan / part)
    for part in ("gt_sets", "images"):
        with pytest.raises(FileNotFoundError, match=rf"is a part of the folders of ASTMT: set data\.root={astmt}\."):
            NYUv2(astmt / part)
    shutil.rmtree(astmt)
    assert NYUv2(tmp_path).label(0) == NYUv2(mtan).label(0)


@pytest.mark.parametrize(
    ("experiment", "form"), [("nyuv2_mtan", "mtan"), ("nyuv2_libmtl", "mtan"), ("nyuv2_cosreg", "official")]
)
def test_published_protocols_fix_the_form(experiment: str, form: str) -> None:
    assert compose(experiment).data.options["form"] == form


def test_only_the_form_that_was_asked_for_is_taken(mtan: Path, astmt: Path) -> None:
    assert len(NYUv2(mtan, "test", form="mtan")) == 11
    assert len(NYUv2(astmt, "test", form="astmt")) == 2
    for root, found, form, source in (
        (mtan, "mtan", "official", r"nyu_depth_v2_labeled\.mat \(from https://cs\.nyu\.edu"),
        (mtan, "mtan", "astmt", r"gt_sets and images .*from https://drive\.google\.com/file/d/14EAEM"),
        (astmt, "astmt", "mtan", r"train/image and val/image .*from https://www\.dropbox\.com/sh/86nssgwm6hm3vkb"),
    ):
        message = (
            rf"data\.form={form}, but data\.root={root} holds the form {found}\. Published figures depend .*{source}"
        )
        with pytest.raises(ValueError, match=message):
            NYUv2(root, form=form)
    with pytest.raises(ValueError, match=r"data\.form: expected one of official, mtan, astmt or null, found 'libmtl'"):
        NYUv2(mtan, form="libmtl")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("label", np.full((48, 64), 13.0), "holds the labels 13; expected whole numbers from -1 to 12"),
        ("label", np.full((48, 64), 1.5), r"holds the labels 1\.5; expected whole numbers"),
        ("label", np.full((48, 64), np.nan), "holds the labels nan; expected whole numbers"),
        ("label", np.full((48, 64), 254, np.uint8), "holds the labels 254; expected"),
        ("label", np.zeros((48, 64, 3)), r"holds an array \(48, 64, 3\), expected \(any, any\)"),
        ("image", np.full((48, 64, 3), 255.0), "holds values from 255 to 255, expected an image in .0, 1."),
        ("image", np.full((48, 64, 3), np.nan), "holds values from nan to nan, expected an image in .0, 1."),
        ("image", np.zeros((3, 48, 64)), r"holds an array \(3, 48, 64\), expected \(any, any, 3\)"),
        ("depth", np.zeros((2, 48, 64)), r"holds an array \(2, 48, 64\), expected \(any, any\)"),
        ("depth", np.ones((64, 48)), "has 48 rows and 64 columns, but its depth 64 and 48"),
        ("normal", np.zeros((48, 64)), r"holds an array \(48, 64\), expected \(any, any, 3\)"),
        ("normal", np.array([{}]), "is damaged or not what its name says"),
    ],
)
def test_a_bad_array_is_named_when_it_is_read(mtan: Path, kind: str, values: np.ndarray, message: str) -> None:
    np.save(mtan / "train" / kind / "5.npy", values, allow_pickle=True)
    data = NYUv2(mtan, holdout=0)
    data[4]
    name = "image" if "its depth" in message else kind
    with pytest.raises(BadSampleError, match=rf"train/{name}/5\.npy.*{message}"):
        data[5]


@pytest.mark.parametrize("kind", ["image", "label", "depth", "normal"])
@pytest.mark.parametrize("length", [0, 40, 1000])
def test_a_truncated_array_is_named_when_it_is_read(mtan: Path, kind: str, length: int) -> None:
    file = mtan / "train" / kind / "0.npy"  # the first file, which the search for the convention also reads
    file.write_bytes(file.read_bytes()[:length])
    data = NYUv2(mtan, holdout=0)
    data[1]
    with pytest.raises(BadSampleError, match=rf"train/{kind}/0\.npy is damaged"):
        data[0]


def test_frames_of_two_sizes_need_a_size(mtan: Path) -> None:
    layout.mtan(mtan / "larger", size=(80, 60), train=1, test=1)
    for kind in ("image", "label", "depth", "normal"):
        shutil.copy(mtan / "larger" / "train" / kind / "0.npy", mtan / "train" / kind / "5.npy")
    with pytest.raises(BadSampleError, match=r"train/image/5\.npy.*\(3, 48, 64\), found float32 \(3, 60, 80\)"):
        Samples(NYUv2(mtan, holdout=0))[0, 5]
    sample = Samples(NYUv2(mtan, holdout=0, size=(32, 24)))[0, 5]
    assert sample["image"].shape == sample["targets"]["normals"].shape == (3, 24, 32)


def test_links_that_loop_within(mtan: Path) -> None:
    for kind in ("image", "normal"):
        file = mtan / "train" / kind / "0.npy"
        file.unlink()
        file.symlink_to("0.npy")
        data = NYUv2(mtan, holdout=0)
        data[1]
        with pytest.raises(BadSampleError, match=r"image/0\.npy is damaged .*symbolic links"):
            data[0]
    shutil.rmtree(mtan / "train" / "depth")
    (mtan / "train" / "depth").symlink_to(mtan / "train" / "depth")
    with pytest.raises(FileNotFoundError, match=r"train/depth cannot be listed: .*symbolic links"):
        NYUv2(mtan)


@pytest.mark.parametrize("flavour", layout.FLAVOURS)
def test_the_flavours_of_astmt(tmp_path: Path, flavour: str) -> None:
    layout.astmt(tmp_path, flavour)
    images, *_, normals_suffix, _ = layout.FLAVOURS[flavour]
    for split, first, count in (("train", 0, 12), ("test", 12, 2)):
        data = NYUv2(tmp_path, split, classes=40, holdout=0)
        assert len(data) == count
        for i in (0, count - 1):
            sample, number = data[i], first + i
            assert data.label(i) == str(tmp_path / "images" / f"img_{5001 + 3 * number}{images}")
            depth, normals = truth(number, ASTMT, layout.GUPTA)
            image = torch.from_numpy(layout.image(number, ASTMT)).permute(2, 0, 1) / 255
            assert (sample["image"] - image).abs().mean() < (0.1 if images == ".jpg" else SINGLE)
            expected = torch.from_numpy(layout.labels(number, 40, ASTMT).astype(np.int64)) - 1
            assert torch.equal(sample["targets"]["segmentation"], expected)
            assert torch.equal(sample["targets"]["depth"], depth)
            found = sample["targets"]["normals"]
            if normals_suffix == ".jpg":
                assert (found * normals).sum(0)[:, 10:].mean() > 0.99
                assert (found[:, 4:, 0] == 0).all()
            else:
                assert angle(found, normals) < (0.1 if normals_suffix == ".npy" else 0.6)
    assert data.targets["segmentation"].classes == CLASSES_40
    assert data.camera == pytest.approx(layout.camera(layout.GUPTA))
    assert f"images {images}" in notes(data)
    assert "val.txt is our split test" in notes(data)
    assert (
        "Frames of 85 x 112 pixels (height x width) are of no known crop, so that their camera is not known"
        in notes(data)
    )
    assert "taken to be that of the crop of Gupta et al., resized." in notes(data)
    assert ("JPEG" in notes(data)) == (normals_suffix == ".jpg")


def test_astmt_labels_can_be_joined_to_thirteen(astmt: Path) -> None:
    fine, coarse = (NYUv2(astmt, "test", classes=n)[0]["targets"]["segmentation"] for n in (40, 13))
    assert torch.equal(coarse, torch.tensor([-1, *(n - 1 for n in TO_13)])[fine + 1])
    assert "The 40 classes are joined to 13" in notes(NYUv2(astmt, "test"))


def test_frames_of_the_whole_size_have_the_whole_camera(tmp_path: Path) -> None:
    layout.astmt(tmp_path, train=1, test=1, size=(640, 480))
    data = NYUv2(tmp_path, "test", convention="xyz")
    assert data.camera == pytest.approx(layout.camera())
    assert "The camera is that of whole frames." in data.notes


@pytest.mark.parametrize(
    ("size", "crop", "note"),
    [
        ((560, 425), layout.GUPTA, "The camera is that of the crop of Gupta et al."),
        ((576, 448), np.s_[16:464, 32:608], "of InvPT's crop of 448 x 576 pixels, taken as a centre crop."),
    ],
)
def test_the_size_of_frames_tells_their_camera(tmp_path: Path, size, crop, note: str) -> None:
    layout.astmt(tmp_path, train=1, test=1, size=size)
    data = NYUv2(tmp_path, "test", convention="xyz")
    assert data.camera == pytest.approx(layout.camera(crop))
    assert note in notes(data)
    assert "not known" not in notes(data)


def test_neighbours_of_astmt_are_those_by_number_whatever_the_list_says(astmt: Path) -> None:
    for file in [file for kind in ("images", "segmentation", "normals", "depth") for file in (astmt / kind).iterdir()]:
        file.rename(file.with_name(f"img_{(int(file.stem[4:]) - 5001) // 3 + 1}{file.suffix}"))
    ids = [f"img_{number}" for number in (7, 2, 11, 1, 12, 4, 10, 3, 9, 5, 8, 6)]
    (astmt / "gt_sets" / "train.txt").write_text("\n".join(ids))
    (astmt / "gt_sets" / "val.txt").write_text("img_14\nimg_13\n")
    data = NYUv2(astmt, holdout=0)
    assert [Path(data.label(i)).stem for i in range(12)] == [f"img_{number}" for number in range(1, 13)]
    (val,) = (NYUv2(astmt, "val", holdout=0.08),)
    assert Path(val.label(0)).stem == "img_7"  # the frame in the middle
    data = NYUv2(astmt, holdout=0.08)
    # All others are less than six numbers from the validation frame.
    assert [Path(data.label(i)).stem for i in range(len(data))] == ["img_1"]


def test_astmt_validation(astmt: Path) -> None:
    assert [len(NYUv2(astmt, split, holdout=0.08)) for split in ("train", "val", "test")] == [1, 1, 2]


@pytest.mark.parametrize("kind", ["images", "segmentation", "normals", "depth"])
def test_astmt_lacks_a_file_in_the_middle(astmt: Path, kind: str) -> None:
    file = next((astmt / kind).glob("img_5013.*"))
    file.unlink()
    data = [NYUv2(astmt, split, holdout=0) for split in ("train", "test")]
    missing = f"{astmt / kind} lacks 1 of {{}} files, the first img_5013{file.suffix}. The download or unpacking is not"
    found = [part.missing.startswith(missing.format(len(part))) for part in data]
    assert sorted(found) == [False, True]
    assert not data[found.index(False)].missing
    shutil.rmtree(astmt / kind)
    with pytest.raises(FileNotFoundError, match=rf"{kind} lacks 14 of the 14 frames .* \(expected \S+ or "):
        NYUv2(astmt)


def test_lists_of_frames(astmt: Path) -> None:
    file = astmt / "gt_sets" / "train.txt"
    lines = file.read_text()
    file.write_text("\n\n" + lines.replace("\n", " \r\n"))  # blank lines and line ends do not matter
    assert len(NYUv2(astmt, holdout=0)) == 12
    file.write_text(lines + "img_5037\n")
    with pytest.raises(ValueError, match="1 frames, such as img_5037, are in both lists"):
        NYUv2(astmt)
    file.write_text(lines + lines)
    with pytest.raises(ValueError, match=r"train\.txt names some frames twice"):
        NYUv2(astmt)
    file.write_text("\n")
    with pytest.raises(ValueError, match=r"train\.txt names no frames"):
        NYUv2(astmt)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt cannot be read: .*drive\.google\.com"):
        NYUv2(astmt)


def test_a_bad_file_of_astmt_is_named_when_it_is_read(astmt: Path) -> None:
    label, image = astmt / "segmentation" / "img_5007.png", astmt / "images" / "img_5007.jpg"
    Image.fromarray(np.full((85, 112), 41, np.uint8)).save(label)
    data = NYUv2(astmt, holdout=0)
    with pytest.raises(BadSampleError, match=r"img_5007\.png holds the labels 41; expected whole numbers from 0 to 40"):
        data[2]
    Image.fromarray(np.zeros((85, 112), np.uint8)).save(label, format="JPEG")
    with pytest.raises(BadSampleError, match=r"img_5007\.png is a JPEG file, whatever its name says"):
        data[2]
    Image.fromarray(np.zeros((85, 112, 3), np.uint8)).save(label)
    with pytest.raises(BadSampleError, match=r"img_5007\.png holds \(85, 112, 3\) values, expected 1 per pixel"):
        data[2]
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(BadSampleError, match=r"img_5007\.jpg is damaged"):
        data[2]
    data[3]


def test_the_first_picture_may_be_damaged(astmt: Path) -> None:
    (astmt / "images" / "img_5001.jpg").write_bytes(b"")
    data = NYUv2(astmt, holdout=0)
    data[1]
    with pytest.raises(BadSampleError, match=r"img_5001\.jpg is damaged"):
        data[0]
    for file in (astmt / "images").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of the pictures in .*images can be read"):
        NYUv2(astmt)


def test_normals_that_are_not_lossless_under_a_lossless_name(tmp_path: Path) -> None:
    layout.astmt(tmp_path, "invpt")
    file = tmp_path / "normals" / "img_5007.png"
    with Image.open(file) as picture:
        picture.save(file, format="JPEG")
    with pytest.raises(BadSampleError, match=r"normals/img_5007\.png is a JPEG file"):
        NYUv2(tmp_path, holdout=0)[2]


def test_matlab_files_of_astmt_that_cannot_be_read(tmp_path: Path) -> None:
    layout.astmt(tmp_path, "astmt")
    file = tmp_path / "depth" / "img_5007.mat"
    data = NYUv2(tmp_path, holdout=0)
    savemat(file, {"depths": np.zeros((85, 112))})
    with pytest.raises(BadSampleError, match=r"img_5007\.mat holds no array of numbers 'depth'"):
        data[2]
    savemat(file, {"depth": np.zeros((85, 112))}, do_compression=True)
    content = file.read_bytes()
    for part in (content[:0], content[:100], content[:140], content[:-20], b"\xff" * 400):
        file.write_bytes(part)
        with pytest.raises(BadSampleError, match=r"img_5007\.mat (is damaged|holds no array)"):
            data[2]


def test_a_list_names_no_frame_outside(astmt: Path) -> None:
    path = astmt / "gt_sets" / "train.txt"
    path.write_text(f"{path.read_text()}../../secret\n")
    with pytest.raises(ValueError, match=r"train\.txt names '\.\./\.\./secret', which leads out of .*astmt\."):
        NYUv2(astmt)
