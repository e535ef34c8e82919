"""The kit for data sets names a broken promise and the size of the difference."""

import pytest
import torch

from mtlkit import DATASETS, Dataset, Target
from mtlkit.data.dataset import SPLITS
from mtlkit.testing import check_dataset


@pytest.fixture
def register():
    return lambda cls: DATASETS.register("broken")(cls)


class Fine(Dataset):
    """Random pictures. A third of them have no number."""

    def __init__(self, split="train", size=None, limit=None):
        self.split, self.length = split, min(limit or 6, 6)
        self.targets = {"number": Target("regression", ("n",))}

    def __len__(self):
        return self.length

    def draw(self, index):
        return torch.Generator().manual_seed(100 * SPLITS.index(self.split) + index)

    def __getitem__(self, index):
        index = range(self.length)[index]
        draw = self.draw(index)
        sample = {"image": torch.rand(3, 4, 5, generator=draw), "targets": {}}
        if index % 3:
            sample["targets"]["number"] = torch.rand(1, generator=draw)
        return sample


class Bytes(Fine):
    """Returns pictures from 0 to 255."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"image": 255 * sample["image"]}


class Undeclared(Fine):
    """Returns a target that it does not declare."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample["targets"]["other"] = torch.zeros(1)
        return sample


class Changing(Fine):
    """Has other targets for validation."""

    def __init__(self, split="train", size=None, limit=None):
        super().__init__(split, size, limit)
        if split == "val":
            self.targets = {"number": Target("regression", ("m",))}


class Fickle(Fine):
    """Augments by itself."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"image": (sample["image"] + 0.01 * torch.rand(())).clamp(0, 1)}


class Endless(Fine):
    """Begins again at its end."""

    def __getitem__(self, index):
        return super().__getitem__(index % self.length)


class Shifted(Fine):
    """Counts from the front where it should count from the end."""

    def __getitem__(self, index):
        return super().__getitem__(abs(index))


class Locked(Fine):
    """Holds an object that cannot be copied."""

    def __init__(self, split="train", size=None, limit=None):
        super().__init__(split, size, limit)
        self.open = lambda: None


class Leaky(Fine):
    """Ignores `split`."""

    def draw(self, index):
        return torch.Generator().manual_seed(index)


class Unlimited(Fine):
    """Ignores `limit`."""

    def __init__(self, split="train", size=None, limit=None):
        super().__init__(split, size, None)


class Rigid(Fine):
    """Does not take `limit`."""

    def __init__(self, split="train", size=None):
        super().__init__(split, size)


@pytest.mark.parametrize(
    ("cls", "promise", "reason"),
    [
        (Bytes, "samples_fit", r"the image's values must be in \[0, 1\].*Divide values of 8 bits by 255"),
        (Undeclared, "samples_fit", "its target 'other' is not among the data set's `targets`"),
        (Changing, "same_targets", "train has the targets .*, val has"),
        (Fickle, "same_again", r"Sample 0 of train, read twice, differs in image by up to \d\.\de-03"),
        (Endless, "indices_end", "train has 6 samples, but it also returns one for the index 6"),
        (Shifted, "indices_end", "of train, the sample -1 and the last one, differs in image by up to"),
        (Locked, "pickles", "lambda"),
        (Leaky, "splits_apart", "Sample 0 of train and Sample 0 of val have the same image"),
        (Unlimited, "limited", "with limit=2, train has 6 samples instead of 2"),
        (Rigid, "takes_options", "the constructor of Rigid does not take 'limit'"),
    ],
)
def test_a_broken_promise_is_named(register, cls, promise, reason):
    register(cls)
    with pytest.raises(AssertionError, match=rf"(?s)broken breaks the promise '{promise}': .*{reason}"):
        check_dataset("broken", only=() if promise == "takes_options" else (promise,))


def test_what_the_broken_ones_are_made_of_keeps_all_promises(register):
    register(Fine)
    check_dataset("broken")


def test_what_there_is_not_is_refused():
    with pytest.raises(LookupError, match="Did you mean 'scenes'"):
        check_dataset("scnes")
    with pytest.raises(ValueError, match=r"There is no promise 'same'\. Known: .*'?same_again"):
        check_dataset("scenes", only=("same",))
    with pytest.raises(ValueError, match=r"There is no split 'vali'\. Did you mean 'val'"):
        check_dataset("scenes", splits=("vali",))


def test_rendered_rooms_keep_them(tmp_path):
    check_dataset("scenes", root=str(tmp_path), size=(32, 24), limit=3, splits=("train", "val"))
