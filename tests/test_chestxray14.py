"""The data set chestxray14: tables, lists, splits by patient, and the messages about damaged files."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from layouts import chestxray14 as layout
from torch import Tensor
from torch.utils.data import DataLoader

from mtlkit import DATASETS, TASKS
from mtlkit.data.dataset import BadSampleError
from mtlkit.datasets.chestxray14 import FINDINGS, GROUPS, ChestXray14

SPLITS = ("train", "val", "test")
TABLE, NEW_TABLE = "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "ChestX-ray14"
    folder.mkdir()
    return layout.official(folder)


@pytest.fixture
def chexnet(tmp_path: Path) -> Path:
    folder = tmp_path / "CheXNet"
    folder.mkdir()
    return layout.chexnet(folder)


def labels_of(picture: int) -> list[float]:
    return [float(layout.label(picture, f)) for f in range(14)]


def pictures(data: ChestXray14) -> list[int]:
    return [layout.NAMES.index(Path(data.label(i)).name) for i in range(len(data))]


def patients(data: ChestXray14) -> set[int]:
    return {layout.PATIENTS[i] for i in pictures(data)}


def shown(image: Tensor, picture: int) -> None:
    expected = torch.from_numpy(layout.pixels(picture)).expand(3, 24, 32) / 255
    assert image.dtype == torch.float32
    assert torch.equal(image, expected)


def holds(data: ChestXray14) -> None:
    """Checks that every sample has its own picture with the labels of that picture."""
    for index, picture in enumerate(pictures(data)):
        sample = data[index]
        shown(sample["image"], picture)
        assert sample["targets"]["findings"].tolist() == labels_of(picture)
        assert Path(data.label(index)).is_file()


@pytest.mark.parametrize("table", [TABLE, NEW_TABLE])
def test_both_tables_give_the_pictures_with_their_findings(table: str, tmp_path: Path) -> None:
    layout.official(tmp_path, table)
    splits = [ChestXray14(tmp_path, split) for split in SPLITS]
    for data in splits:
        holds(data)
    assert pictures(splits[2]) == layout.of(layout.TEST)
    assert sorted(pictures(splits[0]) + pictures(splits[1])) == [i for i in range(20) if i not in pictures(splits[2])]


def test_the_pictures_may_lie_in_the_folders_of_their_archives(tmp_path: Path) -> None:
    layout.archives(tmp_path)
    for split in SPLITS:
        holds(ChestXray14(tmp_path, split))
    assert ChestXray14(tmp_path, "test").label(0) == str(tmp_path / "images_003" / "images" / layout.NAMES[4])


def test_the_pictures_may_lie_directly_in_the_folders_of_their_archives(tmp_path: Path) -> None:
    layout.archives(tmp_path)
    for k in range(1, 12):  # the last archive keeps its folder `images`
        folder = tmp_path / f"images_{k:03d}"
        for path in (folder / "images").iterdir():
            path.rename(folder / path.name)
    (tmp_path / "images_001.tar.gz").touch()
    for split in SPLITS:
        holds(ChestXray14(tmp_path, split))
    assert ChestXray14(tmp_path, "test").label(0) == str(tmp_path / "images_003" / layout.NAMES[4])


@pytest.mark.parametrize("with_table", [True, False])
def test_lists_may_name_the_folders_of_the_pictures(chexnet: Path, with_table: bool) -> None:
    if not with_table:
        (chexnet / TABLE).unlink()
    for path in (chexnet / "labels").iterdir():
        path.write_text("\n".join(f"images_012/{line}" for line in path.read_text().splitlines()))
    for split in SPLITS:
        data = ChestXray14(chexnet, split, split_lists="chexnet")
        assert pictures(data) == layout.of(layout.CHEXNET[split])[::-1]
        holds(data)


def test_the_one_folder_comes_before_those_of_the_archives(root: Path) -> None:
    layout.write_pictures(root / "images_001" / "images")
    assert {Path(ChestXray14(root).label(i)).parent for i in range(3)} == {root / "images"}
    (root / "images" / layout.NAMES[4]).unlink()
    assert ChestXray14(root, "test").label(0) == str(root / "images_001" / "images" / layout.NAMES[4])


def test_the_findings_are_in_chexnets_order() -> None:
    assert list(FINDINGS) == layout.FINDINGS


@pytest.mark.parametrize("tasks", ["findings", "each"])
def test_targets_hold_the_labels_of_their_names_and_suit_the_task(tasks: str, root: Path) -> None:
    data = DATASETS.build("chestxray14", root=root, split="test", tasks=tasks)
    sample = data[2]
    picture = pictures(data)[2]
    assert list(sample["targets"]) == list(data.targets) == list(GROUPS[tasks])
    assert sorted(c for target in data.targets.values() for c in target.classes) == sorted(FINDINGS)
    for name, target in data.targets.items():
        assert (target.type, target.classes) == ("multilabel", GROUPS[tasks][name])
        value = sample["targets"][name]
        assert value.dtype == torch.float32
        assert value.tolist() == [layout.label(picture, layout.FINDINGS.index(c)) for c in target.classes]
        task = TASKS.build(target.type, name, target.classes, decoder="linear")  # raises if the name is not allowed
        assert not task.own_kind().problem(value)


def test_no_finding_is_all_zeros(root: Path) -> None:
    data = ChestXray14(root, "test")
    assert layout.NAMES[4] in data.label(0)
    assert f"{layout.NAMES[4]},No Finding," in (root / TABLE).read_text()
    assert data[0]["targets"]["findings"].tolist() == [0.0] * 14


def test_grey_and_rgba_pictures_become_rgb(root: Path) -> None:
    whole = [ChestXray14(root, split) for split in SPLITS]
    kinds = {i % 7 == 3 for data in whole for i in pictures(data)}
    assert kinds == {True, False}  # both kinds are there, so `holds` checks both
    for data in whole:
        holds(data)


@pytest.mark.parametrize("holdout", [0.1, 0.3, 0.5])
def test_validation_data_are_held_out_by_patient(root: Path, holdout: float) -> None:
    train, val = (ChestXray14(root, split, holdout=holdout) for split in ("train", "val"))
    assert not patients(train) & patients(val)
    assert patients(train) | patients(val) == set(layout.PATIENTS) - set(layout.TEST)
    assert len(val) >= holdout * (len(train) + len(val))
    assert pictures(train) == sorted(pictures(train))
    assert pictures(ChestXray14(root, "test", holdout=holdout)) == layout.of(layout.TEST)


def test_without_a_holdout_there_is_more_to_train_on_and_no_validation(root: Path) -> None:
    assert patients(ChestXray14(root, holdout=0)) == set(layout.PATIENTS) - set(layout.TEST)
    with pytest.raises(ValueError, match=r"no validation data, and data\.holdout=0 holds out none"):
        ChestXray14(root, "val", holdout=0)


@pytest.mark.parametrize("with_table", [True, False])
def test_chexnets_lists_serve_with_and_without_the_table(chexnet: Path, with_table: bool) -> None:
    if not with_table:
        for name in (TABLE, "train_val_list.txt", "test_list.txt"):
            (chexnet / name).unlink()
    for split in SPLITS:
        data = ChestXray14(chexnet, split, split_lists="chexnet")
        assert pictures(data) == layout.of(layout.CHEXNET[split])[::-1]
        holds(data)


def test_both_kinds_of_lists_may_lie_together(chexnet: Path) -> None:
    assert pictures(ChestXray14(chexnet, "test")) == layout.of(layout.TEST)
    assert patients(ChestXray14(chexnet, "test", split_lists="chexnet")) == set(layout.CHEXNET["test"])


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_last_row_counts_with_and_without_a_newline(chexnet: Path, end: str) -> None:
    for path in chexnet.rglob("*list.txt"):
        path.write_bytes((path.read_text().rstrip() + end).encode())
    assert pictures(ChestXray14(chexnet, "test")) == layout.of(layout.TEST)
    for split in SPLITS:
        holds(ChestXray14(chexnet, split, split_lists="chexnet"))


def test_a_share_is_of_the_training_data_and_of_whole_patients(chexnet: Path) -> None:
    for lists in ("official", "chexnet"):
        whole = ChestXray14(chexnet, split_lists=lists)
        parts = [ChestXray14(chexnet, split_lists=lists, share=share) for share in (0.25, 0.5, 0.75, 1.0)]
        for share, part, more in zip((0.25, 0.5, 0.75), parts, parts[1:], strict=False):
            assert 0 < len(part) <= share * len(whole)
            assert patients(part) < patients(more)
            assert pictures(part) == [i for i in pictures(whole) if layout.PATIENTS[i] in patients(part)]
        assert pictures(parts[-1]) == pictures(whole)
        assert pictures(ChestXray14(chexnet, split_lists=lists, share=0.5)) == pictures(parts[1])
        for split in ("val", "test"):
            part, whole = (ChestXray14(chexnet, split, split_lists=lists, share=share) for share in (0.25, 1.0))
            assert pictures(part) == pictures(whole)


def test_a_share_below_one_patient_is_refused(root: Path) -> None:
    for share in (0.001, 1e-20):
        with pytest.raises(ValueError, match=rf"share={share:g} leaves nothing to train on"):
            ChestXray14(root, share=share)


def test_size_is_width_and_height(root: Path) -> None:
    image = ChestXray14(root, "test", size=(16, 6))[0]["image"]
    assert image.shape == (3, 6, 16)
    assert torch.allclose(image[:, 0, :4], torch.tensor(4 / 255))  # dark corner: 1/6 of the height, 1/4 of the width
    assert torch.allclose(image[:, 1:], torch.tensor(120 / 255))
    assert torch.allclose(image[:, :, 4:], torch.tensor(120 / 255))


def test_limit_takes_the_first_pictures(root: Path) -> None:
    assert pictures(ChestXray14(root, "test", limit=3)) == layout.of(layout.TEST)[:3]
    assert len(ChestXray14(root, "test", limit=100)) == len(layout.of(layout.TEST))


def test_changing_a_sample_leaves_the_data_set_alone(root: Path) -> None:
    data = ChestXray14(root, "test")
    sample = data[0]
    sample["image"].fill_(0.5)
    sample["targets"]["findings"].fill_(3)
    holds(data)


def test_workers_and_copies_read_what_the_main_process_reads(root: Path) -> None:
    data = ChestXray14(root, "test")
    holds(pickle.loads(pickle.dumps(data)))  # a spawned worker gets such a copy
    batch = next(iter(DataLoader(data, batch_size=5, num_workers=1, multiprocessing_context="fork")))
    for index in range(5):
        assert torch.equal(batch["image"][index], data[index]["image"])
        assert torch.equal(batch["targets"]["findings"][index], data[index]["targets"]["findings"])


def test_notes_say_what_was_read(chexnet: Path) -> None:
    (chexnet / NEW_TABLE).write_text(layout.table(NEW_TABLE))
    notes = " ".join(ChestXray14(chexnet).notes)
    assert f"The lists are {chexnet / 'train_val_list.txt'}, {chexnet / 'test_list.txt'} and name 20 of the" in notes
    assert f"The table is {chexnet / NEW_TABLE}. Not used: {chexnet / TABLE}." in notes
    notes = " ".join(ChestXray14(chexnet, split_lists="chexnet").notes)
    assert str(chexnet / "labels" / "val_list.txt") in notes
    assert "other labels" not in notes


def test_chexnets_labels_may_differ_from_the_table_in_a_few_pictures(tmp_path: Path, monkeypatch) -> None:
    many = tuple(range(1, 201))  # 200 patients with one picture each; two have other labels in the table
    monkeypatch.setattr(layout, "PATIENTS", many)
    monkeypatch.setattr(layout, "NAMES", [f"{patient:08d}_000.png" for patient in many])
    monkeypatch.setattr(layout, "CHEXNET", {"train": many[:150], "val": many[150:180], "test": many[180:]})
    layout.chexnet(tmp_path)
    (tmp_path / TABLE).write_text(layout.table(changed={7: "Pneumonia", 190: "Hernia|Mass"}))
    data = ChestXray14(tmp_path, "test", split_lists="chexnet")
    assert data[9]["targets"]["findings"].tolist() == labels_of(190)
    assert "2 pictures have other labels in the table; those of the lists are used." in data.notes
    (tmp_path / TABLE).write_text(layout.table(changed={7: "Pneumonia", 190: "Hernia|Mass", 3: "Edema"}))
    with pytest.raises(ValueError, match=r"3 of 200 pictures have other labels in .*csv than in CheXNet's lists"):
        ChestXray14(tmp_path, "test", split_lists="chexnet")


def test_lists_in_another_order_of_findings_are_refused(chexnet: Path) -> None:
    for path in (chexnet / "labels").iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text("\n".join(" ".join([row[0], *row[:0:-1]]) for row in rows))
    with pytest.raises(ValueError, match=r"in the lists .*must have the findings in the order Atelectasis, Cardiomega"):
        ChestXray14(chexnet, split_lists="chexnet")


@pytest.mark.parametrize("split", SPLITS)
def test_a_patient_in_two_official_lists_is_refused(root: Path, split: str) -> None:
    names = [layout.NAMES[i] for i in layout.of([12])]
    # This picture is of patient 3, who is in the test list.
    replace(root / "train_val_list.txt", f"{names[0]}\n", f"{layout.NAMES[4]}\n")
    replace(root / "test_list.txt", layout.NAMES[4], names[0])
    with pytest.raises(ValueError, match=r"1 patients have pictures in two lists, the first of them 3 in") as error:
        ChestXray14(root, split)
    assert f"{root / 'train_val_list.txt'} and {root / 'test_list.txt'}" in str(error.value)


@pytest.mark.parametrize("with_table", [True, False])
def test_a_patient_in_two_of_chexnets_lists_is_refused(chexnet: Path, with_table: bool) -> None:
    if not with_table:
        (chexnet / TABLE).unlink()
    train, val = (chexnet / "labels" / f"{part}_list.txt" for part in ("train", "val"))
    row = train.read_text().splitlines()[-1]  # the first picture of patient 1
    train.write_text(train.read_text().replace(f"\n{row}", ""))
    val.write_text(f"{val.read_text()}\n{row}")
    with pytest.raises(ValueError, match=r"1 patients have pictures in two lists, the first of them (0000000)?1 in"):
        ChestXray14(chexnet, "test", split_lists="chexnet")


def test_one_picture_in_two_lists_is_refused(root: Path) -> None:
    path = root / "train_val_list.txt"
    path.write_text(path.read_text() + layout.NAMES[4])
    with pytest.raises(ValueError, match="1 patients have pictures in two lists, the first of them 3 in"):
        ChestXray14(root)


def replace(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


FIRST, LAST = layout.NAMES[0], layout.NAMES[-1]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (TABLE, "Finding Labels", "Findings", "no column 'Finding Labels'.*Did you mean.*'Findings'"),
        (TABLE, "Image Index", "Image", "no column 'Image Index'"),
        (TABLE, "Patient ID", "Patient", "no column 'Patient ID'"),
        (TABLE, "Atelectasis", "Atelektasis", "has the finding 'Atelektasis', .*Did you mean 'Atelectasis'"),
        (TABLE, "Pleural_Thickening", "Pleural Thickening", "has the finding .*Did you mean 'Pleural_Thickening'"),
        (TABLE, "No Finding", "No Finding|Mass", "has the finding 'No Finding', which is none of the 14"),
        (TABLE, "No Finding", "no finding", "has the finding 'no finding'.*Did you mean 'No Finding'"),
        (TABLE, "No Finding", "", "has the finding ''"),
        (TABLE, f"\n{LAST}", f"\n{FIRST}", f"two rows of '{FIRST}'"),
        (TABLE, ",0,1,041Y", ",0,one,041Y", f"the row of '{FIRST}' has the patient 'one', expected a number"),
        (TABLE, LAST, "00000012_007.png", "the lists? .*does not name|names 1 pictures that"),
        ("train_val_list.txt", FIRST, FIRST[:9], f"names 1 pictures that .* does not name, the first of them {FIRST}"),
        ("train_val_list.txt", f"{FIRST}\n", "", f"names 1 pictures that .* does not name, the first of them {FIRST}"),
        ("train_val_list.txt", LAST, FIRST, f"two rows of '{FIRST}'"),
        ("train_val_list.txt", FIRST, f"{FIRST} 0 1", "expected the name of a picture. .*data.split_lists=official"),
    ],
)
def test_damaged_files_are_named(root: Path, name: str, old: str, new: str, message: str) -> None:
    replace(root / name, old, new)
    with pytest.raises(ValueError, match=message) as error:
        ChestXray14(root)
    assert str(root / name) in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            f"{FIRST} 1",
            f"{FIRST} 2",
            f"the row '{FIRST} 2 .*', expected a picture and a 0 or 1 for each of 14",
        ),
        (f"{FIRST} 1", FIRST, "expected a picture and a 0 or 1 for each of 14"),
        (f"{FIRST} 1", "a.png 1", "names 1 pictures that"),
    ],
)
def test_damaged_lists_of_chexnet_are_named(chexnet: Path, old: str, new: str, message: str) -> None:
    path = chexnet / "labels" / "train_list.txt"
    replace(path, old, new)
    with pytest.raises(ValueError, match=message) as error:
        ChestXray14(chexnet, split_lists="chexnet")
    assert str(path) in str(error.value)


def test_without_the_table_patients_are_told_from_names_in_the_known_form_only(chexnet: Path) -> None:
    (chexnet / TABLE).unlink()
    replace(chexnet / "labels" / "train_list.txt", FIRST, "patient1.png")
    with pytest.raises(ValueError, match=r"name 'patient1\.png', expected pictures called PATIENT_NUMBER\.png"):
        ChestXray14(chexnet, split_lists="chexnet")


def test_official_lists_are_not_taken_for_chexnets(chexnet: Path) -> None:
    for path in (chexnet / "labels").iterdir():
        if path.name != "test_list.txt":
            path.rename(chexnet / path.name)
    (chexnet / "labels" / "test_list.txt").unlink()  # the official list has the same name, and it stays
    with pytest.raises(ValueError, match=r"test_list\.txt has the row .*none of the lists of data\.split_lists=chex"):
        ChestXray14(chexnet, split_lists="chexnet")


@pytest.mark.parametrize("end", [-1, -20, -38, -43, -47])
def test_a_table_that_is_cut_off_in_its_last_row_is_refused(tmp_path: Path, end: int) -> None:
    layout.official(tmp_path, NEW_TABLE)
    path = tmp_path / NEW_TABLE
    text = path.read_text().rstrip("\n")
    row = text.splitlines()[-1]
    path.write_text(text[:end])
    if end == -1:  # only a digit of the last cell is missing, and nothing reads that cell
        assert len(ChestXray14(tmp_path)) > 0
        return
    with pytest.raises(ValueError, match=rf"the row of '{LAST[: len(row) + end]}.*cells, expected 11.*only in part\?"):
        ChestXray14(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Box</title></html>", "is a web page, not a list"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "cannot be read as a list"),
    ],
    ids=["empty", "html", "gzip"],
)
@pytest.mark.parametrize("name", [TABLE, "train_val_list.txt", "test_list.txt"])
def test_what_is_no_list_is_named(root: Path, name: str, content: bytes, message: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        ChestXray14(root)
    assert str(root / name) in str(error.value)


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt"])
def test_missing_official_lists_are_named(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{name} is neither in .*To be had on https://nihcc") as error:
        ChestXray14(root)
    assert str(root) in str(error.value)


def test_a_missing_table_is_named(root: Path) -> None:
    (root / TABLE).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"v2020\.csv or Data_Entry_2017\.csv is not in .*https://nihcc.*chexnet"
    ):
        ChestXray14(root)


def test_missing_lists_of_chexnet_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_list\.txt is neither in .*needs train_list\.txt, val.*CheXNet"):
        ChestXray14(root, split_lists="chexnet")


def test_missing_pictures_are_counted_and_the_first_one_named(tmp_path: Path) -> None:
    layout.archives(tmp_path)
    names = {split: [Path(ChestXray14(tmp_path, split).label(i)).name for i in range(2)] for split in SPLITS}
    for split in SPLITS:
        next(tmp_path.rglob(names[split][1])).unlink()
    for split in SPLITS:
        missing = ChestXray14(tmp_path, split).missing
        assert re.match(r"1 of the \d+ pictures that the lists name are not in ", missing)
        for part in (
            names[split][1],
            "images_*/images or images_*",
            "images_001.tar.gz to images_012.tar.gz on https://nihcc",
        ):
            assert part in missing
        assert not ChestXray14(tmp_path, split, limit=1).missing


def test_a_missing_folder_of_pictures_is_named(root: Path) -> None:
    (root / "images").rename(root / "pictures")
    missing = ChestXray14(root).missing
    assert re.match(rf"(\d+) of the \1 .*{root}/images, nor in images_\*/images or images_\* beside it", missing)


def test_a_root_that_is_none_is_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.root is not set.*'chestxray14', which holds .*Data_Entry_2017\.csv.*nihcc"
    ):
        ChestXray14(None)
    with pytest.raises(FileNotFoundError, match=r"does not exist; expected a folder with ChestX-ray14's"):
        ChestXray14(root / "nowhere")


def test_symbolic_links_that_lead_nowhere_are_named(root: Path) -> None:
    picture = root / "images" / layout.NAMES[4]
    picture.unlink()
    picture.symlink_to(picture.name)
    with pytest.raises(BadSampleError, match=rf"{picture} is damaged .*symbolic links"):
        ChestXray14(root, "test")[0]
    picture.unlink()
    (root / "images_001").symlink_to("images_001")
    assert "1 of the " in ChestXray14(root, "test").missing
    (root / "images").rename(root / "elsewhere")
    (root / "images").symlink_to("images")
    assert re.match(r"(\d+) of the \1 pictures", ChestXray14(root).missing)


def test_a_read_only_folder_is_enough(root: Path) -> None:
    paths = [root, *root.rglob("*")]
    for path in paths[::-1]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        holds(ChestXray14(root))
        assert sorted(root.rglob("*")) == sorted(paths[1:])
    finally:
        for path in paths:
            path.chmod(0o755)


def test_truncated_and_vanished_pictures_are_named_when_they_are_read(root: Path) -> None:
    path = root / "images" / layout.NAMES[4]
    content = path.read_bytes()
    data = ChestXray14(root, "test")
    for size in range(0, len(content) - 24, 5):  # the last bytes are checksums and the end mark
        path.write_bytes(content[:size])
        with pytest.raises(BadSampleError, match=rf"{layout.NAMES[4]} is damaged or not what its name says"):
            data[0]
    shown(data[1]["image"], pictures(data)[1])
    path.unlink()
    with pytest.raises(BadSampleError, match=rf"{path} is missing"):
        data[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "The data set 'chestxray14' has no split 'tset'. Did you mean 'test'"),
        (
            {"tasks": "finding"},
            r"data\.tasks: expected .*, found 'finding'. Did you mean 'findings'",
        ),
        ({"split_lists": "chexnext"}, r"data\.split_lists: expected .*, found 'chexnext'. Did you mean 'chexnet'"),
        ({"size": (224,)}, r"size must be \[width, height\].*got \[224\]"),
        ({"limit": 0}, "at least 1, got 0"),
        ({"holdout": 1.0}, r"data\.holdout: expected a number >= 0 and < 1, found 1.0"),
        ({"holdout": -0.1}, r"data\.holdout: .* found -0.1"),
        ({"share": 0.0}, r"data\.share: expected a number > 0 and <= 1, found 0.0"),
        ({"share": 1.5}, r"data\.share: .* found 1.5"),
        ({"share": float("nan")}, r"data\.share: .* found nan"),
        ({"split_lists": "chexnet", "holdout": 0.2}, r"data\.holdout: 0.2 has no effect with split_lists: chexnet"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChestXray14(tmp_path / "nowhere", **options)


def test_terms_are_told() -> None:
    assert "NIH Clinical Center" in ChestXray14.licence
