"""Reading files: an error names a file that is damaged or not what its name says."""

import contextlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlkit.data import files
from mtlkit.data.dataset import BadSampleError
from mtlkit.data.pictures import read_exact, read_picture
from mtlkit.datasets.hf import HuggingFace

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
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: pytest.fail("os.stat was called"))
    assert files.names_in(tmp_path, (".png", ".jpg")) == [f"{i}.png" for i in range(10_000)]
    assert looks == [tmp_path]


@pytest.mark.parametrize("name", ["../1.png", "/etc/passwd", "a/../../1.png", "a/..", ".."])
def test_a_name_in_a_list_stays_in_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match=rf"list\.txt names '{name}', which leads out of data\. A list can only name"):
        files.inside(Path("data"), name, Path("list.txt"))
    assert files.inside(Path("data"), "a..b/...png", "list.txt") == Path("data/a..b/...png")


def test_a_table_of_data_sets_names_no_picture_outside(tmp_path: Path) -> None:
    """`save_to_disk` puts the bytes of pictures into the table. Somebody else may write a table with names of files."""
    data = object.__new__(HuggingFace)
    data._root = tmp_path
    for name in ("a/1.png", str(tmp_path / "a" / "1.png")):
        assert data._file({"bytes": None, "path": name}, "row 0") == tmp_path / "a" / "1.png"
    for name in ("../1.png", "/etc/1.png", f"{tmp_path}/../1.png"):
        with pytest.raises(ValueError, match=r"row 0 names '.*1\.png', which leads out of"):
            data._file({"bytes": None, "path": name}, "row 0")
    assert data._file({"bytes": b"1", "path": "/etc/1.png"}, "row 0") == Path("row 0")


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


def test_the_content_of_a_picture_counts_not_its_name(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg", format="PNG")
    assert np.array_equal(read_picture(tmp_path / "b.jpg"), PIXELS)


def test_exact_values(tmp_path: Path) -> None:
    depth = np.array([[0, 300], [40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    assert np.array_equal(read_exact(tmp_path / "depth.png"), depth)
    labels = Image.fromarray(PIXELS[..., 0], mode=None).convert("P")
    labels.save(tmp_path / "palette.png")
    assert read_exact(tmp_path / "palette.png").shape == (6, 8)
    Image.fromarray(PIXELS).save(tmp_path / "normals.png")
    assert np.array_equal(read_exact(tmp_path / "normals.png", channels=3), PIXELS)
    with pytest.raises(BadSampleError, match=r"normals.png holds \(6, 8, 3\) values, expected 1 per pixel"):
        read_exact(tmp_path / "normals.png")
    with pytest.raises(BadSampleError, match=r"depth.png holds \(2, 2\) values, expected 3 per pixel"):
        read_exact(tmp_path / "depth.png", channels=3)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_a_lossy_file_under_another_name_is_no_label(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "label.png", format=kind)
    with pytest.raises(BadSampleError, match=rf"label.png is a {kind} file, whatever its name says"):
        read_exact(tmp_path / "label.png")


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
    (tmp_path / "pointer.npy").write_text("version https://git-lfs.github.com/spec/v1")
    for name in ("cut.npy", "empty.npy", "objects.npy", "pointer.npy", "absent.npy", "several.npy"):
        with pytest.raises(BadSampleError, match=name) as error:
            files.read_array(tmp_path / name)
        assert "pickle" not in str(error.value)
    for name in ("objects.npy", "pointer.npy"):
        with pytest.raises(BadSampleError, match=f"{name} is damaged .*: it holds no array of numbers$"):
            files.read_array(tmp_path / name)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(BadSampleError, match=r"text.npy holds <U1, expected one array of numbers"):
        files.read_array(tmp_path / "text.npy")


SHAPED = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }"


@pytest.mark.parametrize(
    "header",
    [
        SHAPED % "999999999999, 99",  # needs more memory than there is
        SHAPED % "99999999999999999999999999, 9",
        SHAPED[:50],  # cut off, so the tokenizer fails
        "{1: 2, 'a': 3}",
        "{[]: 2}",
        SHAPED.replace("'<f8'", "('<f8',)") % "2,",
        "{'descr': '<f8'\n 'f'}\n  'a'\n 'b'",
        "-" * 9000 + "1",
    ],
)
def test_damaged_headers_of_arrays(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n" + bytes(96)
    )
    with pytest.raises(BadSampleError, match=r"a\.npy is damaged or not what its name says: .*\w"):
        files.read_array(path)


@pytest.mark.parametrize("length", [3, 40, 200])
def test_a_damaged_archive_under_an_arrays_name(tmp_path: Path, length: int) -> None:
    np.savez(tmp_path / "a.npz", a=PIXELS)
    path = tmp_path / "a.npy"
    path.write_bytes((tmp_path / "a.npz").read_bytes()[:length])
    with pytest.raises(BadSampleError, match=r"a\.npy is damaged or not what its name says"):
        files.read_array(path)


@pytest.mark.parametrize("place", range(6, 128))
def test_no_changed_byte_of_a_header_lets_another_error_out(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, PIXELS)
    content = bytearray(path.read_bytes())
    for value in (0, 10, ord("("), ord("]"), ord("9"), ord("'"), ord("L"), 255):
        content[place] = value
        path.write_bytes(content)
        with contextlib.suppress(BadSampleError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the parser
            files.read_array(path)


def test_images_and_labels_in_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([[[-0.001, 0.5, 1.001]]]))
    assert files.read_image_array(path).tolist() == [[[0, 0.5, 1]]]
    for values in ([[[-0.002, 0.5, 1]]], [[[0, 0.5, 1.002]]], [[[0, 0.5, np.nan]]]):
        np.save(path, np.array(values))
        with pytest.raises(BadSampleError, match=r"a\.npy holds values from .* to .*, expected an image in \[0, 1\]"):
            files.read_image_array(path)
    np.save(path, PIXELS)
    assert np.array_equal(files.read_image_array(path), PIXELS)
    np.save(path, np.array([[0, 254, 255]], np.uint8))
    assert files.read_label_array(path, (None, 3)).tolist() == [[0, 254, -1]]
    np.save(path, np.array([[0, -1, 255]], np.int16))
    assert files.read_label_array(path).tolist() == [[0, -1, 255]]


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
