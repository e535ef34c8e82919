"""Reading pictures: a test for each row of the table of `read_picture`, each orientation, and each kind of damage."""

import ast
import importlib.util
import io
import random
import struct
import warnings
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image
from scipy.io import savemat

import mtlkit
from mtlkit.data.bands import read_bands
from mtlkit.data.dataset import BadSampleError
from mtlkit.data.files import image_tensor, read_array
from mtlkit.data.images import pixels_of
from mtlkit.data.limits import MAX_PIXELS
from mtlkit.data.pictures import picture_size, read_exact, read_picture
from mtlkit.datasets.nyuv2.form import read_mat

ORIENTATION = 0x0112
BLACK, GREY, WHITE = [0, 0, 0], [100, 100, 100], [255, 255, 255]


def save(path: Path, mode: str, pixels: list, **options: object) -> Path:
    """Saves a picture of one row and returns its path."""
    picture = Image.new(mode, (len(pixels), 1))
    picture.putdata(pixels)
    picture.save(path, **options)
    return path


def tiff(path: Path, bits: int, data: bytes, width: int, photometric: int = 1) -> Path:
    """Writes a grey TIFF of one row without Pillow, because Pillow writes neither 12 bits nor 0 for white."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(data)))
    padded = data + bytes(len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(padded))
    path.write_bytes(head + padded + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def row(path: Path, bounds: tuple[float, float] | None = None) -> list:
    """Returns the pixels of a picture with one row."""
    (pixels,) = read_picture(path, bounds).tolist()
    return pixels


def test_grey(tmp_path: Path) -> None:
    assert row(save(tmp_path / "a.png", "1", [0, 255])) == [BLACK, WHITE]
    assert row(save(tmp_path / "b.png", "L", [0, 100, 255])) == [BLACK, GREY, WHITE]


def test_palettes(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([9, 8, 7, 200, 100, 0, 5, 5, 5])
    picture.putdata([1, 0, 1])
    picture.save(tmp_path / "a.png")
    assert row(tmp_path / "a.png") == [[200, 100, 0], [9, 8, 7], [200, 100, 0]]
    picture.save(tmp_path / "b.png", transparency=0)
    assert row(tmp_path / "b.png") == [[200, 100, 0], WHITE, [200, 100, 0]]
    picture.save(tmp_path / "c.png", transparency=bytes([255, 51, 255]))  # 200 / 5 + 255 * 4 / 5, ...
    assert row(tmp_path / "c.png") == [[244, 224, 204], [9, 8, 7], [244, 224, 204]]
    picture.save(tmp_path / "d.gif", transparency=1)
    assert row(tmp_path / "d.gif") == [WHITE, [9, 8, 7], WHITE]


def test_colours(tmp_path: Path) -> None:
    colours = [(1, 2, 3), (200, 100, 0)]
    assert row(save(tmp_path / "a.png", "RGB", colours)) == [[1, 2, 3], [200, 100, 0]]
    assert row(save(tmp_path / "b.tif", "RGBX", [(*colour, 0) for colour in colours])) == [[1, 2, 3], [200, 100, 0]]
    assert row(save(tmp_path / "c.png", "RGB", colours, transparency=(1, 2, 3))) == [WHITE, [200, 100, 0]]
    assert row(save(tmp_path / "d.png", "L", [100, 7], transparency=7)) == [GREY, WHITE]


def test_sixteen_bits_of_a_colour_keep_the_upper_eight(tmp_path: Path) -> None:
    import cv2

    assert cv2.imwrite(str(tmp_path / "a.png"), np.array([[[3 << 8 | 255, 200 << 8, 65_535]]], np.uint16))  # B, G, R
    assert row(tmp_path / "a.png") == [[255, 200, 3]]


def test_transparent_pixels_are_laid_on_white(tmp_path: Path) -> None:
    # An opacity of 51 is 1/5: 100 / 5 + 255 * 4 / 5 = 224.
    pixels = [(100, 255), (100, 0), (100, 51)]
    assert row(save(tmp_path / "a.png", "LA", pixels)) == [GREY, WHITE, [224, 224, 224]]
    pixels = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]
    assert row(save(tmp_path / "b.png", "RGBA", pixels)) == [[200, 100, 0], WHITE, [244, 224, 204]]
    assert row(save(tmp_path / "c.png", "RGBA", [(*range(3), 255)])) == [[0, 1, 2]]
    picture = Image.frombytes("PA", (2, 1), bytes([1, 51, 1, 255]))
    picture.putpalette([9, 8, 7, 200, 100, 0])
    picture.save(tmp_path / "d.tif")
    assert row(tmp_path / "d.tif") == [[244, 224, 204], [200, 100, 0]]


def test_printing_and_video_colours(tmp_path: Path) -> None:
    pixels = [(0, 51, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)]
    assert row(save(tmp_path / "a.tif", "CMYK", pixels)) == [[255, 204, 0], BLACK, WHITE]
    save(tmp_path / "c.jpg", "CMYK", [(0, 0, 0, 0)] * 8, quality=100)
    assert np.abs(np.array(row(tmp_path / "c.jpg")) - 255).max() <= 2  # JPEG rounds


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 cannot read what it writes here")
def test_video_colours_of_a_tiff(tmp_path: Path) -> None:
    assert row(save(tmp_path / "b.tif", "YCbCr", [(100, 128, 128)])) == [GREY]


SIXTEEN = [0, 13_107, 65_535]  # 13,107 / 65,535 = 1/5


@pytest.mark.parametrize(
    ("name", "mode", "order"),
    [
        ("a.png", "I;16", "<"),
        ("a.png", "I;16B", ">"),
        ("a.tif", "I;16", "<"),
        ("a.tif", "I;16B", ">"),
        ("a.tif", "I;16L", "<"),
        ("a.tif", "I;16N", "="),
        ("a.png", "I", "I"),
        ("a.pgm", "I;16", "<"),
    ],
)
def test_grey_of_sixteen_bits(tmp_path: Path, name: str, mode: str, order: str) -> None:
    path = tmp_path / name
    data = np.array(SIXTEEN, "<i4" if order == "I" else f"{order}u2").tobytes()
    try:
        picture = Image.frombytes(mode, (3, 1), data)
        picture.save(path)
    except (ValueError, OSError):  # not all versions of Pillow write all modes; this writes the same bytes
        tiff(path, 16, np.array(SIXTEEN, "<u2").tobytes(), 3)
    expected = [[value] * 3 for value in (0, np.float32(0.2), 1)]
    assert row(path) == expected
    assert read_picture(path).dtype == np.float32
    assert read_exact(path).tolist() == [SIXTEEN]
    assert read_exact(path).dtype.isnative


def test_a_ramp_of_sixteen_bits_has_the_mean_of_its_values(tmp_path: Path) -> None:
    path = tmp_path / "g.png"
    Image.fromarray((np.arange(64 * 48, dtype=np.uint16) * 21).reshape(48, 64)).save(path)
    mean = 21 * 3071 / 2 / 65_535
    assert float(image_tensor(read_picture(path)).double().mean()) == pytest.approx(mean, abs=1e-6)  # float32
    assert round(mean, 3) == 0.492


def test_sixteen_bits_with_a_transparent_value(tmp_path: Path) -> None:
    Image.frombytes("I;16", (3, 1), np.array(SIXTEEN, "<u2").tobytes()).save(tmp_path / "a.png", transparency=13_107)
    assert row(tmp_path / "a.png") == [[0] * 3, [1] * 3, [1] * 3]


def test_twelve_bits_and_white_as_zero(tmp_path: Path) -> None:
    assert row(tiff(tmp_path / "a.tif", 12, b"\x00\x0f\xff", 2)) == [[0] * 3, [1] * 3]
    assert row(tiff(tmp_path / "b.tif", 16, struct.pack("<2H", 0, 65_535), 2, photometric=0)) == [[1] * 3, [0] * 3]
    assert row(tiff(tmp_path / "c.tif", 8, b"\x00\xff", 2, photometric=0)) == [WHITE, BLACK]


def test_a_pgm_names_its_own_maximum(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 341, 1023))
    assert row(tmp_path / "a.pgm") == [[0] * 3, [pytest.approx(1 / 3, abs=1e-5)] * 3, [1] * 3]  # Pillow rounds


@pytest.mark.parametrize(("mode", "bounds"), [("I", (-50, 150)), ("F", (-0.5, 1.5))])
def test_numbers_of_no_known_range_need_one(tmp_path: Path, mode: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    path = save(tmp_path / "a.tif", mode, [low, low + (high - low) / 4, high])
    with pytest.raises(BadSampleError, match=rf"a\.tif is a TIFF picture of mode {mode}, .*bounds=\(black, white\)"):
        read_picture(path)
    assert row(path, bounds) == [[0] * 3, [0.25] * 3, [1] * 3]
    with pytest.raises(BadSampleError, match=rf"a\.tif holds values from {low:g} to {high:g}, expected 0 to {high:g}"):
        read_picture(path, (0, high))
    with pytest.raises(ValueError, match="black and white, ascending"):
        read_picture(path, (high, low))
    assert read_exact(path)[0, 2] == high


def test_bounds_are_also_those_of_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1023, 4092]], np.uint16)).save(path)
    assert row(path, (0, 4092)) == [[0] * 3, [0.25] * 3, [1] * 3]


def test_no_number_is_no_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", "F", [0.5, float("nan")])
    with pytest.raises(BadSampleError, match="holds values from nan to nan"):
        read_picture(path, (0, 1))


def test_other_modes_are_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", "LAB", [(1, 2, 3)])
    with pytest.raises(BadSampleError, match=r"a\.tif is a TIFF picture of mode LAB, which has no known colours"):
        read_picture(path)


# EXIF defines where the first stored row and the first stored column are in the upright picture.
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[3, 6], [2, 5], [1, 4]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[4, 1], [5, 2], [6, 3]],  # left, bottom
}


@pytest.mark.parametrize("number", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_pictures_are_turned_upright(tmp_path: Path, suffix: str, number: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    stored = np.repeat(np.array(STORED[number], np.uint8)[..., None] * 40, 3, axis=2)
    path = tmp_path / f"a.{suffix}"
    large = stored.repeat(8, 0).repeat(8, 1)  # as large as JPEG's blocks
    Image.fromarray(large).save(path, exif=exif, **({"quality": 100} if suffix == "jpg" else {"lossless": True}))
    upright = 40 * np.array(STORED[1]).repeat(8, 0).repeat(8, 1)
    found = read_picture(path)
    assert found.shape == (16, 24, 3)
    assert np.abs(found - upright[..., None]).max() <= 2 * (suffix == "jpg")  # JPEG rounds
    assert found.flags.c_contiguous
    assert picture_size(path) == (24, 16)


@pytest.mark.parametrize("number", STORED)
@pytest.mark.parametrize("kind", ["L", "P", "I;16"])
def test_labels_are_turned_as_numbers(tmp_path: Path, kind: str, number: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    values = np.array(STORED[number], np.uint16) * (10_000 if kind == "I;16" else 1)
    picture = Image.fromarray(values if kind == "I;16" else values.astype(np.uint8))
    if kind == "P":
        picture.putpalette([7] * 768)  # one colour for all labels: reading colours would lose them
    picture.save(tmp_path / "label.png", exif=exif)
    assert (read_exact(tmp_path / "label.png") // (10_000 if kind == "I;16" else 1)).tolist() == STORED[1]


def test_vectors_with_an_orientation_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (3, 2)).save(tmp_path / "normals.png", exif=exif)
    with pytest.raises(BadSampleError, match=r"normals\.png holds vectors and an EXIF orientation \(6\)"):
        read_exact(tmp_path / "normals.png", channels=3)


@pytest.mark.parametrize("found", [0, 9])
def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path, found: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = found
    Image.new("L", (3, 2)).save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png").shape == (2, 3, 3)


def test_damaged_exif_data_have_no_orientation(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.jpg", exif=b"Exif\0\0no TIFF header")
    assert read_picture(tmp_path / "a.jpg").shape == (2, 3, 3)


def test_missing_empty_and_damaged_files_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "tif"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(noise).save(whole)
        (tmp_path / f"cut.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(BadSampleError, match=rf"cut\.{suffix} is damaged or not what its name says: "):
            read_picture(tmp_path / f"cut.{suffix}")
    (tmp_path / "page.png").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.png").touch()
    for read in (read_picture, read_exact, picture_size):
        for name, message in (
            ("page.png", "is damaged or not what its name says: "),
            ("empty.png", "is damaged or not what its name says: it is empty, of 0 bytes"),
            ("absent.png", r"is missing\."),
        ):
            with pytest.raises(BadSampleError, match=f"{name} {message}"):
                read(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_no_changed_byte_lets_another_error_out(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    buffer, draw = io.BytesIO(), random.Random(0)
    try:
        Image.new("RGB", (16, 12), (200, 100, 0)).save(buffer, kind, exif=exif)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    path = tmp_path / "a.png"
    for _ in range(150):
        content = bytearray(buffer.getvalue())
        for _ in range(draw.choice([1, 2, 4])):
            content[draw.randrange(min(len(content), 300))] = draw.randrange(256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of Pillow
            try:
                pixels = read_picture(path)
            except BadSampleError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                assert pixels.shape[2] == 3


def header(path: Path, width: int, height: int) -> Path:
    """Returns a small PNG whose header says that it has many pixels."""
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return path


def test_an_enormous_picture_is_named_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = header(tmp_path / "a.png", 20_000, 20_000)
    for read in (read_picture, read_exact, picture_size):
        with pytest.raises(BadSampleError, match=rf"a\.png is too large: .*400000000.*smaller .*{MAX_PIXELS}"):
            read(path)
    with pytest.raises(BadSampleError, match=r"b\.png is too large"):  # these tests turn warnings into errors
        read_picture(header(tmp_path / "b.png", 10_000, 10_000))


def test_the_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # pytest restores it
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(BadSampleError, match=r"a\.png is too large"):
        read_picture(tmp_path / "a.png")
    monkeypatch.setenv(MAX_PIXELS, "400")
    assert read_picture(tmp_path / "a.png").shape == (20, 20, 3)
    monkeypatch.setenv(MAX_PIXELS, "399")
    with pytest.raises(BadSampleError, match=r"a\.png is too large: 20 x 20, 400 .* limit of 399\. Make it"):
        read_picture(tmp_path / "a.png")
    for wrong in ("many", "0", "-5", ""):
        monkeypatch.setenv(MAX_PIXELS, wrong)
        with pytest.raises(ValueError, match=f"{MAX_PIXELS} must be a number of pixels, found '{wrong}'"):
            read_picture(tmp_path / "a.png")


def test_the_limit_holds_for_every_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 x 20 = 400 pixels, of any number of channels."""
    values = np.zeros((20, 20, 5), np.uint8)
    np.save(tmp_path / "bands.npy", values)
    np.save(tmp_path / "label.npy", values[..., 0])
    savemat(tmp_path / "depth.mat", {"depth": values[..., 0], "other": np.zeros((30, 30))}, do_compression=True)
    picture = Image.new("RGB", (20, 20))
    picture.save(tmp_path / "a.tif")
    reads = {
        "bands.npy": lambda: read_bands(tmp_path / "bands.npy", 5),
        "label.npy": lambda: read_array(tmp_path / "label.npy"),
        "depth.mat": lambda: read_mat(tmp_path / "depth.mat", "depth"),
        "a.tif": lambda: pixels_of(tmp_path / "a.tif"),
        "The picture": lambda: pixels_of(picture),
    }
    if importlib.util.find_spec("tifffile"):
        import tifffile

        tifffile.imwrite(tmp_path / "bands.tif", values, photometric="minisblack")
        reads["bands.tif"] = lambda: read_bands(tmp_path / "bands.tif", 5)
    for limit in (400, 399):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # pytest restores it
        monkeypatch.setenv(MAX_PIXELS, str(limit))
        for name, read in reads.items():
            if limit == 400:
                assert read().shape[:2] == (20, 20)
            else:
                with pytest.raises(BadSampleError, match=rf"{name} is too large: 20 x .* the limit of 399\. Make it"):
                    read()
    monkeypatch.delenv(MAX_PIXELS)
    for limit, expected in (
        (199, pytest.raises(BadSampleError, match="exceed the limit of 398")),
        (None, nullcontext()),
    ):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow's own limit is twice this number; None: no limit
        with expected:
            read_array(tmp_path / "label.npy")


def test_a_program_is_no_picture(tmp_path: Path) -> None:
    """Pillow would call Ghostscript, whatever the file's name says."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\nshowpage\n")
    for read in (read_picture, read_exact, picture_size, pixels_of):
        with pytest.raises(BadSampleError, match=r"a\.png is damaged .* an EPS file is a program"):
            read(path)


READERS = {
    "imread",
    "imdecode",
    "imreadmulti",
    "read_image",
    "decode_image",
    "decode_jpeg",
    "decode_png",
    "default_loader",
}


def openings(tree: ast.AST) -> list[int]:
    """Returns the lines in which a library opens a picture, by Image.open, cv2.imread and similar functions."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            opens = node.attr == "open" and isinstance(node.value, ast.Name | ast.Attribute)
            of_pil = opens and (getattr(node.value, "id", None) or getattr(node.value, "attr", "")) in ("Image", "PIL")
            if of_pil or node.attr in READERS:
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if names & READERS or (node.module == "PIL.Image" and "open" in names):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("text", ["Image.open(p)", "PIL.Image.open(p)", "cv2.imread(p)", "from PIL.Image import open"])
def test_openings_are_found(text: str) -> None:
    assert openings(ast.parse(text)) == [1]


def test_nothing_else_opens_pictures() -> None:
    package = Path(mtlkit.__file__).parent
    root = Path(__file__).parents[1]
    files = [
        file
        for folder in (package, *(root / n for n in ("balancers", "tasks", "tools")))
        for file in folder.rglob("*.py")
    ]
    found = {file.relative_to(root): lines for file in files if (lines := openings(ast.parse(file.read_text())))}
    assert list(found) == [Path("mtlkit/data/pictures.py")]
