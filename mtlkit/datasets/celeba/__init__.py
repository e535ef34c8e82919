"""CelebA: faces with 40 attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtlkit.data.dataset import DATASETS, SPLITS, check_request
from mtlkit.data.files import names_in, root_folder
from mtlkit.datasets.celeba.lists import ATTRIBUTES, PAGE, read_attributes, read_partition
from mtlkit.datasets.labelled import LabelledPictures, check_same, missing_pictures

__all__ = ["ATTRIBUTES", "GROUPS", "CelebA"]

#: The attributes of each target, by the option `tasks`.
GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "attributes": {"attributes": ATTRIBUTES},
    "each": {f"a_{name}" if name[0].isdigit() else name: (name,) for name in ATTRIBUTES},
    "regions": {
        "gender": ("Male",),
        "nose": ("Big_Nose", "Pointy_Nose"),
        "mouth": ("Big_Lips", "Mouth_Slightly_Open", "Smiling", "Wearing_Lipstick"),
        "eyes": ("Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Eyeglasses", "Narrow_Eyes"),
        "face": ("Attractive", "Blurry", "Heavy_Makeup", "Oval_Face", "Pale_Skin", "Young"),
        "around_head": (
            *("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline"),
            *("Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Necklace", "Wearing_Necktie"),
        ),
        "facial_hair": ("5_o_Clock_Shadow", "Goatee", "Mustache", "No_Beard", "Sideburns"),
        "cheeks": ("High_Cheekbones", "Rosy_Cheeks"),
        "fat": ("Chubby", "Double_Chin"),
    },
}
FOLDERS = ("Img/img_align_celeba", "Img/img_align_celeba_png", "img_align_celeba", "img_align_celeba_png")
#: The possible places of each part: in the original layout, in torchvision's and in Kaggle's.
PLACES = {
    "list of attributes": ("Anno/list_attr_celeba.txt", "list_attr_celeba.txt", "list_attr_celeba.csv"),
    "partition": ("Eval/list_eval_partition.txt", "list_eval_partition.txt", "list_eval_partition.csv"),
    "folder of pictures": tuple(place for f in FOLDERS for place in (f"{f}/{f.rpartition('/')[2]}", f)),
}
HOLDS = "CelebA's folders Anno, Eval and Img, or its two lists beside the folder img_align_celeba"


@DATASETS.register("celeba")
class CelebA(LabelledPictures):
    """Aligned faces with 40 attributes, each present or not (Liu et al., ICCV 2015, arXiv 1411.7766).

    `root` or its folder `celeba` may have one of three layouts. mtlkit searches for them in the following order,
    separately for the lists and for the folder of pictures. `notes` says what was found and what is not used:

    - the authors': `Anno/list_attr_celeba.txt`, `Eval/list_eval_partition.txt`, `Img/img_align_celeba/*.jpg` or
      `Img/img_align_celeba_png/*.png`;
    - torchvision's: the two lists and the folder of pictures side by side;
    - Kaggle's: `list_attr_celeba.csv`, `list_eval_partition.csv` and `img_align_celeba/img_align_celeba/*.jpg`.

    The splits are the published ones: 162,770 pictures to train, 19,867 to validate, 19,962 to test. `tasks` says how
    the attributes become targets, all of type multilabel:

    - "attributes": one target `attributes` of all 40, in the authors' order, which is that of `ATTRIBUTES`;
    - "each": 40 targets of one attribute, with the name of the attribute. A task's name cannot begin with a digit, so
      `5_o_Clock_Shadow` becomes `a_5_o_Clock_Shadow`. Papers on balancers call this version CelebA;
    - "regions": nine regions of the face (Hand and Chellappa, AAAI 2017, arXiv 1604.07360).

    Sample: image (3, 218, 178), or of `size` (width, height), in most papers (64, 64); targets float32 (C,) in {0, 1}.
    `resize` says how it gets that size: "area" averages over the area of each new pixel. "torchvision" gives the bytes
    of torchvision's `Resize`, which published code uses. It mixes each pixel with its neighbours, so its pictures are a
    little softer.

    Raises `FileNotFoundError` for missing lists and folders. Raises `ValueError` for lists that are damaged or do not
    agree, and for options out of range. Raises `BadSampleError` for a damaged picture when it is read.

    >>> ", ".join(f"{region} {len(attributes)}" for region, attributes in GROUPS["regions"].items())
    'gender 1, nose 2, mouth 4, eyes 5, face 6, around_head 13, facial_hair 5, cheeks 2, fat 2'
    """

    licence = f"CelebA is for non-commercial research only, and its pictures must not be passed on (see {PAGE})."

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            tasks: how the attributes become targets: one target of all 40, each its own, or nine regions of the face
            resize: how pictures get the size `data.size`: by the mean over the area of each new pixel, or as
                torchvision
        """

        tasks: Literal["attributes", "each", "regions"] = "attributes"
        resize: Literal["area", "torchvision"] = "area"

    options: Options

    def __init__(
        self,
        root: str | Path | None,
        split: str = "train",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_request("celeba", split, size, limit)
        self.resizing = self.options.resize
        path = root_folder(root, "celeba", f"{HOLDS}, from {PAGE}")
        found = {part: _find(path, part) for part in PLACES}
        list_path, partition_path, folder = (places[0] for places in found.values())
        labels, splits = read_attributes(list_path), read_partition(partition_path)
        check_same(str(list_path), labels, str(partition_path), splits, PAGE)
        files = {_stem(name): name for name in reversed(names_in(folder, (".jpg", ".png")))}  # .jpg before .png
        names = [name for name, code in splits.items() if SPLITS[code] == split][:limit]
        if not names:
            raise ValueError(f"{partition_path} puts no picture into the split {split!r}.")
        present = {name: files[stem] for name in names if (stem := _stem(name)) in files}
        paths = [f"{folder}/{present.get(name, name)}" for name in names]
        self._hold(paths, [labels[name] for name in names], ATTRIBUTES, GROUPS[self.options.tasks], size)
        self.missing = missing_pictures(names, present, str(folder), f"img_align_celeba.zip on {PAGE}")
        self.notes = [
            *(f"CelebA's {part} is {places[0]}." for part, places in found.items()),
            *(f"Not used: {place}." for places in found.values() for place in places[1:]),
            f"The lists name {len(splits):,} of the 202,599 published pictures.",
            *filter(None, [self.missing]),
        ]


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _find(root: Path, part: str) -> list[Path]:
    """Returns the places where something of this part exists. The place to use comes first."""
    paths = [base / place for place in PLACES[part] for base in (root, root / "celeba")]
    found = [path for path in paths if path.exists()]
    if not found:
        raise FileNotFoundError(
            f"CelebA's {part} is not in data.root={root}: looked for {', '.join(PLACES[part])}, there and in its "
            f"folder celeba. Set data.root to a folder with {HOLDS}. To be had on {PAGE}."
        )
    return [found[0], *(path for path in found[1:] if path not in found[0].parents)]
