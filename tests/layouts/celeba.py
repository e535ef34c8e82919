"""Small copies of CelebA: twelve pictures in the layouts of the authors, of torchvision and of Kaggle."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
ATTRIBUTES = HEADER.split()
NAMES = [f"{i + 1:06d}.jpg" for i in range(12)]
SPLITS = [0, 0, 2, 0, 1, 0, 2, 0, 1, 0, 1, 2]  # mixed, so that a wrong order fails


def label(picture: int, attribute: int) -> int:
    """Every picture has other labels, and so has every attribute in any six neighbouring pictures."""
    return (attribute + 1) >> (picture % 6) & 1 ^ (picture >= 6)


def pixels(picture: int) -> np.ndarray:
    """(218, 178, 3) uint8: a colour of its own, with a bright upper half and a bright left half in two channels."""
    values = np.full((218, 178, 3), 20 * picture, np.uint8)
    values[:109, :, 1] = 250
    values[:, :89, 2] = 250
    return values


def attributes(names: Sequence[str] = NAMES, columns: Sequence[str] = ATTRIBUTES, count: int | None = None) -> str:
    """The text of `list_attr_celeba.txt`: padded values, a blank at the end of the names, no newline at the end."""
    rows = [
        " ".join([name, *(f"{2 * label(NAMES.index(name), ATTRIBUTES.index(c)) - 1:2d}" for c in columns)])
        for name in names
    ]
    return "\n".join([str(len(names) if count is None else count), " ".join(columns) + " ", *rows])


def partition() -> str:
    """The text of `list_eval_partition.txt`."""
    return "".join(f"{name} {split}\n" for name, split in zip(NAMES, SPLITS, strict=True))


def as_csv(text: str, *header: str) -> str:
    """A list as Kaggle has it."""
    return "\n".join([",".join(header), *(",".join(line.split()) for line in text.splitlines())]) + "\n"


def write_pictures(folder: Path, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(NAMES):
        Image.fromarray(pixels(i)).save((folder / name).with_suffix(suffix), quality=95)


def original(root: Path, png: bool = False) -> Path:
    for folder in ("Anno", "Eval"):
        (root / folder).mkdir(parents=True)
    (root / "Anno" / "list_attr_celeba.txt").write_text(attributes() + "\n")
    (root / "Eval" / "list_eval_partition.txt").write_text(partition())
    write_pictures(root / "Img" / ("img_align_celeba_png" if png else "img_align_celeba"), ".png" if png else ".jpg")
    return root


def original_png(root: Path) -> Path:
    return original(root, png=True)


def torchvision(root: Path) -> Path:
    folder = root / "celeba"
    write_pictures(folder / "img_align_celeba")
    (folder / "list_attr_celeba.txt").write_text(attributes() + "\n")
    (folder / "list_eval_partition.txt").write_text(partition())
    return root


def kaggle(root: Path) -> Path:
    write_pictures(root / "img_align_celeba" / "img_align_celeba")
    rows = attributes().partition("\n")[2].partition("\n")[2]
    (root / "list_attr_celeba.csv").write_text(as_csv(rows, "image_id", *ATTRIBUTES))
    (root / "list_eval_partition.csv").write_text(as_csv(partition(), "image_id", "partition"))
    return root
