"""The 14 findings of ChestX-ray14, and the files that name its pictures, their findings and their splits."""

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from mtlkit.data.files import first_that_exists
from mtlkit.datasets.labelled import Labels, check_once, check_same, read_rows
from mtlkit.registry import suggest

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
#: The files that list the pictures of each split, by the option `split_lists`.
LISTS: Mapping[str, Mapping[str, str]] = {
    "official": {"train": "train_val_list.txt", "test": "test_list.txt"},
    "chexnet": {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"},
}
PAGES = {
    "official": "https://nihcc.app.box.com/v/ChestXray-NIHCC",
    "chexnet": "https://github.com/arnoweng/CheXNet (ChestX-ray14/labels)",
}
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
NOTHING = "No Finding"
TOLERATED = 0.01  # NIH corrected the labels of some pictures after CheXNet's lists were made


class Listed(NamedTuple):
    """The content of the lists for each picture, by the name of its file."""

    parts: Mapping[str, list[str]]  #: the pictures of each list
    labels: Mapping[str, Labels]
    patients: Mapping[str, str]
    notes: Sequence[str]


def read_lists(root: Path, split_lists: str) -> Listed:
    """Reads the lists of one kind and, if it exists, the table `Data_Entry_2017`, and compares them.

    Raises `FileNotFoundError` for a missing file. Raises `ValueError` for a damaged file, for pictures that are not in
    both, for labels of which more than a few differ, and for a patient who is in two lists.
    """
    tables = [root / name for name in TABLES if (root / name).exists()]
    paths = {part: _list_path(root, split_lists, name) for part, name in LISTS[split_lists].items()}
    if split_lists == "official" and not tables:
        raise FileNotFoundError(
            f"{' or '.join(TABLES)} is not in data.root={root}. To be had on {PAGES['official']}; only "
            "data.split_lists=chexnet does without."
        )
    parts = {part: read_list(path, split_lists) for part, path in paths.items()}
    labels = {name: row for part in parts.values() for name, row in part.items()}
    where = ", ".join(map(str, paths.values()))
    notes = [f"The lists are {where} and name {len(labels):,} of the 112,120 published pictures."]
    if tables:
        patients, table = read_table(tables[0])
        check_same(str(tables[0]), table, where, labels, PAGES[split_lists])
        notes += [f"The table is {tables[0]}.", *(f"Not used: {path}." for path in tables[1:])]
        if split_lists == "official":
            labels = table
        else:
            notes += _differences(labels, table, tables[0])
    else:
        patients = {name: _patient(name, where) for name in labels}
    _check_patients(paths, parts, patients)
    return Listed({part: list(rows) for part, rows in parts.items()}, labels, patients, notes)


def _list_path(root: Path, split_lists: str, name: str) -> Path:
    places = [root / name, root / "labels" / name]  # both kinds have a test_list.txt
    found = first_that_exists(places if split_lists == "official" else reversed(places))
    if found is None:
        raise FileNotFoundError(
            f"{name} is neither in data.root={root} nor in its folder labels. data.split_lists={split_lists} needs "
            f"{', '.join(LISTS[split_lists].values())}. To be had on {PAGES[split_lists]}."
        )
    return found


def read_list(path: Path, split_lists: str) -> dict[str, Labels]:
    """Reads the pictures of a list, without the folders in their names, and their labels. An official list has none."""
    width = 1 if split_lists == "official" else 1 + len(FINDINGS)
    found: dict[str, Labels] = {}
    for row in read_rows(path):
        if len(row) != width or not {"0", "1"}.issuperset(row[1:]):
            expected = "the name of a picture" if width == 1 else "a picture and a 0 or 1 for each of 14 findings"
            raise ValueError(
                f"{path} has the row {' '.join(row)[:60]!r}, expected {expected}. It was downloaded only in part or "
                f"is none of the lists of data.split_lists={split_lists}. To be had on {PAGES[split_lists]}."
            )
        name = row[0].rpartition("/")[2]
        check_once(path, name, found)
        found[name] = bytes(map(int, row[1:]))
    return found


def read_table(path: Path) -> tuple[dict[str, str], dict[str, Labels]]:
    """Reads the patient and the labels of each picture, from either version of `Data_Entry_2017`.

    The columns are found by their names. The names of the last two columns contain commas
    (`OriginalImage[Width,Height]`). The commas split each of them in two, as in the values below.
    """
    rows = read_rows(path)
    header = next(rows)
    for column in COLUMNS:
        if column not in header:
            raise ValueError(f"{path} has no column {column!r}. {suggest(column, filter(None, header))}")
    pick = itemgetter(*map(header.index, COLUMNS))
    named = len([column for column in header if column])  # a comma at the end of the line adds an empty name
    patients: dict[str, str] = {}
    labels: dict[str, Labels] = {}
    for row in rows:
        if len(row) < named:
            raise ValueError(
                f"{path}: the row of {row[0][:60]!r} has {len(row)} cells, expected {named}. Was it downloaded only in "
                f"part? To be had on {PAGES['official']}."
            )
        name, findings, patient = pick(row)
        if not patient.isdecimal():
            raise ValueError(f"{path}: the row of {name!r} has the patient {patient!r}, expected a number.")
        check_once(path, name, patients)
        patients[name], labels[name] = patient, _labels(findings, f"{path}: the row of {name!r}")
    return patients, labels


def _labels(text: str, what: str) -> Labels:
    """Reads `Cardiomegaly|Effusion` as zeros and ones. `No Finding`, which must be the only entry, is all zeros."""
    present = set() if text == NOTHING else set(text.split("|"))
    if unknown := sorted(present.difference(FINDINGS)):
        hint = suggest(unknown[0], (*FINDINGS, NOTHING))
        raise ValueError(f"{what} has the finding {unknown[0]!r}, which is none of the 14. {hint}")
    return bytes(finding in present for finding in FINDINGS)


def _differences(labels: Mapping[str, Labels], table: Mapping[str, Labels], path: Path) -> list[str]:
    """Returns a note on the pictures whose labels differ between the lists and the table at `path`."""
    differ = [name for name in labels if labels[name] != table[name]]
    if len(differ) > TOLERATED * len(labels):
        raise ValueError(
            f"{len(differ)} of {len(labels)} pictures have other labels in {path} than in CheXNet's lists, the first "
            f"{differ[0]}: {_findings(table[differ[0]])}, in the lists {_findings(labels[differ[0]])}. The lists must "
            f"have the findings in the order {', '.join(FINDINGS)}. To be had on {PAGES['chexnet']}."
        )
    return [f"{len(differ)} pictures have other labels in the table; those of the lists are used."] if differ else []


def _findings(labels: Labels) -> str:
    return "|".join(name for name, present in zip(FINDINGS, labels, strict=True) if present) or NOTHING


def _patient(name: str, where: str) -> str:
    match = re.fullmatch(r"(\d+)_\d+\.png", name)
    if match is None:
        raise ValueError(f"{where} name {name!r}, expected pictures called PATIENT_NUMBER.png, as 00000013_005.png.")
    return match[1]


def _check_patients(paths: Mapping[str, Path], parts: Mapping[str, Iterable[str]], patients: Mapping[str, str]) -> None:
    """Raises `ValueError` if a patient has pictures in two lists."""
    first: dict[str, str] = {}
    shared = {
        patients[name]: f"{paths[first[patients[name]]]} and {paths[part]}"
        for part, names in parts.items()
        for name in names
        if first.setdefault(patients[name], part) != part
    }
    if shared:
        patient, lists = next(iter(shared.items()))
        raise ValueError(
            f"{len(shared)} patients have pictures in two lists, the first of them {patient} in {lists}. Get "
            "the published lists: what is measured on patients who were trained on says nothing."
        )
