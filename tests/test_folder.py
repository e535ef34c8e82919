"""The data set `folder`: what belongs together, what stored values become, and what is refused."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tolerances import SINGLE

from mtlkit.data.dataset import DATASETS, BadSampleError, Dataset
from mtlkit.data.samples import Samples
from mtlkit.datasets.folder.matching import Names, stem
from mtlkit.target import KINDS, DenseKind, Kind
from mtlkit.testing import check_dataset

DEPTH = {"type": "depth", "files": "depth/**/*_depth.png", "scale": 0.001}
MASKS = {"type": "segmentation", "files": "masks/**/*.png", "classes": ["wall", "floor"]}


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Thirty images in two folders. Image n has the grey value 8 n, the depth 100 n + 500 and the class n % 2."""
    for n in range(30):
        name = f"{'ab'[n // 15]}/{n}"
        save(tmp_path / f"images/{name}.png", np.full((4, 6, 3), 8 * n, np.uint8))
        save(tmp_path / f"depth/{name}_depth.png", np.full((4, 6), 100 * n + 500, np.uint16))
        save(tmp_path / f"masks/{name}.png", np.full((4, 6), n % 2, np.uint8))
    return tmp_path


def folder(root: Path, labels: dict | None = None, split: str = "train", **options) -> Dataset:
    options = {"images": "images/**/*.png", "splits": {"block": 2, "gap": 0}} | options
    return DATASETS.build("folder", root=root, split=split, labels=labels or {"depth": DEPTH}, **options)


def numbers(dataset: Dataset) -> list[int]:
    """Returns the numbers of a data set's images."""
    return [int(Path(dataset.label(index)).stem) for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("images/*.jpg", "images/1.jpg", "1"),
        ("images/**/*.jpg", "images/a/b/1.jpg", "a/b/1"),
        ("images/**/*.jpg", "images/1.jpg", "1"),
        ("*/rgb/*_rgb.png", "a/rgb/7_rgb.png", "a/7"),
        ("images/*.jp*g", "images/1.jpeg", "1"),
        ("images/img_[0-9]*.png", "images/img_12.png", "12"),
        ("images/*", "images/a.b.png", "a.b"),
    ],
)
def test_the_stem_is_what_the_wildcards_stand_for(pattern: str, path: str, expected: str) -> None:
    assert stem(pattern, path) == expected


def test_a_name_that_several_images_have_is_none() -> None:
    names = Names({"a/1": "images/a/1.jpg", "b/1": "images/b/1.jpg"})
    found = [names.find(name) for name in ("1.jpg", "a/1", "a/1.jpg", "images/b/1.jpg", "images\\b\\1", "c/1")]
    assert found == [None, "a/1", "a/1", "b/1", "b/1", None]


@pytest.mark.parametrize("size", [None, (12, 8)])
def test_the_promises_of_every_data_set(root: Path, size: tuple[int, int] | None) -> None:
    options = {"images": "images/**/*.png", "labels": {"depth": DEPTH, "seg": MASKS}, "size": size}
    check_dataset("folder", root=str(root), splits=("train", "val"), **options)
    found = folder(root, options["labels"], size=size)
    sample = found[numbers(found).index(7)]
    assert sample["image"].unique().tolist() == pytest.approx([8 * 7 / 255], rel=SINGLE)
    assert sample["targets"]["depth"].unique().tolist() == pytest.approx([1.2], rel=SINGLE)
    assert sample["targets"]["seg"].unique().tolist() == [1]


def test_the_promises_with_splits_of_ones_own(root: Path) -> None:
    """`splits` of the data set is another thing than `splits` of the check."""
    own = {"splits": {"folders": {"train": "images/a", "test": "images/b"}, "gap": 0, "block": 2}}
    check_dataset("folder", root=str(root), images="images/**/*.png", labels={"seg": MASKS}, options=own)


# ---- what belongs together


def test_what_has_no_partner_is_counted_and_said(root: Path) -> None:
    (root / "depth/a/3_depth.png").unlink()
    save(root / "depth/c/99_depth.png", np.ones((4, 6), np.uint16))
    found = folder(root)
    assert found.notes[1] == (
        "depth: 29 of 30 images have a file depth/**/*_depth.png. Without one: images/a/3.png. 1 files have no image "
        "and are not used: depth/c/99_depth.png."
    )
    (index,) = (i for i, n in enumerate(numbers(found)) if n == 3)
    assert found[index]["targets"] == {}


def test_labels_beside_their_images_are_no_images(root: Path) -> None:
    for n in range(30):
        save(root / f"images/{'ab'[n // 15]}/{n}_mask.png", np.full((4, 6), n % 2, np.uint8))
    found = folder(root, {"seg": {**MASKS, "files": "images/**/*_mask.png"}}, splits={"holdout": 0})
    assert numbers(found) == list(range(30))
    assert found.notes[:3] == [
        f"30 images match images/**/*.png in {root}.",
        "30 files match as images but are labels, and are not used as images: images/a/0_mask.png, "
        "images/a/1_mask.png, images/a/2_mask.png and 27 more.",
        "seg: 30 of 30 images have a file images/**/*_mask.png.",
    ]
    own = folder(root, {"picture": {"type": "reconstruction", "files": "images/*/?.png"}}, images="images/*/?.png")
    assert (own[3]["image"] == own[3]["targets"]["picture"]).all()  # an image may be its own label


def test_two_files_of_one_stem_are_refused(root: Path) -> None:
    save(root / "images/a/3.npy", np.zeros((4, 6, 3)))
    with pytest.raises(ValueError, match=r"data\.images: .*a/3\.npy and .*a/3\.png both have the stem 'a/3'"):
        folder(root, images="images/**/*.*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "image/*.png"}, r"data\.images: no file in .* matches image/\*\.png\. .*Did you mean 'images'\?"),
        ({"images": "images/a/*.jpg"}, r"no file .* matches images/a/\*\.jpg\. .*images/a has 0\.png, 1\.png"),
        (
            {"labels": {"depth": {**DEPTH, "files": "depth/**/*.png"}}},
            r"labels\.depth\.files: none of the 30 files .* 'a/0' in the first image, 'a/0_depth' in the first file",
        ),
    ],
)
def test_nothing_that_matches_is_refused(root: Path, options: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        folder(root, **options)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"type": "dept"}, r"data\.labels\.x\.type: no kind of target is called 'dept'\. Did you mean 'depth'"),
        ({"type": "depth", "scael": 1}, r"data\.labels\.x\.scael: unknown key\. Did you mean 'scale'"),
        ({"type": "depth", "scale": 0}, r"data\.labels\.x\.scale: expected a number other than 0, found 0"),
        ({"type": "depth", "ignore": 255}, r"data\.labels\.x\.ignore: a target of the kind 'depth' has no such"),
        ({"type": "segmentation"}, r"data\.labels\.x\.classes: missing"),
        ({"type": "segmentation", "classes": ["a"], "map": {7: "b"}}, r"data\.labels\.x\.map: 'b' is no class"),
        (
            {"type": "segmentation", "colours": {"a": [0, 0, 300]}},
            r"data\.labels\.x\.colours\.a: expected numbers from 0 to 255, found \[0, 0, 300\]",
        ),
        ({"type": "segmentation", "colours": {"a": [0, 0]}}, r"data\.labels\.x\.colours: expected "),
        (
            {"type": "segmentation", "colours": {"a": [0, 0, 1], "b": [[0, 0, 2], [0, 0, 1]]}},
            r"data\.labels\.x\.colours\.b: \[0, 0, 1\] is the colour of 'a', too",
        ),
        (
            {"type": "segmentation", "classes": ["wall"], "colours": {"wal": [0, 0, 1]}},
            r"data\.labels\.x\.colours\.wal: no such class\. Did you mean 'wall'",
        ),
        (
            {"type": "segmentation", "colours": {"a": [0, 0, 1]}, "ignore": 255},
            r"data\.labels\.x\.ignore: it does not go with colours",
        ),
        ({"type": "segmentation", "colours": {"ignore": [0, 0, 1]}}, r"data\.labels\.x\.colours: it names no class"),
        ({"type": "depth", "colours": {"a": [0, 0, 1]}}, r"data\.labels\.x\.colours: a target of the kind 'depth'"),
        ({"type": "normals", "axes": "xyw"}, r"data\.labels\.x\.axes: expected the axis of each channel"),
        ({"type": "depth", "columns": ["a"]}, r"data\.labels\.x\.files: give either it or columns"),
    ],
)
def test_options_that_do_not_go_together_are_refused(root: Path, label: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder(root, {"x": {"files": "depth/**/*_depth.png", **label}})


# ---- stored values


def label_of(root: Path, values: np.ndarray, ending: str = "npy", **label) -> np.ndarray:
    """Returns what a stored array becomes as the label of the first image, which has its size."""
    save(root / "images/a/0.png", np.zeros((*values.shape[:2], 3), np.uint8))
    save(root / f"stored/a/0.{ending}", values)
    found = folder(root, {"x": {"files": f"stored/**/*.{ending}", **label}}, limit=1)
    return Samples(found).checked(0)["targets"]["x"].numpy()


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_depth_is_scaled_and_shifted(root: Path, ending: str) -> None:
    stored = np.array([[0, 1000, 65535], [7, 2000, 3000]], np.uint16)
    value = label_of(root, stored, ending, type="depth", scale=0.002, offset=0.5, invalid=(0, 65535))
    assert value == pytest.approx(np.array([[[0, 2.5, 0], [0.514, 4.5, 6.5]]]), rel=SINGLE)


@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_depth_in_floats(root: Path, ending: str) -> None:
    value = label_of(root, np.array([[np.nan, -1, 2.5]], np.float32), ending, type="depth", invalid=-1)
    assert value.tolist() == [[[0, 0, 2.5]]]


def test_class_numbers(root: Path) -> None:
    stored = np.array([[0, 1, 7, 255]], np.uint8)
    options = {"type": "segmentation", "classes": ["wall", "floor"]}
    assert label_of(root, stored, "png", **options, ignore=(7, 255)).tolist() == [[0, 1, -1, -1]]
    mapped = label_of(root, stored, "png", **options, ignore=255, map={0: 1, 1: "wall", 7: "floor"})
    assert mapped.tolist() == [[1, 0, 1, -1]]
    assert label_of(root, stored[:, :2].astype(float), "npy", type="segmentation", classes=2).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"0\.png holds 7, 255, expected the classes 0 to 1 \(wall, floor\)"):
        label_of(root, stored, "png", **options)
    with pytest.raises(ValueError, match=r"0\.png holds 1, 7, which `map` does not have"):
        label_of(root, stored, "png", **options, ignore=255, map={0: 1})


def test_masks_of_colours(root: Path) -> None:
    stored = np.array([[[128, 64, 128], [0, 0, 142], [0, 0, 70], [0, 0, 0], [1, 2, 3]]], np.uint8)
    colours = {"road": [128, 64, 128], "ignore": [0, 0, 0], "car": [[0, 0, 142], [0, 0, 70]]}
    options = {"type": "segmentation", "colours": colours}
    for ending in ("png", "npy"):
        assert label_of(root, stored[:, :4], ending, **options).tolist() == [[0, 1, 1, -1]]
    ordered = label_of(root, stored[:, :4], "png", **options, classes=["sky", "car", "road"])
    assert ordered.tolist() == [[2, 1, 1, -1]]
    with pytest.raises(ValueError, match=r"0\.png holds the colours \[1, 2, 3\], which `colours` does not have"):
        label_of(root, stored, "png", **options)
    with pytest.raises(ValueError, match=r"0\.npy holds uint16, expected colours in 8 bits"):
        label_of(root, stored.astype(np.uint16), "npy", **options)
    with pytest.raises(ValueError, match=r"expected 1 per pixel\. If the mask has colours, .*`colours: "):
        label_of(root, stored, "png", type="segmentation", classes=["road", "car"])
    (root / "stored/a/0.png").unlink()
    save(root / "stored/a/1.png", stored[:, :4])
    assert folder(root, {"x": {"files": "stored/**/*.png", **options}}).targets["x"].classes == ("road", "car")


def test_a_palette_counts_as_class_numbers(root: Path) -> None:
    """Tools of annotation store the class numbers with a palette, so that viewers show colours."""
    numbers = np.array([[0, 1, 1, 255]], np.uint8)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette([200, 10, 10, 10, 200, 10] + [0] * 762)
    picture.putdata(numbers.ravel().tolist())
    (root / "stored/a").mkdir(parents=True)
    picture.save(root / "stored/a/0.png")
    save(root / "images/a/0.png", np.zeros((1, 4, 3), np.uint8))
    label = {"type": "segmentation", "files": "stored/**/*.png", "classes": ["wall", "floor"], "ignore": 255}
    with Image.open(root / "stored/a/0.png") as stored:
        assert stored.mode == "P"
    assert folder(root, {"x": label}, limit=1)[0]["targets"]["x"].tolist() == [[0, 1, 1, -1]]
    del label["classes"], label["ignore"]
    with pytest.raises(ValueError, match=r"expected 3 per pixel\. .*A palette counts as class numbers"):
        folder(root, {"x": label | {"colours": {"wall": [200, 10, 10]}}}, limit=1)[0]


def test_normals(root: Path) -> None:
    facing = np.array([[[0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [0.0, 0.0, 0.0]]])  # x right, y up, z to the camera
    stored = np.where(np.abs(facing).sum(-1, keepdims=True) > 0, np.round(facing * 127.5 + 127.5), 128)
    for values, ending in ((stored.astype(np.uint8), "png"), (facing, "npy")):
        value = label_of(root, values, ending, type="normals", axes="x-y-z")
        expected = facing * [1, -1, -1]
        assert value == pytest.approx(expected.transpose(2, 0, 1), abs=0.01)  # 8 bits
    with pytest.raises(ValueError, match="uint16, expected normals in 8 bits"):
        label_of(root, stored.astype(np.uint16), type="normals")


def test_a_picture_as_a_target(root: Path) -> None:
    stored = np.array([[[0, 51, 255]]], np.uint8)
    assert label_of(root, stored, "png", type="reconstruction").ravel().tolist() == pytest.approx([0, 0.2, 1])


def test_kinds_of_others(root: Path) -> None:
    @KINDS.register("flow")
    class Flow(DenseKind):
        def shape(self, height: int, width: int) -> tuple[int, ...]:
            return 2, height, width

    @KINDS.register("joints")
    class Joints(Kind):
        def shape(self, height: int, width: int) -> tuple[int, ...]:
            return 17, 2

    stored = np.random.default_rng(0).random((3, 5, 2))
    assert label_of(root, stored, type="flow", scale=2.0) == pytest.approx(2 * stored.transpose(2, 0, 1), rel=SINGLE)
    with pytest.raises(ValueError, match=r"holds an array \(3, 5\), expected \(height, width, 2\)"):
        label_of(root, stored[..., 0], type="flow")
    points = np.arange(34.0).reshape(17, 2)
    assert (label_of(root, points, type="joints") == points).all()


def test_values_without_a_label_in_range_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.labels\.depth: in 3 files looked at, .*no value is a label.*'offset'"):
        folder(root, {"depth": {**DEPTH, "offset": -20}})
    with pytest.raises(ValueError, match=r"no value is a label with the options \{'ignore': \(0, 1\)\}"):
        folder(root, {"seg": {**MASKS, "ignore": (0, 1)}})


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"scale": 1e-9}, r"5e-07 to 3\.4e-06"),
        ({"scale": 1e6}, r"5e\+08 to 3\.4e\+09"),
        ({"scale": 1e300}, r"\d+ of \d+ that are NaN or infinite"),
        ({"scale": 1e-60}, "0, which means no label"),
        ({"scale": -0.001}, r"-3\.4 to -0\.5"),
        ({"scale": None}, "500 to 3400"),  # millimetres taken as metres
        ({"scale": 0.001, "offset": 1e5}, "100000 to 100003"),
    ],
)
def test_a_scale_that_leaves_nothing_in_range_is_refused(root: Path, options: dict, made: str) -> None:
    for name in ("a/0", "b/29"):  # all looked-at files together have 500 to 3400
        save(root / f"depth/{name}_depth.png", np.array([[500, 3400, 0]] * 2, np.uint16))
    splits = {"folders": {"train": ["images/a", "images/b"]}, "holdout": 0}
    with pytest.raises(ValueError, match=r"data\.labels\.depth: in 3 files") as caught:
        folder(root, {"depth": {**DEPTH, **options}}, splits=splits)
    caught.match(
        rf"hold 500 to 3400; scale and offset make it {made}\. With offset 0, scale 0\.001 would give a median"
    )


def test_labels_in_jpeg_files_are_refused_before_any_work(root: Path) -> None:
    for n in range(30):
        save(root / f"masks/{'ab'[n // 15]}/{n}.jpg", np.zeros((4, 6), np.uint8))
    message = r"data\.labels\.seg: none of 3 files .*\.jpg is a JPEG file.* lossy: .* again, as PNG, TIFF or \.npy"
    with pytest.raises(ValueError, match=message):
        folder(root, {"seg": {**MASKS, "files": "masks/**/*.jpg"}})


def test_depth_beyond_the_plausible_median_is_only_a_warning(root: Path) -> None:
    """Endoscopes see 1 cm, and aeroplanes 500 m: `mtlkit data show` and every run warn."""
    for scale in (1e-5, 0.2):  # 5 mm to 34 mm, 100 m to 680 m
        assert folder(root, {"depth": {**DEPTH, "scale": scale}})[0]["targets"]["depth"].min() > 0


def test_another_resolution_but_no_other_shape(root: Path) -> None:
    save(root / "masks/a/0.png", np.array([[0, 1, 1], [1, 1, 1]], np.uint8))  # half the size
    assert folder(root, {"seg": MASKS})[0]["targets"]["seg"][:, :4].tolist() == [[0, 0, 1, 1]] * 2 + [[1] * 4] * 2
    save(root / "masks/a/0.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(BadSampleError, match=r"masks/a/0\.png has 4 x 6 pixels, but the image .*a/0\.png 6 x 4"):
        folder(root, {"seg": MASKS})[0]


# ---- tables

TABLE = "file;split;weather;cars;sun\n" + "".join(
    f"{n}.png;{'train' if n < 20 else 'dev'};{('fog', 'sun', '')[n % 3]};{'' if n == 1 else f'{n},5'};{n % 2}\n"
    for n in range(30)
)
WEATHER = {"type": "classification", "columns": ["weather"]}
CARS = {"type": "regression", "columns": ["cars"], "scale": 2.0}
OPTIONS = {
    "table": {"file": "labels.csv", "decimal": ","},
    "splits": {"column": "split", "names": {"train": "train", "dev": "val"}},
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_table_with_gaps(root: Path, encoding: str, delimiter: str) -> None:
    text = TABLE.replace("fog", "비").replace(";", delimiter)
    (root / "labels.csv").write_text(text, encoding=encoding)
    options = OPTIONS if encoding != "cp949" else OPTIONS | {"table": {**OPTIONS["table"], "encoding": "cp949"}}
    found = folder(root, {"weather": WEATHER, "cars": CARS}, **options)
    assert numbers(found) == list(range(20))
    assert found.targets["weather"].classes == ("sun", "비")
    assert [{k: v.tolist() for k, v in found[n]["targets"].items()} for n in range(4)] == [
        {"weather": 1, "cars": [1.0]},
        {"weather": 0},
        {"cars": [5.0]},
        {"weather": 1, "cars": [7.0]},
    ]
    assert numbers(folder(root, {"cars": CARS}, "val", **options)) == list(range(20, 30))


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="the package pyarrow is not installed")
def test_parquet(root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "file": [f"{n}" for n in range(30)],
        "cars": [None, *range(1, 30)],
        "sun": [n % 2 == 0 for n in range(30)],
    }
    parquet.write_table(pyarrow.table(columns), root / "labels.parquet")
    sun = {"type": "multilabel", "columns": ["sun"]}
    found = folder(root, {"cars": CARS, "sun": sun}, table={"file": "labels.parquet"})
    assert [{k: v.tolist() for k, v in found[n]["targets"].items()} for n in range(2)] == [
        {"sun": [1.0]},
        {"cars": [2.0], "sun": [0.0]},
    ]


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        (("3,5", "three"), {"cars": CARS}, r"labels\.csv, line 5, column 'cars': expected a number, found 'three'"),
        (("4.png;", "3.png;"), {"cars": CARS}, r"line 6: '3\.png' is of the same image as .*line 5"),
        (("\n3.png", "\n3.png;x"), {"cars": CARS}, r"line 5: 6 cells, expected 5 .*data\.table\.delimiter"),
        (("sun\n", "cars\n"), {"cars": CARS}, r"labels\.csv has two columns 'cars'"),
        (
            ("", ""),
            {"x": {**CARS, "columns": ["car"]}},
            r"labels\.x\.columns: .* no column 'car'\. Did you mean 'cars'",
        ),
        (("", ""), {"x": {"type": "multilabel", "columns": ["cars"]}}, r"line 2, column 'cars': expected 0 or 1"),
        (("", ""), {"x": {**WEATHER, "classes": ["sun"]}}, r"line 2, column 'weather': 'fog' is no class"),
        (
            ("", ""),
            {"x": {"type": "depth", "columns": ["cars"]}},
            r"labels\.x\.columns: .* a value per pixel\. Give files",
        ),
        (("dev", "holdout"), {"cars": CARS}, r"line 22, column 'split': 'holdout' is no split"),
        (("file", "비"), {"cars": CARS}, r"labels\.csv is not in utf-8"),
    ],
)
def test_a_wrong_table_is_refused_by_its_line(root: Path, change: tuple, labels: dict, message: str) -> None:
    (root / "labels.csv").write_text(TABLE.replace(*change) if change[0] else TABLE, encoding="cp949")
    with pytest.raises(ValueError, match=message):
        folder(root, labels, **OPTIONS)


def test_a_decimal_comma_that_was_not_said(root: Path) -> None:
    (root / "labels.csv").write_text(TABLE)
    with pytest.raises(ValueError, match=r"found '0,5'\. .*data\.table\.decimal=','"):
        folder(root, {"cars": CARS}, **OPTIONS | {"table": {"file": "labels.csv"}})


# ---- splits


def test_splits_by_folder_and_by_list(root: Path) -> None:
    found = {split: folder(root, split=split, splits={"folders": {"train": "images/a", "val": "images/b"}})
             for split in ("train", "val")}  # fmt: skip
    assert [numbers(found[split]) for split in found] == [list(range(15)), list(range(15, 30))]
    (root / "train.txt").write_text("5\na/7.png\nimages/b/20.png\n")
    (root / "test.txt").write_text("6.png\n")
    lists = {"lists": {"train": "train.txt", "test": "test.txt"}, "holdout": 0.4, "gap": 0, "block": 1}
    assert numbers(folder(root, split="test", splits=lists)) == [6]
    assert [numbers(folder(root, split=split, splits=lists)) for split in ("train", "val")] == [[5, 7], [20]]


def test_groups_are_held_out_whole(root: Path) -> None:
    (root / "labels.csv").write_text("file,who\n" + "".join(f"{n},{n % 6}\n" for n in range(30)))
    options = {"table": {"file": "labels.csv"}, "splits": {"group": "who", "holdout": 0.3}}
    train, val = ({n % 6 for n in numbers(folder(root, split=split, **options))} for split in ("train", "val"))
    assert (train | val, train & val, len(val)) == (set(range(6)), set(), 2)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"folders": {"trian": "images/a"}},
            r"data\.splits\.folders\.trian: no split has this name\. Did you mean 'train'",
        ),
        ({"folders": {"train": "image/a"}}, r"no image is in the folder 'image/a'\. Did you mean 'images/a'"),
        ({"folders": {"train": "images", "val": "images/a"}}, r"images/a/0\.png is in train and in val"),
        (
            {"folders": {"train": "images/a", "val": "images/b"}, "holdout": 0.1},
            r"splits\.holdout: it does not go with",
        ),
        ({"lists": {"train": "list.txt"}}, r"list\.txt names 1 of 2 images that do not exist, .*: 77\."),
        ({"lists": {"train": "a"}, "column": "b"}, r"data\.splits\.column: it does not go with lists"),
        ({"column": "split"}, r"data\.splits\.column: it names a column, but there is no table"),
        ({"holdout": 0.9}, r"data\.splits\.holdout=0\.9 leaves nothing to train on .*gap"),
    ],
)
def test_wrong_splits_are_refused(root: Path, splits: dict, message: str) -> None:
    (root / "list.txt").write_text("3.png\n77\n")
    with pytest.raises(ValueError, match=message):
        folder(root, splits=splits)


def test_a_split_that_is_not_there(root: Path) -> None:
    with pytest.raises(ValueError, match=r"no samples of the split 'test', but 24 train, 6 val"):
        folder(root, split="test")
