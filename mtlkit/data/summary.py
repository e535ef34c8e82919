"""What is in a data set: how much of each target is valid, and how often each class occurs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlkit.data.dataset import BadSampleError, Target
from mtlkit.data.loader import Samples

SHOWN = 8  #: classes named in a line


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over a data set.

    >>> spread(10, 4), spread(3, 9)
    ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(length, count)
    return [i * length // count for i in range(count)]


def look_at(samples: Samples, indices: Sequence[int], errors: list[BadSampleError]) -> Iterator[dict[str, Tensor]]:
    """The targets of some samples; to `errors` goes what is wrong with those that data.on_error=skip leaves out."""
    for index in indices:
        try:
            targets = samples.plain(index)["targets"]
        except BadSampleError as error:
            if not samples.skip:
                raise
            errors.append(error)
        else:
            yield targets


def summarise(targets: Mapping[str, Target], samples: Iterable[Mapping[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """By target: `type`, `valid`, the share of its elements (pixels, labels) that is valid, and `classes`, by name.

    `classes` are shares of the valid elements for segmentation and classification, and the share of positives for
    multilabel. A sample without the target counts as invalid.

    >>> summarise({"left": Target("classification", ("a", "b"))}, [{"left": torch.tensor(n)} for n in (1, 1, 0, -1)])
    {'left': {'type': 'classification', 'valid': 0.75, 'classes': {'a': 0.333, 'b': 0.667}}}
    """
    totals = {name: _Counts(target) for name, target in targets.items()}
    for sample in samples:
        for name, counts in totals.items():
            counts.add(sample.get(name))
    return {name: counts.result() for name, counts in totals.items()}


class _Counts:
    """Sums over samples for one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.shares: list[float] = []
        self.known = torch.zeros(len(target.classes), dtype=torch.float64)
        self.positive = torch.zeros(len(target.classes), dtype=torch.float64)

    def add(self, value: Tensor | None) -> None:
        if value is None:
            self.shares.append(0.0)
            return
        valid = _valid(self.target.type, value)
        self.shares.append(float(valid.double().mean()))
        if self.target.type in ("segmentation", "classification"):
            self.positive += torch.bincount(value[valid].flatten(), minlength=len(self.positive))
            self.known += valid.sum()
        elif self.target.type == "multilabel":
            self.positive += value.nan_to_num(0)
            self.known += valid

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": self.target.type,
            "valid": _rounded(sum(self.shares) / max(len(self.shares), 1)),
        }
        if self.known.any():
            shares = (self.positive / self.known.clamp_min(1)).tolist()
            found["classes"] = dict(zip(self.target.classes, map(_rounded, shares), strict=True))
        return found


def _valid(kind: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value != -1
    if kind == "normals":
        return value.square().sum(0) > 0.25
    return value > 0 if kind in ("depth", "disparity") else ~value.isnan()


def _rounded(share: float) -> float:
    """Three digits, and no share that is not 0 becomes it."""
    return float(f"{share:.3g}")


def describe(found: Mapping[str, Mapping[str, Any]], shown: int | None = SHOWN) -> list[str]:
    """The summary in lines, one a target, with the `shown` most frequent classes (None: all).

    >>> describe({"left": {"type": "classification", "valid": 0.75, "classes": {"a": 0.333, "b": 0.667}}})
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


def facts_in_words(facts: Mapping[str, Any]) -> list[str]:
    """A log's record on the data (`data` of a record of the split `info`) as sentences, one a line."""
    counts = " and ".join(f"{count} {split}" for split, count in facts["samples"].items())
    width, height = facts["size"]
    seen = f"; shares are those in {facts['looked_at']} samples"
    lines = [f"{counts} samples of {width} x {height}{seen}", *describe(facts["targets"]), *facts["notes"]]
    return [*lines, f"Terms of use: {facts['licence']}"] if facts["licence"] else lines
