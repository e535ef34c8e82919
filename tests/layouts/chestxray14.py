"""Small copies of ChestX-ray14: the two versions of its table, its official lists and CheXNet's, 20 pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: CheXNet's order; the table has the findings of a picture in alphabetical order.
ORDER = (
    "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema Emphysema "
    "Fibrosis Pleural_Thickening Hernia"
)
FINDINGS = ORDER.split()
PATIENTS = (1, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 8, 8, 9, 10, 10, 11, 12)
NAMES = [f"{patient:08d}_{PATIENTS[:i].count(patient):03d}.png" for i, patient in enumerate(PATIENTS)]
TEST = (3, 7, 9)  # the patients of the official test list
CHEXNET = {"train": (1, 2, 4, 5, 8, 10, 11), "val": (3, 6), "test": (7, 9, 12)}
HEADS = {
    "Data_Entry_2017.csv": "Patient Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
    "Data_Entry_2017_v2020.csv": "Patient Sex,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
}


def label(picture: int, finding: int) -> int:
    """No findings in every fifth picture; every finding has other labels in the rest."""
    return 0 if picture % 5 == 4 else (finding + 1) >> (picture % 5) & 1


def pixels(picture: int) -> np.ndarray:
    """(24, 32) uint8: a grey of its own, with a dark corner at the upper left."""
    values = np.full((24, 32), 100 + 5 * picture % 150, np.uint8)
    values[:4, :8] = picture
    return values


def of(patients: Sequence[int]) -> list[int]:
    """The pictures of the patients."""
    return [i for i, patient in enumerate(PATIENTS) if patient in patients]


def table(name: str = "Data_Entry_2017.csv", changed: Mapping[int, str] | None = None) -> str:
    """The text of a table; `changed` are other findings of a picture."""
    new = name != "Data_Entry_2017.csv"
    rows = [f"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,{HEADS[name]}"]
    for i, patient in enumerate(PATIENTS):
        found = sorted(finding for f, finding in enumerate(FINDINGS) if label(i, f))
        findings = (changed or {}).get(i, "|".join(found) or "No Finding")
        age = str(40 + patient) if new else f"{40 + patient:03d}Y"
        rows.append(f"{NAMES[i]},{findings},{i},{patient},{age},F,PA,2682,2749,0.143,0.143{'' if new else ','}")
    return "\n".join(rows) + "\n"


def chexnet_list(pictures: Sequence[int]) -> str:
    """The text of a list with labels, without a newline at its end."""
    return "\n".join(" ".join([NAMES[i], *(str(label(i, f)) for f in range(14))]) for i in pictures)


def write_pictures(folder: Path) -> None:
    """Grey pictures; every seventh is RGBA, as some are."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(NAMES)):
        picture = Image.fromarray(pixels(i))
        (picture.convert("RGBA") if i % 7 == 3 else picture).save(folder / NAMES[i])


def official(root: Path, name: str = "Data_Entry_2017.csv") -> Path:
    """One folder of pictures, the table, and the lists of names."""
    write_pictures(root / "images")
    (root / name).write_text(table(name))
    rest = [i for i in range(len(NAMES)) if PATIENTS[i] not in TEST]
    (root / "train_val_list.txt").write_text("".join(f"{NAMES[i]}\n" for i in rest))
    (root / "test_list.txt").write_text("\n".join(NAMES[i] for i in of(TEST)))
    return root


def archives(root: Path) -> Path:
    """The pictures in the folders of their archives."""
    official(root)
    for k in range(12):
        folder = root / f"images_{k + 1:03d}" / "images"
        folder.mkdir(parents=True)
        for name in NAMES[2 * k : 2 * k + 2]:
            (root / "images" / name).rename(folder / name)
    (root / "images").rmdir()
    return root


def chexnet(root: Path) -> Path:
    """Beside the official files, CheXNet's lists in the folder `labels`."""
    official(root)
    (root / "labels").mkdir()
    for part, patients in CHEXNET.items():
        (root / "labels" / f"{part}_list.txt").write_text(chexnet_list(of(patients)[::-1]))
    return root
