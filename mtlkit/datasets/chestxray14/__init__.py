"""ChestX-ray14: chest X-rays with 14 findings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mtlkit.data.dataset import DATASETS, check_request
from mtlkit.data.files import names_in, root_folder
from mtlkit.data.splits import hold_out_groups
from mtlkit.datasets.chestxray14.lists import FINDINGS, PAGES, read_lists
from mtlkit.datasets.labelled import LabelledPictures, missing_pictures
from mtlkit.typed import Bound, OptionError, ShareBelowOne

__all__ = ["FINDINGS", "GROUPS", "ChestXray14"]

#: The findings of each target, by the option `tasks`.
GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "findings": {"findings": FINDINGS},
    "each": {name: (name,) for name in FINDINGS},
}
HOLDS = "ChestX-ray14's Data_Entry_2017.csv, its lists of pictures, and images/ or images_001/ to images_012/"
HOLDOUT = 0.1


@DATASETS.register("chestxray14")
class ChestXray14(LabelledPictures):
    """Frontal chest X-rays with 14 findings, each present or not (Wang et al., CVPR 2017, arXiv 1705.02315).

    `root` holds `Data_Entry_2017_v2020.csv` or `Data_Entry_2017.csv` (if both exist, the first is used), the lists of
    the splits, and the 112,120 pictures. The pictures are in `images/`, in `images_001/images/` to
    `images_012/images/`, which is how their archives unpack, or in `images_001/` to `images_012/`. The first place that
    has a picture is used. No patient is in two splits; other lists are an error. `split_lists`:

    - "official": `train_val_list.txt` (86,524 pictures) and `test_list.txt` (25,596). `val` is the share `holdout` of
      the first list, by patient, and `train` is the rest;
    - "chexnet": the lists of a public re-implementation of CheXNet (Rajpurkar et al., arXiv 1711.05225), in
      `root/labels` or in `root`: `train_list.txt` (78,468), `val_list.txt` (11,219), `test_list.txt` (22,433), with the
      labels. They work without the CSV. Then the file names tell the patients. With the CSV, both must name the same
      pictures and agree on the labels of all but one in a hundred, because NIH has corrected some labels since then.
      The labels of the lists are used, as in the published figures, and `notes` says how many differ.

    `share` trains on a part of the training data, by patient: on at most this share of its pictures. A larger share
    contains all pictures of a smaller one. RotoGrad's first version (Javaloy and Valera, OpenReview, 2020) uses 20 % of
    the data and does not say of which data. Here validation and test data stay complete, so you can compare figures for
    different shares. CheXNet's complete test list has only about 42 pictures of the rarest finding.

    `tasks`: "findings" is one target `findings` of 14. "each" is 14 targets of one finding, with the name of the
    finding. All are of type multilabel. A picture without findings has zeros. The order is CheXNet's, which is that of
    `FINDINGS`.

    Sample: image (3, 1024, 1024), grey, or of `size` (width, height), in most papers (224, 224); targets float32 (C,)
    in {0, 1}.

    Raises `FileNotFoundError` for missing lists. Raises `ValueError` for lists that are damaged or do not agree, and
    for options out of range. Raises `BadSampleError` for a damaged picture when it is read.
    """

    licence = (
        "ChestX-ray14 is free to use with a reference to the NIH Clinical Center, a link to its page "
        f"({PAGES['official']}) and a citation of Wang et al., CVPR 2017."
    )

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            tasks: one target `findings` of all 14, or each finding its own target
            split_lists: the official lists, or those of a public re-implementation of CheXNet
            holdout: the share of the training pictures that becomes "val", by patient, with `split_lists: official`
            share: trains on at most this share of the training pictures, by patient
        """

        tasks: Literal["findings", "each"] = "findings"
        split_lists: Literal["official", "chexnet"] = "official"
        holdout: ShareBelowOne = HOLDOUT
        share: Annotated[float, Bound(0, 1, open=True)] = 1.0

        def __post_init__(self) -> None:
            if self.split_lists == "chexnet" and self.holdout != HOLDOUT:
                raise OptionError(
                    "holdout",
                    f"{self.holdout:g} has no effect with split_lists: chexnet, which has a list of validation data",
                    "Leave it out.",
                )

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
        check_request("chestxray14", split, size, limit)
        split_lists, holdout = self.options.split_lists, self.options.holdout
        if split_lists == "official" and split == "val" and holdout == 0:
            raise ValueError(
                "The official lists of ChestX-ray14 have no validation data, and data.holdout=0 holds out none. Set "
                f"data.holdout, {HOLDOUT:g} by default, to a share of the training data."
            )
        path = root_folder(root, "chestxray14", f"{HOLDS}, from {PAGES['official']}")
        listed = read_lists(path, split_lists)
        names = listed.parts["train" if split_lists == "official" and split == "val" else split]
        if split_lists == "official" and split != "test":
            kept, held = hold_out_groups([listed.patients[name] for name in names], holdout)
            names = [names[i] for i in (held if split == "val" else kept)]
        if split == "train":
            names = _draw(names, listed.patients, self.options.share)
        names = names[:limit]
        folders = _find_pictures(path)
        paths = [f"{folders.get(name, path / 'images')}/{name}" for name in names]
        self._hold(paths, [listed.labels[name] for name in names], FINDINGS, GROUPS[self.options.tasks], size)
        where = f"{path / 'images'}, nor in images_*/images or images_* beside it"
        source = f"the archives images_001.tar.gz to images_012.tar.gz on {PAGES['official']}"
        self.missing = missing_pictures(names, folders, where, source)
        self.notes = [*listed.notes, *filter(None, [self.missing])]


def _draw(names: list[str], patients: Mapping[str, str], share: float) -> list[str]:
    """Draws whole patients, and returns their pictures: at most `share` of all pictures."""
    try:
        kept, _ = hold_out_groups([patients[name] for name in names], 1 - share)
    except ValueError:
        raise ValueError(
            f"share={share:g} leaves nothing to train on: no patient has so few of the {len(names)} pictures."
        ) from None
    return [names[i] for i in kept]


def _find_pictures(root: Path) -> dict[str, Path]:
    """Returns the folder of each picture. Each folder is listed once."""
    folders = [root / "images", *sorted(root.glob("images_*/images")), *sorted(root.glob("images_*"))]
    return {name: folder for folder in reversed(folders) if folder.is_dir() for name in names_in(folder, ".png")}
