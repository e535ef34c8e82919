"""The data set nyuv2: normals from files, their encoding, and the search for their convention."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import nyuv2 as layout
from PIL import Image
from tolerances import SINGLE, SINGLE_SUM

from mtlkit.data.dataset import BadSampleError
from mtlkit.datasets.nyuv2 import NYUv2
from mtlkit.datasets.nyuv2 import normals as module
from mtlkit.datasets.nyuv2.normals import CONVENTIONS, decode, parse, rank, turn

TRAIN = (0, 1, 2)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    layout.official(folder / "data", TRAIN, count=4)
    layout.eigen(folder / "eigen", count=4)
    layout.ladicky(folder / "ladicky", TRAIN, count=4)
    return folder


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """The official data without normals. Tests may change it."""
    return Path(shutil.copytree(original / "data", tmp_path / "data"))


@pytest.fixture
def mtan(tmp_path: Path) -> Path:
    layout.mtan(tmp_path / "mtan", train=6, test=1)
    return tmp_path / "mtan"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mtlkit" / "nyuv2"


def convention(data: NYUv2) -> str:
    (note,) = (note for note in data.notes if note.startswith("The channels of the normals hold"))
    return note.split()[6]


def check(found: torch.Tensor, frame: int, crop, holes: bool) -> None:
    """Compares the normals of an official frame with the true ones."""
    normals = layout.room(frame)[1]
    if holes:
        normals[layout.hole(frame)] = 0
        outside = np.ones((480, 640), bool)
        outside[layout.EIGEN] = False
        normals[outside] = 0
    expected = torch.from_numpy(normals[crop]).permute(2, 0, 1)
    known = expected.norm(dim=0) > 0
    assert torch.equal(found.norm(dim=0) > 0, known)
    assert found.norm(dim=0)[known].numpy() == pytest.approx(1, abs=SINGLE_SUM)
    assert (found * expected).sum(0)[known].min() > np.cos(np.radians(0.6))  # degrees: they are stored in bytes


@pytest.mark.parametrize("place", ["beside", "by path", "below the path"])
def test_eigen_normals_with_their_masks(root: Path, original: Path, place: str) -> None:
    folder = {"beside": root / "normals_gt", "by path": original / "eigen", "below the path": root / "x/normals_gt"}[
        place
    ]
    if place != "by path":
        shutil.copytree(original / "eigen", folder)
    path = {"beside": None, "by path": str(folder), "below the path": str(root / "x")}[place]
    data = NYUv2(root, "test", normals=path)
    check(data[0]["targets"]["normals"], 3, layout.EIGEN, holes=True)
    assert convention(data) == "x-yz"
    assert f"The normals are those in {folder}." in data.notes
    if place == "by path":
        check(NYUv2(root, "test", normals=path, crop=None)[0]["targets"]["normals"], 3, np.s_[:480, :640], holes=True)


def test_ladicky_normals_count_frames_from_one(root: Path, original: Path) -> None:
    for split, frame in (("train", 0), ("test", 3)):
        data = NYUv2(root, split, normals=str(original / "ladicky"), crop="gupta", holdout=0)
        check(data[0]["targets"]["normals"], frame, layout.GUPTA, holes=False)
        assert convention(data) == "zyx"


def test_the_convention_may_be_given(root: Path, original: Path) -> None:
    data = NYUv2(root, "test", normals=str(original / "ladicky"), convention="zyx")
    check(data[0]["targets"]["normals"], 3, layout.EIGEN, holes=False)
    other = NYUv2(root, "test", normals=str(original / "ladicky"), convention="z-yx")
    expected = data[0]["targets"]["normals"] * torch.tensor([1, -1, 1])[:, None, None]
    assert torch.equal(other[0]["targets"]["normals"], expected)


def test_folders_of_normals_that_lack_something(root: Path, original: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"absent holds no normals: expected normals/0000\.png.*web\.archive\.org.*nyu_normals_gt\.zip",
    ):
        NYUv2(root, normals=str(tmp_path / "absent"))
    eigen = Path(shutil.copytree(original / "eigen", tmp_path / "eigen"))
    (eigen / "normals" / "0001.png").unlink()

    def missing(folder: Path) -> str:
        """Returns what is missing, for the frames of both splits."""
        return " ".join(NYUv2(root, split, normals=str(folder), holdout=0).missing for split in ("train", "test"))

    assert "lacks the normals of 1 frames, the first being frame 1 (counted" in missing(eigen)
    shutil.rmtree(eigen / "masks")
    shutil.copy(eigen / "normals" / "0000.png", eigen / "normals" / "0001.png")
    assert "lacks the masks of " in missing(eigen)
    ladicky = Path(shutil.copytree(original / "ladicky", tmp_path / "ladicky"))
    (ladicky / "train" / "00003.png").unlink()
    assert "lacks the normals of 1 frames, the first being frame 2" in missing(ladicky)


def test_pictures_of_normals_that_are_none(root: Path, original: Path) -> None:
    shutil.copytree(original / "eigen", root / "normals_gt")
    file, mask = root / "normals_gt" / "normals" / "0003.png", root / "normals_gt" / "masks" / "0003.png"
    data = NYUv2(root, "test")
    Image.new("L", (561, 427)).save(mask)
    with pytest.raises(BadSampleError, match=r"masks/0003\.png holds an array \(427, 561\), expected \(480, 640\)"):
        data[0]
    Image.new("RGB", (561, 427)).save(file)
    with pytest.raises(BadSampleError, match=r"0003\.png holds an array \(427, 561, 3\), expected \(480, 640, 3\)"):
        data[0]
    Image.new("RGB", (640, 480)).save(file, format="JPEG")
    with pytest.raises(BadSampleError, match=r"normals/0003\.png is a JPEG file"):
        data[0]
    Image.new("RGB", (640, 480)).save(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadSampleError, match=r"normals/0003\.png is damaged"):
        data[0]


def vectors(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(20, 30, 3))
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


ENCODINGS = {
    "floats": (lambda n: n, 0.01),
    "half floats": (lambda n: n.astype(np.float16), 0.1),
    "bytes by 127.5": (lambda n: np.rint((n + 1) * 127.5).astype(np.uint8), 0.4),
    "bytes by 127": (lambda n: np.rint((n + 1) * 127).astype(np.uint8), 0.8),
    "bytes rounded down": (lambda n: ((n + 1) * 127.5).astype(np.uint8), 0.8),
    "an image in [0, 1]": (lambda n: (n + 1) / 2, 0.01),
    "not quite of unit length": (lambda n: n * 1.3, 0.01),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_unit_vectors(encoding: str) -> None:
    encode, tolerance = ENCODINGS[encoding]
    expected = vectors()
    found = decode(encode(expected))
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=-1) == pytest.approx(1, abs=SINGLE_SUM)
    angles = np.degrees(np.arctan2(np.linalg.norm(np.cross(found, expected), axis=-1), (found * expected).sum(-1)))
    assert angles.max() < tolerance


@pytest.mark.parametrize("code", [np.uint8(127), np.uint8(128), 0.0, np.nan, np.inf])
def test_codes_for_none(code) -> None:
    values = vectors()
    if isinstance(code, np.uint8):
        values = ENCODINGS["bytes by 127.5"][0](values)
    values[3:5, 7] = code
    found = decode(values)
    assert (found[3:5, 7] == 0).all()
    assert (found.any(-1).sum(), found.shape) == (598, (20, 30, 3))
    assert (decode(np.full((4, 5, 3), code)) == 0).all()


def test_vectors_without_a_negative_part_stay_vectors() -> None:
    facing = np.abs(vectors())
    facing[:18] = 0  # only two of 20 rows keep their vectors
    assert np.abs(decode(facing) - facing).max() < SINGLE
    image = (vectors() + 1) / 2
    image[:18] = 0.5
    assert (decode(image)[:18] == 0).all()
    assert np.abs(decode(image)[18:] - vectors()[18:]).max() < SINGLE


def test_all_conventions_are_told_apart() -> None:
    assert len(set(CONVENTIONS)) == 48
    normals = vectors().astype(np.float32)
    for name in CONVENTIONS:
        channels = layout.stored(normals, name)
        (best, found), (second, _), *_ = ranking = rank([(channels, normals)])
        assert (found, round(best, 5), len(ranking)) == (name, 1, 48)
        assert second < 0.8
        assert np.array_equal(turn(channels, found), normals)
    for name in ("xy", "xxy", "XYZ", "x--yz", "x-y-", "", "auto"):
        with pytest.raises(ValueError, match="the axis that each stored channel holds"):
            parse(name)


def test_pixels_without_a_normal_do_not_count() -> None:
    normals = vectors().astype(np.float32)
    stored, reference = normals.copy(), normals.copy()
    stored[:5], reference[10:15] = 0, 0
    assert rank([(stored, reference)])[0] == (pytest.approx(1), "xyz")
    assert rank([])[0][0] == 0


def rewrite(mtan: Path, change) -> None:
    """Changes the training normals of MTAN's arrays."""
    for i in range(6):
        file = mtan / "train" / "normal" / f"{i}.npy"
        np.save(file, change(np.load(file), i))


def test_arrays_are_turned_as_well(mtan: Path) -> None:
    expected = NYUv2(mtan, holdout=0)[4]["targets"]["normals"]
    rewrite(mtan, lambda n, i: layout.stored(n, "-z-xy"))
    data = NYUv2(mtan, holdout=0)
    assert convention(data) == "-z-xy"
    assert torch.equal(data[4]["targets"]["normals"], expected)


def test_noise_of_a_kinect_does_not_hide_the_convention(mtan: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(6):
        file = mtan / "train" / "depth" / f"{i}.npy"
        depth = 1.3 * np.load(file)
        disparity = 580 * 0.075 / np.where(depth > 0, depth, 1)
        disparity = np.round(8 * (disparity + 0.05 * random.normal(size=depth.shape))) / 8
        np.save(file, np.where(depth > 0, 580 * 0.075 / disparity, 0))
    assert convention(NYUv2(mtan, holdout=0)) == "xyz"


@pytest.mark.parametrize(
    "change",
    [
        lambda n, i: np.random.default_rng(i).normal(size=n.shape),
        lambda n, i: n[:, ::-1],
        lambda n, i: np.where(np.arange(64)[:, None] % 2, n, np.random.default_rng(i).normal(size=n.shape)),
        lambda n, i: np.broadcast_to([0.0, 0.0, -1.0], n.shape),
    ],
)
def test_normals_that_do_not_fit_the_depth_are_refused(mtan: Path, change) -> None:
    rewrite(mtan, change)
    message = (
        r"train/normal do not fit the depth: over 6 frames the mean cosine .* is 0\.\d\d for the best "
        r"convention, \S+, and 0\.\d\d for the second, \S+; expected at least 0\.7 .* set data\.convention"
    )
    with pytest.raises(ValueError, match=message):
        NYUv2(mtan, holdout=0)
    assert len(NYUv2(mtan, holdout=0, convention="xyz")) == 6


def test_normals_of_which_none_can_be_compared_are_refused_with_the_reason(mtan: Path, cache: Path) -> None:
    message = r"the normals in .*train/normal have cannot be found: of 6 frames none .* The first: "
    rewrite(mtan, lambda n, i: n[:-1])
    with pytest.raises(ValueError, match=message + r".*0\.npy has normals of \(47, 64, 3\) and depth of \(48, 64\)"):
        NYUv2(mtan, holdout=0)
    rewrite(mtan, lambda n, i: np.zeros((48, 64, 3)))
    with pytest.raises(ValueError, match=message + r".*image/0\.npy has no pixel with both a normal and depth"):
        NYUv2(mtan, holdout=0)
    for file in (mtan / "train" / "normal").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=message + r".*normal/0\.npy is damaged .* set data\.convention"):
        NYUv2(mtan, holdout=0)
    assert not cache.exists()


def test_only_frames_that_were_compared_are_counted(mtan: Path) -> None:
    rewrite(mtan, lambda n, i: np.random.default_rng(i).normal(size=n.shape))
    for i in (0, 2):
        (mtan / "train" / "depth" / f"{i}.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="over 4 frames the mean cosine"):
        NYUv2(mtan, holdout=0)


def test_a_search_that_failed_is_made_again(mtan: Path, cache: Path) -> None:
    """The cache depends on one file of normals only, and a repair may change other files."""
    good = {file: file.read_bytes() for file in (mtan / "train" / "depth").iterdir()}
    for file in good:
        np.save(file, np.load(file)[:, ::-1])
    with pytest.raises(ValueError, match="do not fit the depth"):
        NYUv2(mtan, holdout=0)
    for file, content in good.items():
        file.write_bytes(content)
    assert convention(NYUv2(mtan, holdout=0)) == "xyz"
    (file,) = cache.iterdir()
    file.write_text('[[0.6, "zyx"], [0.5, "xyz"]]')  # an earlier version could leave such a cache
    assert convention(NYUv2(mtan, holdout=0)) == "xyz"


def test_an_axis_that_no_surface_shows_is_not_guessed(mtan: Path) -> None:
    for i in range(6):  # a floor and a wall; no surface faces left or right
        normals = np.zeros((48, 64, 3))
        normals[:24], normals[24:] = (0, 0, -1), (0, -1, 0)
        v = (np.arange(48) + 0.5) / 48 - layout.camera(layout.EIGEN)[3]
        depth = np.where(np.arange(48) < 24, 3.0, 1 / np.maximum(v / layout.camera(layout.EIGEN)[1], 1e-3))
        np.save(mtan / "train" / "normal" / f"{i}.npy", normals)
        np.save(mtan / "train" / "depth" / f"{i}.npy", np.broadcast_to(depth[:, None], (48, 64)))
    with pytest.raises(ValueError, match=r"is (1\.00|0\.9\d) for the best convention, -?xyz, and (1\.00|0\.9\d) for"):
        NYUv2(mtan, holdout=0)


def test_the_convention_is_kept_until_the_files_change(mtan: Path, cache: Path, monkeypatch) -> None:
    first = NYUv2(mtan, holdout=0)
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())[0][1] == "xyz"
    calls = []
    monkeypatch.setattr(module, "rank", lambda pairs: calls.append(1) or rank(pairs))
    assert NYUv2(mtan, "test").notes[-2] == first.notes[-2]  # the last note is about the lengths in this split
    assert not calls
    rewrite(mtan, lambda n, i: -n)
    assert convention(NYUv2(mtan, holdout=0)) == "-x-y-z"
    assert len(calls) == 1


@pytest.mark.parametrize("content", ["", "[]", "[[1, 2]]", '{"a": 1}', '[[1.0, "xyq"], [0.5, "zyx"]]', "\xff"])
def test_a_damaged_cache_is_not_believed(mtan: Path, cache: Path, content: str) -> None:
    NYUv2(mtan, holdout=0)
    (file,) = cache.iterdir()
    good = file.read_text()
    file.write_bytes(content.encode("latin1"))
    assert convention(NYUv2(mtan, holdout=0)) == "xyz"
    assert file.read_text() == good


def test_without_a_place_for_the_cache_all_is_well(mtan: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert convention(NYUv2(mtan, holdout=0)) == "xyz"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", lambda self: _no_home() if str(self) == "~/.cache" else self)
    assert convention(NYUv2(mtan, holdout=0)) == "xyz"


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
