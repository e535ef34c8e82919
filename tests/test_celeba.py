"""The data set celeba: layouts, targets, splits, and the messages about damaged files."""

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import celeba as layout
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mtlkit import DATASETS, TASKS
from mtlkit.data.concat import Concat
from mtlkit.data.dataset import BadSampleError
from mtlkit.data.prepare import prepare_dataset
from mtlkit.data.prepared import Prepared
from mtlkit.data.samples import Samples
from mtlkit.datasets.celeba import ATTRIBUTES, GROUPS, CelebA

SPLITS = ("train", "val", "test")
LAYOUTS = [layout.original, layout.original_png, layout.torchvision, layout.kaggle]
ATTRIBUTE_LIST = Path("Anno", "list_attr_celeba.txt")
PARTITION = Path("Eval", "list_eval_partition.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layout.original(tmp_path / "CelebA")


def labels_of(picture: int) -> list[float]:
    return [float(layout.label(picture, a)) for a in range(40)]


def shown(image: Tensor, picture: int) -> None:
    """Checks that the image is the picture, neither turned nor mirrored. JPEG changes the values a little."""
    expected = torch.from_numpy(layout.pixels(picture)).permute(2, 0, 1) / 255
    assert image.dtype == torch.float32
    assert image.shape == (3, 218, 178)
    assert (image - expected).abs().mean() < 0.02


def test_pictures_resized_as_torchvision_does(root: Path) -> None:
    """The tensors are those of FAMO's code: torchvision's `Resize` and `ToTensor` on the picture that PIL reads."""
    from torchvision.transforms import Compose, Resize, ToTensor

    texture = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    path = root / "Img" / "img_align_celeba" / layout.NAMES[0]
    Image.fromarray(texture).save(path, quality=95)
    for size in ((64, 64), (48, 200), (200, 300)):  # (width, height): two smaller than the picture, and one larger
        with Image.open(path) as picture:
            expected = Compose([Resize(size[::-1]), ToTensor()])(picture.convert("RGB"))
        assert torch.equal(CelebA(root, size=size, resize="torchvision")[0]["image"], expected)
        assert not torch.equal(CelebA(root, size=size)[0]["image"], expected)
    whole = CelebA(root, size=(178, 218), resize="torchvision")[0]["image"]
    assert torch.equal(whole, CelebA(root)[0]["image"])


def test_predict_resizes_as_the_data_set_did(tmp_path: Path) -> None:
    """Every data set says how it resizes, also a joined and a prepared one, so that `predict` can do the same."""
    root = layout.original(tmp_path / "celeba")
    ways = {how: CelebA(root, size=(64, 64), resize=how) for how in ("area", "torchvision")}
    assert {how: data.resizing for how, data in ways.items()} == {how: how for how in ways}
    assert Concat([ways["torchvision"]] * 2, ["a", "b"], [None, None]).resizing == "torchvision"
    prepare_dataset({"train": ways["torchvision"]}, tmp_path / "fast", {"name": "celeba", "resize": "torchvision"})
    assert Prepared(tmp_path / "fast").resizing == "torchvision"


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_every_layout_gives_the_pictures_of_each_split_with_their_attributes(write, tmp_path: Path) -> None:
    write(tmp_path / "data")
    for code, split in enumerate(SPLITS):
        data = CelebA(tmp_path / "data", split)
        pictures = [i for i, c in enumerate(layout.SPLITS) if c == code]
        assert len(data) == len(pictures)
        for index, picture in enumerate(pictures):
            sample = data[index]
            shown(sample["image"], picture)
            assert sample["targets"]["attributes"].tolist() == labels_of(picture)
            assert Path(data.label(index)).stem == Path(layout.NAMES[picture]).stem
            assert Path(data.label(index)).is_file()


def test_torchvisions_folder_itself_is_a_root_too(tmp_path: Path) -> None:
    layout.torchvision(tmp_path)
    assert len(CelebA(tmp_path / "celeba")) == len(CelebA(str(tmp_path))) == 6


def test_the_attributes_are_the_published_ones_in_their_order() -> None:
    assert list(ATTRIBUTES) == layout.ATTRIBUTES
    assert len(set(ATTRIBUTES)) == 40


def test_the_groups_hold_every_attribute_once() -> None:
    assert {tasks: len(groups) for tasks, groups in GROUPS.items()} == {"attributes": 1, "each": 40, "regions": 9}
    for groups in GROUPS.values():
        assert sorted(name for group in groups.values() for name in group) == sorted(ATTRIBUTES)
    assert [len(group) for group in GROUPS["regions"].values()] == [1, 2, 4, 5, 6, 13, 5, 2, 2]
    assert list(GROUPS["each"]) == ["a_5_o_Clock_Shadow", *ATTRIBUTES[1:]]


@pytest.mark.parametrize("tasks", ["attributes", "each", "regions"])
def test_targets_hold_the_labels_of_their_names_and_suit_the_task(tasks: str, root: Path) -> None:
    data = DATASETS.build("celeba", root=root, split="test", tasks=tasks)
    sample = data[1]  # picture 6 of the layout
    assert list(sample["targets"]) == list(data.targets) == list(GROUPS[tasks])
    for name, target in data.targets.items():
        assert (target.type, target.classes) == ("multilabel", GROUPS[tasks][name])
        value = sample["targets"][name]
        assert value.dtype == torch.float32
        assert value.tolist() == [layout.label(6, layout.ATTRIBUTES.index(c)) for c in target.classes]
        task = TASKS.build(target.type, name, target.classes, decoder="linear")  # raises if the name is not allowed
        assert not task.own_kind().problem(value)


def test_columns_are_found_by_their_names(root: Path) -> None:
    order = layout.ATTRIBUTES[::-1]
    (root / ATTRIBUTE_LIST).write_text(layout.attributes(columns=order))
    assert CelebA(root, "test")[0]["targets"]["attributes"].tolist() == labels_of(2)


def test_rows_are_found_by_the_names_of_their_pictures(root: Path) -> None:
    (root / ATTRIBUTE_LIST).write_text(layout.attributes(layout.NAMES[::-1]))
    assert CelebA(root, "test")[0]["targets"]["attributes"].tolist() == labels_of(2)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_last_row_counts_with_and_without_a_newline(end: str, root: Path) -> None:
    for path in (root / ATTRIBUTE_LIST, root / PARTITION):
        path.write_bytes((path.read_text().rstrip() + end).encode())
    data = CelebA(root, "test")
    assert len(data) == 3
    assert data[2]["targets"]["attributes"].tolist() == labels_of(11)


def test_a_byte_order_mark_and_windows_newlines_change_nothing(tmp_path: Path) -> None:
    layout.kaggle(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    assert CelebA(tmp_path, "test")[2]["targets"]["attributes"].tolist() == labels_of(11)


def test_kaggles_columns_are_found_by_their_names_and_may_be_quoted(tmp_path: Path) -> None:
    layout.kaggle(tmp_path)
    for path in tmp_path.glob("*.csv"):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join(f'"{cell}"' for cell in row[::-1]) for row in rows))
    assert CelebA(tmp_path, "test")[0]["targets"]["attributes"].tolist() == labels_of(2)


def test_size_is_width_and_height(root: Path) -> None:
    image = CelebA(root, "test", size=(20, 30))[0]["image"]
    assert image.shape == (3, 30, 20)
    assert image[1, 4].min() > 0.9  # the bright upper half
    assert image[1, 20].max() < 0.4
    assert image[2, :, 4].min() > 0.9  # the bright left half
    assert image[2, :, 15].max() < 0.4


def test_limit_takes_the_first_pictures(root: Path) -> None:
    whole, part = CelebA(root), CelebA(root, limit=2)
    assert len(part) == 2
    assert [part.label(i) for i in range(2)] == [whole.label(i) for i in range(2)]
    assert len(CelebA(root, limit=100)) == len(whole) == 6


def test_changing_a_sample_leaves_the_data_set_alone(root: Path) -> None:
    data = CelebA(root)
    sample = data[0]
    sample["image"].fill_(0.5)
    sample["targets"]["attributes"].fill_(3)
    shown(data[0]["image"], 0)
    assert data[0]["targets"]["attributes"].tolist() == labels_of(0)


def test_workers_read_what_the_main_process_reads(root: Path) -> None:
    data = CelebA(root, "val", tasks="regions")
    batch = next(iter(DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context="fork")))
    for index in range(3):
        assert torch.equal(batch["image"][index], data[index]["image"])
        assert torch.equal(batch["targets"]["eyes"][index], data[index]["targets"]["eyes"])


# A spawned worker gets such a copy.
def test_a_copy_through_pickle_is_the_same(root: Path) -> None:
    data = CelebA(root)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.label(3) == data.label(3)
    assert torch.equal(copy[3]["image"], data[3]["image"])
    assert torch.equal(copy[3]["targets"]["attributes"], data[3]["targets"]["attributes"])


def test_a_png_under_a_jpgs_name_is_read(root: Path) -> None:
    path = root / "Img" / "img_align_celeba" / layout.NAMES[2]
    Image.fromarray(layout.pixels(7)).save(path, format="png")
    shown(CelebA(root, "test")[0]["image"], 7)


def test_grey_and_transparent_pictures_become_rgb(root: Path) -> None:
    folder = root / "Img" / "img_align_celeba"
    Image.fromarray(layout.pixels(2)[..., 0]).save(folder / layout.NAMES[2])
    Image.fromarray(layout.pixels(6)).convert("RGBA").save(folder / layout.NAMES[6], format="png")
    data = CelebA(root, "test")
    assert data[0]["image"].shape == (3, 218, 178)
    shown(data[1]["image"], 6)


def test_the_jpg_is_taken_where_there_are_a_jpg_and_a_png(root: Path) -> None:
    folder = root / "Img" / "img_align_celeba"
    Image.fromarray(layout.pixels(7)).save((folder / layout.NAMES[2]).with_suffix(".png"))
    assert CelebA(root, "test").label(0) == str(folder / layout.NAMES[2])


def test_the_original_layout_comes_first_and_the_notes_say_so(root: Path) -> None:
    layout.kaggle(root)
    layout.torchvision(root)
    data = CelebA(root, "test")
    assert Path(data.label(0)).parent == root / "Img" / "img_align_celeba"
    notes = " ".join(data.notes)
    assert f"list of attributes is {root / ATTRIBUTE_LIST}." in notes
    assert f"partition is {root / PARTITION}." in notes
    for unused in ("list_attr_celeba.csv", "list_eval_partition.csv", "img_align_celeba/img_align_celeba", "celeba"):
        assert f"Not used: {root / unused}" in notes
    assert "name 12 of the 202,599 published pictures" in notes


def test_nothing_unused_is_made_up(root: Path, tmp_path: Path) -> None:
    for data in (CelebA(root), CelebA(layout.kaggle(tmp_path / "kaggle"))):
        assert not [note for note in data.notes if "Not used" in note]


def test_ten_thousand_pictures_are_listed_once_and_not_looked_at_one_by_one(root: Path, monkeypatch) -> None:
    names = [f"{i + 1:06d}.jpg" for i in range(10_000)]
    folder = root / "Img" / "img_align_celeba"
    for name in names[12:]:
        (folder / name).touch()
    values = " ".join(["-1"] * 40)
    rows = "\n".join(f"{name} {values}" for name in names)
    (root / ATTRIBUTE_LIST).write_text(f"10000\n{layout.HEADER}\n{rows}\n")
    (root / PARTITION).write_text("\n".join(f"{name} 0" for name in names))
    looks = {"scandir": 0, "listdir": 0, "stat": 0, "lstat": 0, "open": 0}

    def counting(name: str):
        function = getattr(os, name)

        def counted(*arguments, **options):
            looks[name] += 1
            return function(*arguments, **options)

        return counted

    for name in looks:
        monkeypatch.setattr(os, name, counting(name))
    data = CelebA(root)
    monkeypatch.undo()
    assert len(data) == 10_000
    assert looks["scandir"] + looks["listdir"] <= 2  # the root and the folder of pictures
    assert looks["stat"] + looks["lstat"] + looks["open"] < 100


def test_a_read_only_folder_is_enough(root: Path) -> None:
    paths = [root, *root.rglob("*")]
    for path in paths[::-1]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert CelebA(root)[0]["image"].shape == (3, 218, 178)
        assert sorted(root.rglob("*")) == sorted(paths[1:])
    finally:
        for path in paths:
            path.chmod(0o755)


def replace(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (ATTRIBUTE_LIST, "12\n", "13\n", "has 12 rows, its first line says 13. Was it downloaded only in part"),
        (ATTRIBUTE_LIST, "12\n", "", "begins with '5_o_Clock_Shadow Arched_Eyebrows.*', expected the number of its"),
        (ATTRIBUTE_LIST, " Smiling", " Smilng", "column 'Smilng', which is none of CelebA's. Did you mean 'Smiling'"),
        (ATTRIBUTE_LIST, " Young", "", "lacks 1 columns, the first of them Young"),
        (ATTRIBUTE_LIST, "Young ", "Young Male", "has a column twice: Male"),
        (ATTRIBUTE_LIST, "000012.jpg", "000003.jpg", "two rows of '000003.jpg'"),
        (ATTRIBUTE_LIST, "000003.jpg -1", "000003.jpg", "the row of '000003.jpg' has 39 values, expected 40"),
        (ATTRIBUTE_LIST, "000003.jpg -1", "000003.jpg  0", r"the row of '000003.jpg' holds '0', expected 1 .*or -1"),
        (ATTRIBUTE_LIST, "000012.jpg", "000013.jpg", "names 1 pictures that .* does not name, the first of them 0000"),
        (
            PARTITION,
            "000012.jpg 2\n",
            "",
            "names 1 pictures that .*partition.txt does not name, .*000012.jpg: they",
        ),
        (PARTITION, "000012.jpg", "000003.jpg", "two rows of '000003.jpg'"),
        (PARTITION, "000012.jpg 2", "000012.jpg 3", r"the row '000012.jpg 3', expected a picture and 0 \(train\)"),
        (PARTITION, "000012.jpg 2", "000012.jpg", r"the row '000012.jpg', expected a picture and 0 \(train\)"),
    ],
    ids=[
        *("count", "no_count", "unknown", "missing", "column_twice", "row_twice", "short", "value", "another_name"),
        *("partition_short", "partition_twice", "partition_code", "partition_cut"),
    ],
)
def test_damaged_lists_are_named(root: Path, path: Path, old: str, new: str, message: str) -> None:
    replace(root / path, old, new)
    with pytest.raises(ValueError, match=message) as error:
        CelebA(root)
    assert str(root / path) in str(error.value)


@pytest.mark.parametrize("size", [0.3, 0.7, 0.99])
def test_a_list_that_is_cut_off_anywhere_is_refused(root: Path, size: float) -> None:
    path = root / ATTRIBUTE_LIST
    text = path.read_text()
    path.write_text(text[: int(size * len(text))])
    with pytest.raises(ValueError, match=r"only in part\? To be had on http"):
        CelebA(root)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_attr_celeba.csv", "image_id", "filename", "column 'filename', which is none of CelebA's"),
        ("list_attr_celeba.csv", "image_id,", ",image_id,", "column '', which is none"),
        ("list_attr_celeba.csv", ",", ";", "column 'image_id;5_o_Clock_Shadow;.*', which is none of CelebA's"),
        ("list_attr_celeba.csv", "000012.jpg", "000003.jpg", "two rows of '000003.jpg'"),
        ("list_eval_partition.csv", "partition", "split", "column 'split', which is none of CelebA's"),
        ("list_eval_partition.csv", "image_id,partition\n", "", "column '000001.jpg', which is none of CelebA's"),
        ("list_eval_partition.csv", "000012.jpg,2", "000012.jpg,test", "the row '000012.jpg test', expected a picture"),
    ],
)
def test_damaged_csvs_are_named(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    layout.kaggle(tmp_path)
    replace(tmp_path / name, old, new, -1 if new == ";" else 1)
    with pytest.raises(ValueError, match=message) as error:
        CelebA(tmp_path)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (
            b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
            "is a web page, not a list: it begins with '<!D",
        ),
        (b"\xef\xbb\xbf\n<html>", "is a web page, not a list: it begins with '<html>'"),
        (b"PK\x03\x04\x14\x00\xff\xfe", "cannot be read as a list: .*decode byte"),
        (b'image_id,"' + b"x" * 200_000, "cannot be read as a list: field larger than"),
    ],
    ids=["empty", "blank", "html", "html_with_mark", "zip", "open_quote"],
)
@pytest.mark.parametrize("name", ["list_attr_celeba.csv", "list_eval_partition.csv"])
def test_what_is_no_list_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    layout.kaggle(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        CelebA(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_a_list_of_nothing_but_its_header_is_refused(root: Path) -> None:
    (root / ATTRIBUTE_LIST).write_text(layout.attributes([]))
    (root / PARTITION).write_text("\n")
    with pytest.raises(ValueError, match=r"list_eval_partition.txt is empty"):
        CelebA(root)


def test_a_split_without_pictures_is_refused(root: Path) -> None:
    replace(root / PARTITION, " 1", " 0", -1)
    with pytest.raises(ValueError, match="puts no picture into the split 'val'"):
        CelebA(root, "val")


def test_pictures_of_sixteen_bits_and_on_their_side(root: Path) -> None:
    folder = root / "Img" / "img_align_celeba"
    names = [name for name, split in zip(layout.NAMES, layout.SPLITS, strict=True) if split == 0]
    Image.fromarray((np.arange(64 * 48, dtype=np.uint16) * 21).reshape(48, 64)).save(folder / names[0], format="png")
    exif, stored = Image.Exif(), np.zeros((64, 48, 3), np.uint8)
    exif[0x0112], stored[:, 24:] = 6, 200  # bright on the right, so at the bottom after turning
    Image.fromarray(stored).save(folder / names[1], format="png", exif=exif)
    data = CelebA(root)
    assert float(data[0]["image"].double().mean()) == pytest.approx(21 * 3071 / 2 / 65_535, abs=1e-6)  # float32
    turned = data[1]["image"]
    assert turned.shape == (3, 48, 64)
    assert float(turned[:, :24].max()) == 0
    assert float(turned[:, 24:].min()) == pytest.approx(200 / 255)


def test_missing_pictures_are_counted_and_the_first_one_named(root: Path) -> None:
    folder = root / "Img" / "img_align_celeba"
    for i in (4, 2, 9):
        (folder / layout.NAMES[i]).unlink()
    # Pictures 3, 5 and 10 are in the splits test, val and train.
    for split, count, limit, first in (("test", 3, 1, 3), ("val", 3, 2, 5), ("train", 6, 5, 10)):
        missing = CelebA(root, split).missing
        assert f"1 of the {count} pictures that the lists name are not in {folder}, the first of them 0000" in missing
        assert f"{first:06d}" in missing
        assert "img_align_celeba.zip on http" in missing
        with pytest.raises(FileNotFoundError, match=r"To go on without these samples: data\.on_error=skip"):
            Samples(CelebA(root, split))
        assert bool(CelebA(root, split, limit=limit).missing) == (split != "train")  # picture 10 is the sixth of train
    assert len(Samples(CelebA(root, "train", limit=5))) == 5


def test_a_folder_under_a_pictures_name_is_missing_too(root: Path) -> None:
    path = root / "Img" / "img_align_celeba" / layout.NAMES[0]
    path.unlink()
    path.mkdir()
    assert "1 of the 6 pictures" in CelebA(root).missing


@pytest.mark.parametrize(
    ("part", "what", "looked_for"),
    [
        ("Anno", "list of attributes", "Anno/list_attr_celeba.txt, list_attr_celeba.txt, list_attr_celeba.csv"),
        ("Eval", "partition", "Eval/list_eval_partition.txt, list_eval_partition.txt, list_eval_partition.csv"),
        ("Img", "folder of pictures", "Img/img_align_celeba, "),
    ],
)
def test_missing_parts_are_named(root: Path, part: str, what: str, looked_for: str) -> None:
    (root / part).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"CelebA's {what} is not in .*{looked_for}.*had on http") as error:
        CelebA(root)
    assert str(root) in str(error.value)


def test_a_root_that_is_none_is_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.root is not set.*'celeba', which holds CelebA's folders Anno.*CelebA\.html"
    ):
        CelebA(None)
    with pytest.raises(FileNotFoundError, match=r"does not exist; expected a folder with CelebA's folders Anno"):
        CelebA(root / "nowhere")
    with pytest.raises(FileNotFoundError, match="is a file"):
        CelebA(root / PARTITION)


def test_symbolic_links_that_lead_nowhere_are_named(root: Path) -> None:
    picture = root / "Img" / "img_align_celeba" / layout.NAMES[0]
    picture.unlink()
    picture.symlink_to(picture.name)
    with pytest.raises(BadSampleError, match=rf"{picture} is damaged .*symbolic links"):
        CelebA(root)[0]
    picture.unlink()
    picture.symlink_to("nowhere.jpg")
    assert re.search(r"1 of the 6 pictures .* the first of them 000001\.jpg\.", CelebA(root).missing)
    link = root / "loop"
    link.symlink_to("loop")
    with pytest.raises(FileNotFoundError, match=rf"data.root={link} "):
        CelebA(link)
    (root / "Img").rename(root / "elsewhere")
    (root / "Img").symlink_to("Img")
    with pytest.raises(FileNotFoundError, match="folder of pictures is not in"):
        CelebA(root)


def test_a_folder_that_holds_itself_is_no_trap(root: Path) -> None:
    (root / "celeba").symlink_to(root)
    assert len(CelebA(root)) == 6


def test_truncated_and_vanished_pictures_are_named_when_they_are_read(root: Path) -> None:
    path = root / "Img" / "img_align_celeba" / layout.NAMES[2]
    content = path.read_bytes()
    data = CelebA(root, "test")
    for size in (0, 1, 20, 300, len(content) // 2, len(content) - 200):
        path.write_bytes(content[:size])
        with pytest.raises(BadSampleError, match=r"000003\.jpg is damaged or not what its name says"):
            data[0]
        shown(data[1]["image"], 6)  # the other pictures can still be read
    path.write_text("<html>not here</html>")
    with pytest.raises(BadSampleError, match=rf"{path} is damaged"):
        data[0]
    path.unlink()
    with pytest.raises(BadSampleError, match=rf"{path} is missing"):
        data[0]


def test_a_png_that_is_truncated_anywhere_is_named_when_it_is_read(tmp_path: Path) -> None:
    layout.original_png(tmp_path)
    data = CelebA(tmp_path, "test")
    noise = np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="png")
    content = buffer.getvalue()
    for size in range(0, len(content) - 20, 37):
        Path(data.label(0)).write_bytes(content[:size])
        with pytest.raises(BadSampleError, match=r"000003\.png is damaged"):
            data[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "The data set 'celeba' has no split 'valid'. Did you mean 'val'"),
        ({"tasks": "region"}, r"data\.tasks: expected one of .*, regions, found 'region'. Did you mean 'regions'"),
        ({"size": (64,)}, r"size must be \[width, height\], whole numbers of at least 1, got \[64\]"),
        ({"size": (64, 0)}, r"got \[64, 0\]"),
        ({"size": (64, 6.5)}, r"got \[64, 6.5\]"),
        ({"limit": 0}, "at least 1, got 0"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CelebA(tmp_path / "nowhere", **options)


def test_terms_are_told() -> None:
    assert "non-commercial research" in CelebA.licence


@pytest.mark.parametrize("name", ["../../../secret.jpg", "/secret.jpg"])
def test_a_list_names_no_picture_outside(root: Path, name: str) -> None:
    for path in (ATTRIBUTE_LIST, PARTITION):
        text = (root / path).read_text()
        (root / path).write_text(text.replace(layout.NAMES[0], name))
    with pytest.raises(ValueError, match=rf"list_attr_celeba\.txt names '{name}', which leads out of .*Anno"):
        CelebA(root)
