"""Series of several seeds, joined to a mean with a band."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mtlkit.report.gradients import cosines
from mtlkit.report.history import History, Series
from mtlkit.study.outcome import Outcome

POINTS = 40  #: a longer series is divided into this many parts, and the page shows their means
FEWEST_POINTS = 8
ROWS = 800  #: about the largest number of points in a section, so that the page stays small


@dataclass(frozen=True)
class Band:
    """The mean over seeds at some steps, and the lowest and highest seed. All arrays have the same length."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def points(lines: int) -> int:
    """Returns how many points each of that many lines of a section gets.

    >>> points(20), points(100), points(1000)
    (40, 8, 8)
    """
    return min(POINTS, max(FEWEST_POINTS, ROWS // max(1, lines)))


def validation(outcomes: Iterable[Outcome], key: str, points: int = POINTS) -> Band | None:
    """Returns a metric of the evaluations."""
    return join([one for run in outcomes for one in run.history.series("val", [key]).values()], points)


def weight(outcomes: Iterable[Outcome], task: str, points: int = POINTS) -> Band | None:
    """Returns the weight of a task."""
    return join([one for run in outcomes for one in run.history.series("train", [f"weight/{task}"]).values()], points)


def cosine(outcomes: Iterable[Outcome]) -> Band | None:
    """Returns the mean cosine over all pairs of tasks."""
    return join([one for run in outcomes if (one := _mean_cosine(run.history)) is not None])


def _mean_cosine(history: History) -> Series | None:
    pairs = list(cosines(history).values())
    if not pairs:
        return None
    steps = np.unique(np.concatenate([steps for steps, _ in pairs]))
    values = np.full((len(pairs), len(steps)), np.nan)
    for row, (own, numbers) in zip(values, pairs, strict=True):
        row[np.searchsorted(steps, own)] = numbers
    return steps, np.nanmean(values, axis=0)  # every step has a finite cosine


def join(series: Sequence[Series], points: int = POINTS) -> Band | None:
    """Joins the series of seeds. Each of the parts of the steps has the mean of a seed, and then over seeds.

    >>> steps = np.array([0.0, 10.0])
    >>> band = join([(steps, np.array([1.0, 2.0])), (steps, np.array([3.0, 6.0]))])
    >>> band.mean, band.low, band.high
    (array([2., 4.]), array([1., 2.]), array([3., 6.]))
    """
    finite = [(steps[np.isfinite(values)], values[np.isfinite(values)]) for steps, values in series]
    finite = [(steps, values) for steps, values in finite if len(steps)]
    if not finite:
        return None
    parts = np.array_split(all_steps := np.unique(np.concatenate([steps for steps, _ in finite])), points)
    parts = [part for part in parts if len(part)]
    rows = []
    for part in parts:
        inside = [values[(steps >= part[0]) & (steps <= part[-1])] for steps, values in finite]
        means = [float(values.mean()) for values in inside if len(values)]
        # The first and the last step stay, because that is where a reader looks for them.
        step = part[0] if part[0] == all_steps[0] else part[-1] if part[-1] == all_steps[-1] else part.mean()
        rows.append((step, sum(means) / len(means), min(means), max(means)))
    steps, mean, low, high = np.array(rows).T
    return Band(steps, mean, low, high, len(finite))
