"""The names of a data set's splits. The command line offers them, so this module does not import torch."""

from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
