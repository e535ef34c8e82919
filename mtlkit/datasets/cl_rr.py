"""CL_RR: of two overlapping digits classify one and reconstruct the other."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mtlkit.data.dataset import DATASETS, Dataset, Sample, Target
from mtlkit.datasets.mnist import DIGITS, LICENCE
from mtlkit.datasets.multimnist import overlapping_digits


@DATASETS.register("cl_rr")
class CLRR(Dataset):
    """Two overlapping MNIST digits a picture: classify the top-left one, reconstruct the bottom-right one.

    The setting CL_RR of Gama and Grassi (arXiv 2505.10347), on which balancers differ, as on two classifications they
    do not. The pictures and the splits are those of `multimnist`: same `dataset_seed`, same pairs.

    Sample: image (3, 28, 28), grey; `classify` is the left digit's class; `reconstruct` (1, 28, 28) in [0, 1] is the
    right digit as MNIST has it: whole where the left one hides it, and larger than in the picture, in which it has
    28/36 of its size. So no augmentation may move pixels. The paper's targets are standardised, (x - 0.1307) /
    0.3081: its mean squared error, and with it the weight of the task in a plain sum, is 1 / 0.3081² = 10.53 times the
    one of these targets.

    `root`, `download`, `size` and errors are those of `multimnist`.
    """

    licence = LICENCE
    targets: Mapping[str, Target] = {
        "classify": Target("classification", DIGITS),
        "reconstruct": Target("reconstruction", ("grey",)),
    }

    def __init__(
        self,
        root: str | Path | None,
        split: str = "train",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        dataset_seed: int = 0,
        download: bool = False,
    ) -> None:
        images, labels, right = overlapping_digits("cl_rr", root, split, size, limit, dataset_seed, download)
        self._images, self._right = torch.from_numpy(images), torch.from_numpy(right)
        self._left = torch.from_numpy(labels[:, 0])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        return {
            "image": (self._images[index] / 255).repeat(3, 1, 1),
            "targets": {"classify": self._left[index].clone(), "reconstruct": self._right[index][None] / 255},
        }
