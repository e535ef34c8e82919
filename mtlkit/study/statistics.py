"""The statistics of a comparison: intervals over seeds, paired differences, and ranks with a critical difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import stats

LEVEL = 0.95  #: of all intervals
FEWEST = 3  #: with fewer seeds there is no interval: the spread of two numbers says next to nothing


@dataclass(frozen=True)
class Summary:
    """The mean of `n` values, and its 95 % interval by Student's t. `low` and `high` are None below three values."""

    mean: float
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval, the number behind ±."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class Difference(Summary):
    """The mean over seeds of method minus reference, each seed with itself.

    Attributes:
        p: of the two-sided paired t test. None below three seeds.
        holm: `p` after Holm's adjustment for all comparisons of the table.
    """

    p: float | None = None
    holm: float | None = None


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of methods, 1 for the best, over `blocks` blocks.

    Two methods whose mean ranks differ by less than `critical` cannot be told apart (Nemenyi's test at 5 %). `p` is
    that of Friedman's test, whether there is any difference at all. Both are None with too few methods or blocks.
    """

    mean: dict[str, float]
    blocks: int
    critical: float | None
    p: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Returns mean and interval: mean ± t(0.975, n - 1) s / sqrt(n).

    >>> summarise([1.0, 2.0, 3.0]).half.__round__(3)  # 4.303 * 1 / sqrt(3)
    2.484
    >>> summarise([1.0, 2.0])
    Summary(mean=1.5, n=2, low=None, high=None)
    """
    mean, n = fmean(values), len(values)
    if n < FEWEST:
        return Summary(mean, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Summary(mean, n, mean - half, mean + half)


def difference(method: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """Returns the paired difference over the seeds that both have, or None if they have no seed in common.

    Seeds without any spread of the difference have an interval of width 0; their p is 0, or 1 if nothing differs.

    >>> difference({0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.0, 1: 1.0, 2: 1.0, 3: 9.0}).mean.__round__(4)
    1.6667
    """
    values = [method[seed] - reference[seed] for seed in method if seed in reference]
    if not values:
        return None
    found = summarise(values)
    if found.n < FEWEST:
        return Difference(found.mean, found.n)
    error = stdev(values) / math.sqrt(found.n)
    p = float(2 * stats.t.sf(abs(found.mean) / error, found.n - 1)) if error else float(found.mean == 0)
    return Difference(found.mean, found.n, found.low, found.high, p)


def best_of(values: Mapping[str, Mapping[int, float]], higher: bool) -> tuple[str | None, set[str]]:
    """Returns the method with the best mean, and the others that are within noise of it, from figures by seed.

    Within noise means that the 95 % interval of the paired difference to the best one contains 0. Below three common
    seeds, nothing is known to be within noise.

    >>> best_of({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 1.1, 1: 1.9, 2: 2.9}, "c": {0: 0.0, 1: 1.0, 2: 2.0}}, True)
    ('a', {'b'})
    """
    means = {name: fmean(by_seed.values()) for name, by_seed in values.items() if by_seed}
    if not means:
        return None, set()
    top = (max if higher else min)(means, key=means.__getitem__)
    near = set()
    for name in means.keys() - {top}:
        one = difference(values[name], values[top])
        if one and one.low is not None and one.high is not None and one.low <= 0 <= one.high:
            near.add(name)
    return top, near


def holm(p: Sequence[float]) -> list[float]:
    """Returns Holm's adjusted p: below 0.05 for the ones whose family has an error of at most 5 % in all.

    Sorted, the i-th smallest of m (from 0) is multiplied by m - i. It never becomes smaller than the one before it.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [1.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted


def mean_ranks(blocks: Sequence[Mapping[str, float]], tested: bool = True) -> Ranks:
    """Returns the mean ranks of methods. Each block has a figure of every method, and higher is better.

    With `tested=False`, there is neither a critical difference nor a p.

    Methods with the same figure share their ranks. The critical difference is q sqrt(k (k + 1) / (6 N)) for k methods
    and N blocks, with q from the studentised range divided by sqrt(2) (Demšar, JMLR 2006).

    >>> ranks = mean_ranks([{"a": 3.0, "b": 2.0, "c": 1.0}] * 4)
    >>> ranks.mean, round(ranks.critical, 3)
    ({'a': 1.0, 'b': 2.0, 'c': 3.0}, 1.657)
    """
    names = list(blocks[0]) if blocks else []
    k, n = len(names), len(blocks)
    if not n:
        return Ranks({}, 0, None, None)
    table = np.array([[block[name] for name in names] for block in blocks])
    ranks = stats.rankdata(-table, axis=1)
    mean = {name: float(value) for name, value in zip(names, ranks.mean(axis=0), strict=True)}
    if k < 2 or n < 2 or not tested:
        return Ranks(mean, n, None, None)
    q = float(stats.studentized_range.ppf(LEVEL, k, np.inf)) / math.sqrt(2)
    return Ranks(mean, n, q * math.sqrt(k * (k + 1) / (6 * n)), _friedman(ranks))


def _friedman(ranks: np.ndarray) -> float | None:
    """Returns p of Friedman's test. None with two methods, for which it is not made, or if all ranks are equal."""
    if ranks.shape[1] < 3 or np.ptp(ranks) == 0:
        return None
    return float(stats.friedmanchisquare(*ranks.T).pvalue)
