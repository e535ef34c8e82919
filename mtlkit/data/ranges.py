"""The ranges of the numbers of targets, by split: median, 1 % and 99 %, and what looks wrong in them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from mtlkit.target import Kind, Target, kinds_of

A_SAMPLE = 4096  #: about so many numbers of a sample's target are used at most, evenly spread
ENOUGH = 20  #: a median of fewer numbers is not compared
FACTOR = 10.0  #: the numbers of two splits or data sets must not differ by it


@dataclass(frozen=True)
class Range:
    """The range of the numbers of a target in a split.

    Attributes:
        part: the part of the target, such as one output of a regression (empty: all numbers).
        where: the split, and the data set if several are joined: "train", "val, nyuv2".
        low, median, high: the quantiles at 1 %, 50 % and 99 %, in `unit`.
        size: the median of the numbers' sizes, without their signs; this is compared.
        count: the number of numbers that were used.
    """

    target: str
    part: str
    where: str
    unit: str
    low: float
    median: float
    high: float
    size: float
    count: int


@dataclass
class Gathered:
    """Collects the numbers of a split's samples.

    >>> import torch
    >>> gathered = Gathered({"depth": Target("depth")}, "train")
    >>> gathered.add({"depth": torch.tensor([[[0.0, 2.0, 4.0]]])})
    >>> [(found.median, found.unit, found.count) for found in gathered.ranges()]
    [(3.0, 'm', 2)]
    """

    targets: Mapping[str, Target]
    split: str
    _found: dict[tuple[str, str, str], list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kinds = kinds_of(self.targets)

    def add(self, sample: Mapping[str, Tensor], data_set: str = "") -> None:
        """Adds the targets that a sample has. `data_set` names its data set if several are joined."""
        for name, value in sample.items():
            for part, numbers in self._kinds[name].numbers(value).items():
                if len(numbers):
                    few = numbers[:: -(-len(numbers) // A_SAMPLE)].double().numpy()
                    self._found.setdefault((name, part, data_set), []).append(few)

    def ranges(self) -> list[Range]:
        """Returns the ranges, in the order of the targets."""
        found = []
        for (name, part, data_set), arrays in self._found.items():
            numbers = np.concatenate(arrays)
            low, median, high = (float(q) for q in np.quantile(numbers, (0.01, 0.5, 0.99)))
            where = f"{self.split}, {data_set}" if data_set else self.split
            size = float(np.median(np.abs(numbers)))
            unit = self._kinds[name].unit
            found.append(Range(name, part, where, unit, low, median, high, size, len(numbers)))
        order = list(self.targets)
        return sorted(found, key=lambda one: order.index(one.target))


def in_words(ranges: Sequence[Range]) -> list[str]:
    """Returns one line per target and part, with all its splits.

    >>> in_words([Range("depth", "", "train", "m", 0.5, 2.0, 9.5, 2.0, 100)])
    ['depth in m: train median 2 (1 %: 0.5, 99 %: 9.5)']
    """
    lines: dict[str, list[str]] = {}
    for one in ranges:
        text = f"{one.where} median {one.median:.4g} (1 %: {one.low:.4g}, 99 %: {one.high:.4g})"
        lines.setdefault(_named(one) + (f" in {one.unit}" if one.unit else ""), []).append(text)
    return [f"{name}: {'; '.join(texts)}" for name, texts in lines.items()]


def suspicions(targets: Mapping[str, Target], ranges: Sequence[Range]) -> list[str]:
    """Returns one sentence per median that is not plausible, and per target whose sizes differ tenfold between splits.

    >>> suspicions({"d": Target("depth")}, [Range("d", "", "train", "m", 1100, 1500, 1900, 1500, 100)])[0][:53]
    'd: the median in train is 1500 m, expected 0.05 to 10'
    """
    kinds = kinds_of(targets)
    found = [_implausible(one, kinds[one.target]) for one in ranges]
    groups: dict[tuple[str, str], list[Range]] = {}
    for one in ranges:
        if one.count >= ENOUGH and one.size > 0:
            groups.setdefault((one.target, one.part), []).append(one)
    found += [_different(group) for group in groups.values()]
    return [sentence for sentence in found if sentence]


def as_record(ranges: Iterable[Range]) -> list[dict[str, Any]]:
    """Returns the ranges for the log."""
    return [asdict(one) for one in ranges]


def from_record(record: Iterable[Mapping[str, Any]]) -> list[Range]:
    """Returns the ranges of a log."""
    return [Range(**values) for values in record]


def _implausible(one: Range, kind: Kind) -> str:
    low, high = kind.plausible
    if low <= one.median <= high:
        return ""
    unit = f" {one.unit}" if one.unit else ""
    expected = f"{low:g} to {high:g}{unit}" if math.isfinite(high - low) else f"another value ({low:g} to {high:g})"
    return f"{_named(one)}: the median in {one.where} is {one.median:.4g}{unit}, expected {expected}. {kind.advice}"


def _different(group: Sequence[Range]) -> str:
    """Returns a sentence about the two splits or data sets that differ most, if they differ too much."""
    pairs = [(max(a.size, b.size) / min(a.size, b.size), a, b) for a, b in combinations(group, 2)]
    pairs = [pair for pair in pairs if pair[0] >= FACTOR]
    if not pairs:
        return ""
    ratio, a, b = max(pairs, key=lambda pair: pair[0])
    return (
        f"{_named(a)}: the numbers in {a.where} and {b.where} differ {ratio:.3g}-fold in size (medians {a.median:.4g} "
        f"and {b.median:.4g}). Are they in the same unit?"
    )


def _named(one: Range) -> str:
    return f"{one.target} ({one.part})" if one.part else one.target
