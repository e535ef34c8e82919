"""The data set `scenes`: the contract, its options and the cache of rendered frames."""

import errno
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlkit.data.dataset import DATASETS
from mtlkit.datasets.scenes import ATTRIBUTES, CLASSES, Scenes, cache, intrinsics, render_frame
from mtlkit.datasets.scenes.render import VERSION

SIZE = (24, 20)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A cache folder with eight frames."""
    folder = tmp_path_factory.mktemp("scenes")
    Scenes(folder, size=SIZE, limit=8)
    return folder


@pytest.fixture
def no_rendering(monkeypatch):
    monkeypatch.setattr(cache, "render_frame", lambda *_: pytest.fail("a frame was rendered although the cache has it"))


def equal(a, b):
    return torch.equal(a["image"], b["image"]) and all(
        torch.equal(a["targets"][k], b["targets"][k]) for k in a["targets"]
    )


@pytest.mark.usefixtures("no_rendering")
def test_samples_keep_the_contract(root):
    scenes = Scenes(root, size=SIZE, limit=8, controls=("noise", "opposite", "duplicate"))
    assert len(scenes) == 8
    assert [t.type for t in scenes.targets.values()] == [
        *("segmentation", "depth", "normals", "multilabel"),
        *("segmentation", "normals", "segmentation"),
    ]
    assert scenes.targets["segmentation"].classes == CLASSES
    assert scenes.targets["attributes"].classes == ATTRIBUTES
    for k in range(8):
        sample = scenes[k]
        image, targets = sample["image"], sample["targets"]
        assert targets.keys() == scenes.targets.keys()
        assert image.shape == (3, 20, 24)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        for name in ("segmentation", "noise", "duplicate"):
            assert targets[name].shape == (20, 24)
            assert targets[name].dtype == torch.int64
            assert -1 <= targets[name].min() <= targets[name].max() < 13
        assert targets["depth"].shape == (1, 20, 24)
        assert targets["depth"].dtype == torch.float32
        seen = targets["depth"][0] > 0
        for name in ("normals", "opposite"):
            assert targets[name].shape == (3, 20, 24)
            assert targets[name].dtype == torch.float32
            # The cache keeps each component of a normal in 16 bits, with errors of up to 3e-5.
            torch.testing.assert_close(targets[name].norm(dim=0), seen.float(), atol=1e-4, rtol=0)
            assert (targets[name][2] < 0.7).all()
        assert targets["attributes"].shape == (12,)
        assert set(targets["attributes"].tolist()) <= {0.0, 1.0}
        assert torch.equal(targets["duplicate"], targets["segmentation"])
        assert torch.equal(targets["opposite"][:2], -targets["normals"][:2])
        assert torch.equal(targets["opposite"][2], targets["normals"][2])
        assert len(targets["noise"].unique()) == 13


@pytest.mark.usefixtures("no_rendering")
def test_samples_are_the_rendered_frames(root):
    sample, frame = Scenes(root, size=SIZE, limit=8)[3], render_frame(3, size=SIZE)
    np.testing.assert_allclose(sample["image"].numpy(), np.moveaxis(frame.image, 2, 0), atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(sample["targets"]["segmentation"].numpy(), frame.label)
    np.testing.assert_allclose(sample["targets"]["depth"][0].numpy(), frame.depth, atol=0.5e-3 + 1e-6)
    # As above: 16 bits per component.
    np.testing.assert_allclose(sample["targets"]["normals"].numpy(), np.moveaxis(frame.normals, 2, 0), atol=1e-4)
    np.testing.assert_array_equal(sample["targets"]["attributes"].numpy(), frame.attributes)


def test_a_smaller_limit_is_a_prefix_and_splits_and_seeds_differ(root, tmp_path):
    many, few = Scenes(root, size=SIZE, limit=8), Scenes(tmp_path, size=SIZE, limit=2)
    assert len(few) == 2
    assert all(equal(few[k], many[k]) for k in range(2))
    assert not equal(many[0], many[1])
    for options in ({"split": "val"}, {"dataset_seed": 1}):
        assert not equal(Scenes(tmp_path, size=SIZE, limit=1, **options)[0], many[0])


@pytest.mark.usefixtures("no_rendering")
def test_indices_are_checked(root):
    scenes = Scenes(root, size=SIZE, limit=8)
    assert equal(scenes[-1], scenes[7])
    with pytest.raises(IndexError):
        scenes[8]


@pytest.mark.usefixtures("no_rendering")
def test_depth_in_decimetres(root):
    metres, tenths = (Scenes(root, size=SIZE, limit=8, depth_unit=u)[0]["targets"]["depth"] for u in ("m", "dm"))
    torch.testing.assert_close(tenths, 10 * metres)


@pytest.mark.usefixtures("no_rendering")
def test_a_data_set_travels_to_a_worker_without_its_frames(root):
    scenes = Scenes(root, size=SIZE, limit=8)
    packed = pickle.dumps(scenes)
    assert len(packed) < 4000
    assert equal(pickle.loads(packed)[2], scenes[2])


@pytest.mark.usefixtures("no_rendering")
def test_intrinsics_are_those_of_the_size(root):
    assert Scenes(root, size=SIZE, limit=8).intrinsics() == intrinsics(*SIZE)
    # The published values have four decimals.
    assert intrinsics(640, 480) == pytest.approx((518.8579, 519.4696, 325.5824, 253.7362), abs=1e-3)


def test_the_default_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Scenes(size=(16, 16), limit=1).folder.parent == tmp_path / "mtlkit" / "scenes"


def test_it_is_registered():
    assert DATASETS.get("scenes") is Scenes


@pytest.mark.parametrize("wound", ["truncate", "flip", "remove", "manifest"])
def test_damaged_frames_are_rendered_again(tmp_path, caplog, wound):
    scenes = Scenes(tmp_path, size=SIZE, limit=2)
    before, path = scenes[1], scenes.folder / "depth.npy"
    if wound == "truncate":
        path.write_bytes(path.read_bytes()[:-7])
    elif wound == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif wound == "remove":
        path.unlink()
    else:
        (scenes.folder / "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING, logger="mtlkit"):
        assert equal(Scenes(tmp_path, size=SIZE, limit=2)[1], before)
    assert "again" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == [scenes.folder.name]


def test_two_may_render_the_same_frames_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: Scenes(tmp_path, size=SIZE, limit=3), range(4)))
    assert all(equal(scenes[2], built[0][2]) for scenes in built)
    assert [p.name for p in tmp_path.iterdir()] == [built[0].folder.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file.*data\.root"):
        Scenes(tmp_path / "file", size=SIZE, limit=1)


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_reserve", full)
    with pytest.raises(ValueError, match=r"No space left on device.*data\.root"):
        Scenes(tmp_path, size=SIZE, limit=1)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "render_frame", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Scenes(tmp_path, size=SIZE, limit=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "Did you mean 'train'"),
        ({"controls": ["noize"]}, r"data\.controls: .* found \['noize'\]\. Did you mean 'noise'"),
        ({"depth_unit": "cm"}, r"data\.depth_unit: expected one of m, dm, found 'cm'"),
        ({"size": (64,)}, "size must be"),
        ({"size": (64, 15)}, "size must be"),
        ({"size": (64.0, 48)}, "size must be"),
        ({"limit": 0}, "number of samples must be a whole number of at least 1, got 0"),
        ({"limit": 1.5}, "number of samples must be a whole number of at least 1, got 1.5"),
        ({"dataset_seed": -1}, r"data\.dataset_seed: expected an integer >= 0"),
        ({"cue_p": -0.1}, r"data\.cue_p: expected a number >= 0 and <= 1, found -0.1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_rendered(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Scenes(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_renderer_gives_what_its_version_gave() -> None:
    """A few pixels may differ between platforms. Other differences need a new VERSION (tools/make_golden_scenes.py)."""
    with np.load(Path(__file__).parent / "golden" / "scenes.npz") as file:
        golden = dict(file)
    assert int(golden["version"]) == VERSION
    for i, (split, index) in enumerate((("train", 0), ("val", 3), ("test", 7))):
        frame = render_frame(index, split, (48, 36))
        # The file has normals in float16 (errors up to 5e-4) and images in bytes. Pixels on an edge may differ.
        assert (frame.label == golden["label"][i]).mean() >= 0.999
        assert np.isclose(frame.depth, golden["depth"][i], rtol=1e-3).mean() >= 0.999
        assert np.isclose(frame.normals, golden["normals"][i], atol=2e-3).all(-1).mean() >= 0.999
        assert np.isclose(frame.image * 255, golden["image"][i], atol=2).mean() >= 0.99  # 2 of 255 levels
