"""Reads what a run's model does on a whole split: `RUN/details.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from mtlkit.files import write_whole
from mtlkit.plain_text import short
from mtlkit.report.samples import mapping
from mtlkit.run_folder import DETAILS
from mtlkit.typed import Bound, MisfitError, Natural, Share, Source, convert, to_dataclass

MOST_CLASSES = 100  #: a confusion of more classes is not stored
BINS = 10  #: of the predicted probability
Counted = Annotated[int, Bound(0, 1e18)]


@dataclass(frozen=True)
class Confusion:
    """How often each class of the target (row) was predicted as each class (column)."""

    classes: list[str]
    counts: list[list[Counted]]

    def __post_init__(self) -> None:
        size = len(self.classes)
        if not 1 <= size <= MOST_CLASSES or [len(row) for row in self.counts] != [size] * size:
            raise ValueError(f"expected a row and a column for each of 1 to {MOST_CLASSES} classes")


@dataclass(frozen=True)
class Bin:
    """Predictions with a probability from `low` to `high`: their number, mean probability, and how many were true.

    Without any, the mean `predicted` and the share `observed` are None.
    """

    low: Share
    high: Share
    predicted: Share | None
    observed: Share | None
    count: Counted

    def __post_init__(self) -> None:
        if (self.count == 0) != (self.predicted is None) or (self.predicted is None) != (self.observed is None):
            raise ValueError("expected both `predicted` and `observed`, or for a count of 0 none of them")


@dataclass(frozen=True)
class Reliability:
    """Whether predicted probabilities are right, in `BINS` bins of equal width. `of` says which ones, in words."""

    of: str
    bins: list[Bin]

    def __post_init__(self) -> None:
        if len(self.bins) != BINS:
            raise ValueError(f"expected {BINS} bins, found {len(self.bins)}")


@dataclass(frozen=True)
class Details:
    """Tables of a run's model over a split, by task.

    Attributes:
        samples: how many samples they are of.
        split_size: how many samples the split has.
        confusion: of tasks with one class per pixel or image, and at most `MOST_CLASSES` classes.
        reliability: of tasks that predict probabilities.
    """

    samples: int
    split_size: int
    confusion: dict[str, Confusion]
    reliability: dict[str, Reliability]


def save_details(run: Path, details: Details) -> None:
    """Writes `details.json` into the folder of a run."""
    write_whole(run / DETAILS, json.dumps(asdict(details), allow_nan=False).encode())


def details(run: Path) -> Details | None:
    """Returns the tables of a run, or None if it has no `details.json`, such as one that has not finished.

    Raises `ValueError`, which names the file, if it is damaged.
    """
    path = run / DETAILS
    if not path.is_file():
        return None
    try:
        return _details(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {short(str(error)).rstrip('.')}. Remove it to see the rest.") from error


def _details(found: Any) -> Details:
    found = mapping(found, "the file")
    facts = to_dataclass(
        _Facts, {key: found[key] for key in found if key not in ("confusion", "reliability")}, "", Source("")
    )
    confusion = mapping(found.get("confusion"), "confusion")
    reliability = mapping(found.get("reliability"), "reliability")
    return Details(
        **vars(facts),
        confusion={
            task: to_dataclass(Confusion, one, f"confusion.{task}", Source("")) for task, one in confusion.items()
        },
        reliability={task: _reliability(one, f"reliability.{task}") for task, one in reliability.items()},
    )


@dataclass(frozen=True)
class _Facts:
    samples: Natural
    split_size: Natural


def _reliability(found: Any, key: str) -> Reliability:
    values = dict(mapping(found, key))
    try:
        bins = convert(values.pop("bins", None), list[dict[str, Any]])
    except MisfitError:
        raise ValueError(f"{key}.bins: expected a list of bins") from None
    read = [to_dataclass(Bin, one, f"{key}.bins.{i}", Source("")) for i, one in enumerate(bins)]
    return to_dataclass(Reliability, {**values, "bins": read}, key, Source(""))
