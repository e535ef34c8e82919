"""CL_RR: classify one of two overlapping digits and reconstruct the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtlkit.data.dataset import DATASETS, Dataset, Sample, Target
from mtlkit.datasets.mnist import DIGITS, LICENCE
from mtlkit.datasets.multimnist import PairOptions, overlapping_digits


@DATASETS.register("cl_rr")
class CLRR(Dataset):
    """Two overlapping MNIST digits per picture: classify the top-left one, reconstruct the bottom-right one.

    This is the setting CL_RR of Gama and Grassi (arXiv 2505.10347). It shows differences between balancers, which two
    classifications do not. The pictures and the splits are those of `multimnist`: the same `dataset_seed` gives the
    same pairs.

    Sample: image (3, 28, 28), grey. `classify` is the class of the left digit. `reconstruct` (1, 28, 28) in [0, 1] is
    the right digit as in MNIST. It is complete where the left digit hides it, and it is larger than in the picture,
    where it has 28/36 of its size. Therefore no augmentation may move pixels. The paper's targets are standardised,
    (x - 0.1307) / 0.3081. The options `mean` and `deviation` of the task reconstruction do the same. The mean squared
    error, and with it the weight of the task in a plain sum, is then 1 / 0.3081² = 10.53 times that of these targets.

    `root`, `download`, `size` and errors are as in `multimnist`.
    """

    licence = LICENCE
    targets: Mapping[str, Target] = {
        "classify": Target("classification", DIGITS),
        "reconstruct": Target("reconstruction", ("grey",)),
    }

    Options = PairOptions
    options: PairOptions

    def __init__(
        self,
        root: str | Path | None,
        split: str = "train",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        images, labels, right = overlapping_digits("cl_rr", root, split, size, limit, self.options)
        self._images, self._right = torch.from_numpy(images), torch.from_numpy(right)
        self._left = torch.from_numpy(labels[:, 0])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        return {
            "image": (self._images[index] / 255).repeat(3, 1, 1),
            "targets": {"classify": self._left[index].clone(), "reconstruct": self._right[index][None] / 255},
        }
