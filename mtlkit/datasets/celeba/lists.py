"""CelebA's attributes and its two lists, from the authors' text files or from Kaggle's CSVs."""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from mtlkit.datasets.labelled import Labels, check_once, read_rows
from mtlkit.registry import suggest

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)
PAGE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
IMAGE, PARTITION = "image_id", "partition"  # columns of Kaggle's CSVs
ADVICE = f"Was it downloaded only in part? To be had on {PAGE}."


def read_attributes(path: Path) -> dict[str, Labels]:
    """Reads the 40 attributes of each picture, in the order of `ATTRIBUTES`. Columns are found by their names.

    Raises `ValueError` if the number of rows differs from the first line (a CSV has no such line), if the columns are
    not the 40, if a row is too short, if a picture occurs twice, and for values other than 1 and -1.
    """
    rows = read_rows(path)
    first, count = next(rows), None
    if path.suffix == ".csv":
        header = first
    elif len(first) == 1 and first[0].isdecimal():
        header, count = [IMAGE, *next(rows, [])], int(first[0])
    else:
        raise ValueError(f"{path} begins with {' '.join(first)[:60]!r}, expected the number of its pictures.")
    _check_header(path, header, (IMAGE, *ATTRIBUTES))
    at, pick = header.index(IMAGE), itemgetter(*map(header.index, ATTRIBUTES))
    found: dict[str, Labels] = {}
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}: the row of {row[0][:60]!r} has {len(row) - 1} values, expected 40. {ADVICE}")
        name, values = row[at], pick(row)
        if odd := set(values) - {"1", "-1"}:
            raise ValueError(f"{path}: the row of {name!r} holds {min(odd)!r}, expected 1 (present) or -1 (absent).")
        check_once(path, name, found)
        found[name] = bytes([value == "1" for value in values])
    if count not in (None, len(found)):
        raise ValueError(f"{path} has {len(found)} rows, its first line says {count}. {ADVICE}")
    return found


def read_partition(path: Path) -> dict[str, int]:
    """Reads the split of each picture: 0 for train, 1 for val, 2 for test. Raises `ValueError` for any other row."""
    rows = read_rows(path)
    header = next(rows) if path.suffix == ".csv" else [IMAGE, PARTITION]
    _check_header(path, header, (IMAGE, PARTITION))
    at, split_at = header.index(IMAGE), header.index(PARTITION)
    found: dict[str, int] = {}
    for row in rows:
        if len(row) != 2 or row[split_at] not in ("0", "1", "2"):
            raise ValueError(
                f"{path} has the row {' '.join(row)[:60]!r}, expected a picture and 0 (train), 1 (val) or 2 (test). "
                f"{ADVICE}"
            )
        check_once(path, row[at], found)
        found[row[at]] = int(row[split_at])
    return found


def _check_header(path: Path, header: Sequence[str], known: Sequence[str]) -> None:
    for name in header:
        if name not in known:
            raise ValueError(f"{path} has a column {name[:60]!r}, which is none of CelebA's. {suggest(name, known)}")
    if missing := [name for name in known if name not in header]:
        raise ValueError(f"{path} lacks {len(missing)} columns, the first of them {missing[0]}. {ADVICE}")
    if len(header) > len(known):
        raise ValueError(f"{path} has a column twice: {', '.join(n for n in known if header.count(n) > 1)}.")
