"""The contract of a data set, as checks that authors run on their own data sets."""

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from mtlkit.data.dataset import DATASETS, SPLITS, Dataset, Sample, Split, read_sample
from mtlkit.data.samples import Samples
from mtlkit.data.summary import spread
from mtlkit.registry import options_of, suggest
from mtlkit.testing.promises import chosen, difference, keep

LOOKED_AT = 20  #: the number of samples that are read of each split


@dataclass(frozen=True)
class Case:
    """The splits of a data set, and a function that builds one of them again."""

    build: Callable[..., Dataset]
    splits: Mapping[Split, Dataset]


def check_dataset(
    name: str,
    *,
    root: str | None = None,
    splits: Sequence[str] = SPLITS,
    only: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    **more_options: Any,
) -> None:
    """Reads some samples of each split and checks the promises of every data set.

    - `samples_fit`: a sample has an image (C, H, W) float32 in [0, 1] and targets of their kinds' format and range. It
      may lack any target, but it has none that the data set does not declare.
    - `same_targets`: all splits declare the same targets.
    - `same_again`: an index gives the same tensors a second time, and from a new instance.
    - `indices_end`: an index beyond the last one raises `IndexError`; -1, if it is taken, is the last sample.
    - `pickles`: a copy in another process has the same samples, so that `data.workers` can load them.
    - `splits_apart`: no image is in two splits.
    - `limited`: `limit=2` gives the first two samples.

    At most 20 samples of each split are read, evenly spread.

    Args:
        root: the folder, for a data set that reads files.
        splits: the splits to check.
        only: the promises to check (empty: all of them).
        options: options of the data set whose names are those of arguments here, such as `splits` of `folder`.
        more_options: its other options, also `size`.

    Raises `AssertionError` with the name of the broken promise. Raises `LookupError` or `ValueError` for an unknown
    data set, option, split or promise, and what the data set raises if its files are missing.

    >>> check_dataset("nyuv2", root="/data/nyuv2", size=(384, 288))  # doctest: +SKIP
    """
    promises = chosen(PROMISES, only)
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"There is no split {split!r}. {suggest(str(split), SPLITS)}")
    given = dict(options or {}) | more_options
    if root is not None or "root" in options_of(DATASETS.get(name)):
        given["root"] = root
    keep(name, [takes_options], DATASETS.get(name))

    def build(split: str, **more: Any) -> Dataset:
        return DATASETS.build(name, **{"size": None, "limit": None} | given | more, split=split)

    keep(name, promises, Case(build, {cast(Split, split): build(split) for split in splits}))


def takes_options(cls: type[Dataset]) -> None:
    lacking = [option for option in ("split", "size", "limit") if option not in options_of(cls)]
    assert not lacking, f"the constructor of {cls.__name__} does not take {' or '.join(map(repr, lacking))}"


def samples_fit(case: Case) -> None:
    for dataset in case.splits.values():
        samples = Samples(dataset)
        for index in _some(dataset):
            given, whole = samples.checked(index)["targets"], samples[0, index]["targets"]
            assert whole.keys() == dataset.targets.keys()
            for name in whole.keys() - given.keys():
                assert not samples.kinds[name].valid(whole[name]).any(), f"the kind of {name!r} has no unknown value"


def same_targets(case: Case) -> None:
    (first, one), *others = case.splits.items()
    for split, other in others:
        assert dict(other.targets) == dict(one.targets), (
            f"{first} has the targets {dict(one.targets)}, {split} has {dict(other.targets)}"
        )


def same_again(case: Case) -> None:
    for split, dataset in case.splits.items():
        again = case.build(split)
        for index in _some(dataset):
            first = read_sample(dataset, index)
            _assert_same(first, read_sample(dataset, index), f"{dataset.label(index)} of {split}, read twice,")
            _assert_same(first, read_sample(again, index), f"{dataset.label(index)} of {split}, from a new instance,")


def indices_end(case: Case) -> None:
    for split, dataset in case.splits.items():
        length = len(dataset)
        try:
            dataset[length]
        except IndexError:
            pass
        else:
            raise AssertionError(f"{split} has {length} samples, but it also returns one for the index {length}")
        try:
            last = dataset[-1]
        except IndexError:
            continue
        _assert_same(dataset[length - 1], last, f"of {split}, the sample -1 and the last one,")


def pickles(case: Case) -> None:
    for split, dataset in case.splits.items():
        copy = pickle.loads(pickle.dumps(dataset))
        assert len(copy) == len(dataset), f"the copy of {split} has {len(copy)} samples instead of {len(dataset)}"
        for index in _some(dataset)[:2]:
            _assert_same(dataset[index], copy[index], f"{dataset.label(index)} of {split}, from a copy,")


def splits_apart(case: Case) -> None:
    seen: dict[bytes, str] = {}
    for split, dataset in case.splits.items():
        mine: dict[bytes, str] = {}
        for index in _some(dataset):
            pixels = hashlib.sha256(read_sample(dataset, index)["image"].numpy().tobytes()).digest()
            mine[pixels] = f"{dataset.label(index)} of {split}"
            assert pixels not in seen, f"{seen.get(pixels)} and {mine[pixels]} have the same image"
        seen |= mine


def limited(case: Case) -> None:
    for split, dataset in case.splits.items():
        few, count = case.build(split, limit=2), min(2, len(dataset))
        assert len(few) == count, f"with limit=2, {split} has {len(few)} samples instead of {count}"
        for index in range(count):
            _assert_same(dataset[index], few[index], f"{dataset.label(index)} of {split}, with limit=2,")


PROMISES = (samples_fit, same_targets, same_again, indices_end, pickles, splits_apart, limited)


def _some(dataset: Dataset) -> list[int]:
    return spread(len(dataset), LOOKED_AT)


def _assert_same(one: Sample, two: Sample, what: str) -> None:
    first, second = _tensors(one), _tensors(two)
    assert first.keys() == second.keys(), f"{what} has {sorted(first)} once and {sorted(second)} the other time"
    for name, value in first.items():
        found = difference(value, second[name])
        assert found == 0, f"{what} differs in {name} by up to {found:.1e}"


def _tensors(sample: Sample) -> dict[str, Tensor]:
    return {"image": sample["image"]} | {name: value for name, value in sample["targets"].items() if value is not None}
