"""The content of a data set: how much of each target is valid, and how often each class occurs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlkit.data.dataset import BadSampleError
from mtlkit.data.ranges import Gathered, from_record, in_words
from mtlkit.data.samples import Samples
from mtlkit.target import Kind, Target, kinds_of

SHOWN = 8  #: the number of classes that a line names


def spread(length: int, count: int) -> list[int]:
    """Returns at most `count` indices, evenly spread over a data set.

    >>> spread(10, 4), spread(3, 9)
    ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(length, count)
    return [i * length // count for i in range(count)]


def look_at(
    samples: Samples, indices: Sequence[int], errors: list[BadSampleError], ranges: Gathered | None = None
) -> Iterator[dict[str, Tensor]]:
    """Yields the targets of some samples and adds their numbers to `ranges`.

    It leaves out the samples that data.on_error=skip leaves out, and appends their errors to `errors`.
    """
    for index in indices:
        try:
            targets = samples.plain(index)["targets"]
        except BadSampleError as error:
            if not samples.skip:
                raise
            errors.append(error)
        else:
            if ranges is not None:
                ranges.add(targets, samples.dataset.part_of(index))
            yield targets


def summarise(targets: Mapping[str, Target], samples: Iterable[Mapping[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """Returns for each target its `type`, `valid` (the share of valid elements: pixels, labels) and `classes`, by name.

    `classes` are shares of the valid elements for segmentation and classification, and shares of positives for
    multilabel. A sample without the target counts as invalid.

    >>> summarise({"left": Target("classification", ("a", "b"))}, [{"left": torch.tensor(n)} for n in (1, 1, 0, -1)])
    {'left': {'type': 'classification', 'valid': 0.75, 'classes': {'a': 0.333, 'b': 0.667}}}
    """
    kinds = kinds_of(targets)
    totals = {name: _Counts(target, kinds[name]) for name, target in targets.items()}
    for sample in samples:
        for name, counts in totals.items():
            counts.add(sample.get(name))
    return {name: counts.result() for name, counts in totals.items()}


class _Counts:
    """Sums over samples for one target."""

    def __init__(self, target: Target, kind: Kind) -> None:
        self.target, self.kind = target, kind
        self.shares: list[float] = []
        self.known = torch.zeros(len(target.classes), dtype=torch.float64)
        self.occurs = torch.zeros(len(target.classes), dtype=torch.float64)

    def add(self, value: Tensor | None) -> None:
        if value is None:
            self.shares.append(0.0)
            return
        self.shares.append(float(self.kind.valid(value).double().mean()))
        if (counts := self.kind.counts(value)) is not None:
            self.occurs += counts[0]
            self.known += counts[1]

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": self.target.type,
            "valid": _rounded(sum(self.shares) / max(len(self.shares), 1)),
        }
        if self.known.any():
            shares = (self.occurs / self.known.clamp_min(1)).tolist()
            found["classes"] = dict(zip(self.target.classes, map(_rounded, shares), strict=True))
        return found


def _rounded(share: float) -> float:
    """Rounds to three digits. A share above 0 does not become 0."""
    return float(f"{share:.3g}")


def summary_in_words(found: Mapping[str, Mapping[str, Any]], shown: int | None = SHOWN) -> list[str]:
    """Returns the summary as one line per target, with the `shown` most frequent classes (None: all).

    >>> summary_in_words({"left": {"type": "classification", "valid": 0.75, "classes": {"a": 0.333, "b": 0.667}}})
    ['left: classification, 75 % valid; b 66.7 %, a 33.3 %']
    """
    lines = []
    for name, facts in found.items():
        line = f"{name}: {facts['type']}, {100 * facts['valid']:.3g} % valid"
        if classes := sorted(facts.get("classes", {}).items(), key=lambda item: -item[1]):
            names = ", ".join(f"{key} {100 * share:.3g} %" for key, share in classes[:shown])
            rest = classes[len(classes) if shown is None else shown :]
            more = f", and {len(rest)} more down to {rest[-1][0]} {100 * rest[-1][1]:.3g} %" if rest else ""
            line += f"; {names}{more}"
        lines.append(line)
    return lines


def size_in_words(size: Sequence[int], channels: int) -> str:
    """Returns the size (width, height) of images, with their channels unless they are red, green and blue.

    >>> size_in_words((64, 48), 3), size_in_words((64, 48), 4)
    ('64 x 48', '64 x 48 with 4 channels')
    """
    plural = "s" * (channels != 1)
    return f"{size[0]} x {size[1]}" + (f" with {channels} channel{plural}" if channels != 3 else "")


def facts_in_words(facts: Mapping[str, Any]) -> list[str]:
    """Returns the data record of a log (`data` in a record of the split `info`) as one sentence per line."""
    counts = " and ".join(f"{count} {split}" for split, count in facts["samples"].items())
    size = size_in_words(facts["size"], facts.get("channels", 3))  # earlier logs have only colours
    seen = f"; shares are those in {facts['looked_at']} samples"
    ranges = in_words(from_record(facts.get("ranges", ())))  # earlier logs have none
    lines = [
        f"{counts} samples of {size}{seen}",
        *summary_in_words(facts["targets"]),
        *ranges,
        *facts["notes"],
    ]
    return [*lines, f"Terms of use: {facts['licence']}"] if facts["licence"] else lines
