"""Reads the task gradients from a run's log: which tasks conflict, and what the balancer did with the gradients."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from mtlkit.report.history import History, Series

WINDOW = 50  #: the number of logged steps for the standard deviation of a cosine
BLOCKS = 10  #: the number of parts of a run whose means give the interval of a mean
LEVEL = 0.95  #: of the interval


@dataclass(frozen=True)
class Pair:
    """The relation of two task gradients over `count` logged steps.

    `interval` is the 95 % interval of the mean cosine (see `interval`), or None if there are too few steps.
    `conflicts` is the share of steps with a negative cosine. `deviation` is the mean of the standard deviations over
    all windows of `WINDOW` consecutive logged steps, or over one window if there are fewer steps (Suteu and Guo, arXiv
    1912.06844).
    """

    first: str
    second: str
    count: int
    conflicts: float
    mean: float
    deviation: float
    interval: tuple[float, float] | None


def pairs(history: History) -> list[Pair]:
    """Returns the pairs of tasks that have a cosine, in the order of the log. A gradient of length 0 has no cosine."""
    found = []
    for (first, second), (_, values) in cosines(history).items():
        conflicts, mean = float((values < 0).mean()), float(values.mean())
        deviation = float(moving_deviation(values).mean())
        found.append(Pair(first, second, len(values), conflicts, mean, deviation, interval(values)))
    return found


def cosines(history: History) -> dict[tuple[str, str], Series]:
    """Returns the finite cosines between gradients over time, per pair."""
    norms = history.series("train", history.keys("grad_norm"))
    zero = {key.split("/")[1]: set(steps[values == 0]) for key, (steps, values) in norms.items()}
    found = {}
    for key, (steps, values) in history.series("train", history.keys("cosine")).items():
        _, first, second = key.split("/")
        left_out = zero.get(first, set()) | zero.get(second, set())
        kept = np.isfinite(values) & ~np.isin(steps, list(left_out))
        if kept.any():
            found[first, second] = steps[kept], values[kept]
    return found


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean of a series, or None if it has fewer than 20 values.

    Neighbouring steps are alike, so the values are not independent. The means of 10 consecutive parts nearly are. The
    interval is theirs, by Student's t with 9 degrees of freedom (the method of batch means).

    >>> interval(np.tile([0.0, 1.0], 10)), interval(np.ones(5))
    ((0.5, 0.5), None)
    """
    if len(values) < 2 * BLOCKS:
        return None
    means = np.array([part.mean() for part in np.array_split(values, BLOCKS)])
    reach = float(stats.t.ppf((1 + LEVEL) / 2, BLOCKS - 1) * means.std(ddof=1) / np.sqrt(BLOCKS))
    centre = float(values.mean())
    return centre - reach, centre + reach


def moving_deviation(values: np.ndarray) -> np.ndarray:
    """Returns the standard deviation over each window of `WINDOW` values, or over all values if there are fewer.

    >>> moving_deviation(np.array([1.0, -1.0])).tolist()
    [1.0]
    """
    return np.lib.stride_tricks.sliding_window_view(values, min(WINDOW, len(values))).std(axis=1)


@dataclass(frozen=True)
class Directions:
    """What the balancer did with the gradients g_k, over the S logged steps that contain it. Missing values are NaN.

    d is the combined gradient, s = sum_k g_k is the plain sum, and w_k are the weights.

    Attributes:
        tasks, steps: the K tasks that have a gradient, and the S steps.
        weighted: whether d = sum_k w_k g_k. Elementwise methods have no weights, and therefore no shares.
        norms, weights: (S, K) |g_k| and w_k. Both are 0 for a task that is absent from a step.
        alignment: (S, K) cos(d, g_k). If it is below 0, the step went against the task.
        cosine: (S,) cos(d, s).
        length: (S,) |d| / |s|.
        left_out: the number of other logged steps, which have a value that is missing or not finite.
    """

    tasks: list[str]
    steps: np.ndarray
    weighted: bool
    norms: np.ndarray
    weights: np.ndarray
    alignment: np.ndarray
    cosine: np.ndarray
    length: np.ndarray
    left_out: int

    @property
    def plain_shares(self) -> np.ndarray:
        """(S, K) |g_k| / sum_j |g_j|."""
        return _ratio(self.norms, self.norms.sum(axis=1, keepdims=True))

    @property
    def shares(self) -> np.ndarray:
        """(S, K) w_k |g_k| / sum_j |w_j| |g_j|. It is negative if a task's gradient is subtracted."""
        pulls = self.weights * self.norms
        return _ratio(pulls, np.abs(pulls).sum(axis=1, keepdims=True))

    def series(self, values: np.ndarray) -> dict[str, Series]:
        """Returns the columns of an (S, K) array over time, per task. Columns without a finite value are left out."""
        columns = zip(self.tasks, values.T, strict=True)
        return {task: (self.steps, column) for task, column in columns if np.isfinite(column).any()}


def directions(history: History) -> Directions:
    """Returns the directions of a run. There are no steps if the log does not contain them.

    The Gram matrix M of norms and cosines gives <d, g_k> = (M w)_k and |d|^2 = w'Mw. If there are no weights, the log
    itself contains the cosines (`direction/<task>`) and |d| (`direction_norm`).
    """
    records = [r for r in history.records if r["split"] == "train" and any(k.startswith("grad_norm/") for k in r)]
    tasks = [task for task in history.tasks if any(f"grad_norm/{task}" in record for record in records)]
    weighted = any(f"weight/{task}" in record for record in records for task in tasks)
    given = "weight" if weighted else "direction"

    told = [any(f"{given}/{task}" in record for task in tasks) for record in records]
    norms, factors = (_table(records, [f"{prefix}/{task}" for task in tasks]) for prefix in ("grad_norm", given))
    gram = _gram(records, tasks, norms)
    kept = np.array(told, dtype=bool) & np.isfinite(gram).all(axis=(1, 2)) & np.isfinite(factors).all(axis=1)
    steps = np.array([record["step"] for record in records], dtype=float)[kept]
    norms, factors, gram = norms[kept], factors[kept], gram[kept]

    plain = _length(gram, np.ones_like(norms))
    if weighted:
        length = _length(gram, factors)
        alignment = _ratio(np.einsum("skl,sl->sk", gram, factors), length[:, None] * norms)
    else:
        length = _table(records, ["direction_norm"], absent=np.nan)[kept, 0]
        alignment = np.where((norms > 0) & (length[:, None] != 0), factors, np.nan)
    # <d, s> = sum_k |d| |g_k| cos(d, g_k)
    cosine = _ratio(np.where(norms > 0, alignment * norms, 0).sum(axis=1), plain)
    weights = factors if weighted else np.full_like(norms, np.nan)
    left_out = int((~kept).sum())
    return Directions(tasks, steps, weighted, norms, weights, alignment, cosine, _ratio(length, plain), left_out)


def mean(values: np.ndarray) -> float | None:
    """Returns the mean of the finite values, or None if there is none."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def thirds(values: np.ndarray) -> tuple[float | None, float | None]:
    """Returns the means over the first third and over the last third of a run."""
    part = -(-len(values) // 3)
    return mean(values[:part]), mean(values[len(values) - part :])


def _table(records: list[dict[str, Any]], keys: list[str], absent: float = 0.0) -> np.ndarray:
    """Returns the values as an array (records, keys). A null becomes NaN."""
    rows = [[record.get(key, absent) for key in keys] for record in records]
    return np.array(rows, dtype=float).reshape(len(records), len(keys))


def _gram(records: list[dict[str, Any]], tasks: list[str], norms: np.ndarray) -> np.ndarray:
    """Returns the inner products (S, K, K). They are NaN if a needed cosine is missing."""
    logged = {key for record in records for key in record}
    keys = [f"cosine/{a}/{b}" for a, b in combinations(tasks, 2)]
    keys = [key if key in logged else "cosine/{2}/{1}".format(*key.split("/")) for key in keys]  # in either order
    cosines = _table(records, keys, absent=np.nan)
    gram = norms[:, :, None] * norms[:, None, :]
    rows, columns = np.triu_indices(len(tasks), 1)
    products = gram[:, rows, columns]
    gram[:, rows, columns] = gram[:, columns, rows] = np.where(products == 0, 0, products * cosines)
    return gram


def _length(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns (S,) |sum_k w_k g_k|. It is 0 if the gradients cancel and only rounding errors remain."""
    squares = np.einsum("sk,skl,sl->s", weights, gram, weights)
    pulls = (np.abs(weights) * np.sqrt(np.diagonal(gram, axis1=1, axis2=2))).sum(axis=1)
    return np.sqrt(np.where(squares > 1e-12 * pulls**2, squares, 0))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns a / b. The result is NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b != 0)
