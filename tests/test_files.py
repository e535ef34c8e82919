"""Reading files: what is damaged or not what its name says is named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlkit.data import files
from mtlkit.data.dataset import BadSampleError

PIXELS = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8)


def test_names_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10.npy", "2.npy", "1.npy", "a10b2.npy", "a9b30.npy", "a10b10.npy", ".3.npy", "4.txt", "٣.npy"):
        (tmp_path / name).touch()
    (tmp_path / "5.npy").mkdir()
    expected = ["1.npy", "2.npy", "10.npy", "a9b30.npy", "a10b2.npy", "a10b10.npy", "٣.npy"]
    assert files.names_in(tmp_path, ".npy") == expected
    assert files.names_in(tmp_path / "absent") == files.names_in(tmp_path / "4.txt") == []


def test_ten_thousand_files_are_listed_by_one_look(tmp_path: Path, monkeypatch) -> None:
    for i in range(10_000):
        (tmp_path / f"{i}.png").touch()
    looks = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or scandir(path))
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: pytest.fail("a look at every file"))
    assert files.names_in(tmp_path, (".png", ".jpg")) == [f"{i}.png" for i in range(10_000)]
    assert looks == [tmp_path]


def test_the_root(tmp_path: Path) -> None:
    assert files.root_folder(str(tmp_path), "celeba", "Img/") == tmp_path
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for root, message in (
        (None, r"data\.root is not set: name the folder of the data set 'celeba', which holds Img/"),
        (tmp_path / "absent", r"absent does not exist; expected a folder with Img/"),
        (tmp_path / "file", r"file is a file; expected a folder with Img/"),
        (tmp_path / "loop", r"loop (does not exist|cannot be read)"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            files.root_folder(root, "celeba", "Img/")


def test_pictures(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg", format="PNG")  # for pictures the content counts
    Image.fromarray(PIXELS).convert("RGBA").save(tmp_path / "c.png")
    for name in ("a.png", "b.jpg", "c.png"):
        assert np.array_equal(files.read_picture(tmp_path / name), PIXELS)
    assert files.read_picture(tmp_path / "a.png", "L").shape == (6, 8)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.png").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.png").touch()
    for name in ("cut.png", "page.png", "empty.png"):
        with pytest.raises(BadSampleError, match=rf"{name} is damaged or not what its name says: "):
            files.read_picture(tmp_path / name)
    with pytest.raises(BadSampleError, match=r"absent.png is missing\."):
        files.read_picture(tmp_path / "absent.png")


def test_exact_values(tmp_path: Path) -> None:
    depth = np.array([[0, 300], [40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    assert np.array_equal(files.read_exact(tmp_path / "depth.png"), depth)
    labels = Image.fromarray(PIXELS[..., 0], mode=None).convert("P")
    labels.save(tmp_path / "palette.png")
    assert files.read_exact(tmp_path / "palette.png").shape == (6, 8)
    Image.fromarray(PIXELS).save(tmp_path / "normals.png")
    assert np.array_equal(files.read_exact(tmp_path / "normals.png", channels=3), PIXELS)
    with pytest.raises(BadSampleError, match=r"normals.png holds \(6, 8, 3\) values, expected 1 a pixel"):
        files.read_exact(tmp_path / "normals.png")
    with pytest.raises(BadSampleError, match=r"depth.png holds \(2, 2\) values, expected 3 a pixel"):
        files.read_exact(tmp_path / "depth.png", channels=3)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_a_lossy_file_under_another_name_is_no_label(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "label.png", format=kind)
    with pytest.raises(BadSampleError, match=rf"label.png is a {kind} file, whatever its name says"):
        files.read_exact(tmp_path / "label.png")


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    assert np.array_equal(files.read_array(tmp_path / "a.npy", (None, 8, 3)), PIXELS)
    with pytest.raises(BadSampleError, match=r"a.npy holds an array \(6, 8, 3\), expected \(any, 9, 3\)"):
        files.read_array(tmp_path / "a.npy", (None, 9, 3))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=PIXELS)
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("cut.npy", "empty.npy", "objects.npy", "absent.npy", "several.npy"):
        with pytest.raises(BadSampleError, match=name):
            files.read_array(tmp_path / name)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(BadSampleError, match=r"text.npy holds <U1, expected one array of numbers"):
        files.read_array(tmp_path / "text.npy")


def test_resizing() -> None:
    coordinates = np.arange(6)[:, None] * 10 + np.arange(8)
    assert files.resize(coordinates, None) is coordinates
    assert files.resize(coordinates, (8, 6)) is coordinates
    assert files.resize(coordinates, (4, 3), exact=True).tolist() == [
        [11, 13, 15, 17],
        [31, 33, 35, 37],
        [51, 53, 55, 57],
    ]
    assert files.resize(coordinates, (16, 6), exact=True)[0].tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
        7,
        7,
    ]
    small = files.resize(PIXELS, (4, 3))
    assert (small.shape, small.dtype) == ((3, 4, 3), np.uint8)
    means = PIXELS.reshape(3, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 0.5 + 1e-6  # the mean over the area
    assert files.resize(PIXELS, (16, 12)).shape == (12, 16, 3)


def test_tensors() -> None:
    image = files.image_tensor(PIXELS)
    assert (image.shape, image.dtype) == ((3, 6, 8), torch.float32)
    assert torch.equal(image[:, 2, 5], torch.from_numpy(PIXELS[2, 5]) / 255)
    assert torch.equal(files.image_tensor(PIXELS / 255.0), torch.from_numpy(PIXELS / 255.0).permute(2, 0, 1).float())
    assert files.map_tensor(PIXELS[..., 0]).shape == (1, 6, 8)
    assert files.map_tensor(PIXELS.astype(np.float64)).dtype == torch.float32
    assert files.map_tensor(PIXELS).is_contiguous()
