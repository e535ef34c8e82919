"""What a run's log says of its task gradients: which conflict, and what the balancer made of them."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mtlkit.report.history import History, Series

WINDOW = 50  #: logged steps over which the standard deviation of a cosine is taken


@dataclass(frozen=True)
class Pair:
    """How two task gradients stood to each other over `count` logged steps.

    `conflicts` is the share of steps with a negative cosine, `deviation` the mean of the standard deviations over all
    windows of `WINDOW` logged steps in a row, one window where there are fewer (Suteu and Guo, arXiv 1912.06844).
    """

    first: str
    second: str
    count: int
    conflicts: float
    mean: float
    deviation: float


def pairs(history: History) -> list[Pair]:
    """The pairs of tasks with a cosine, in the log's order; a gradient of length 0 has none."""
    found = []
    for (first, second), (_, values) in cosines(history).items():
        conflicts, mean = float((values < 0).mean()), float(values.mean())
        found.append(Pair(first, second, len(values), conflicts, mean, float(moving_deviation(values).mean())))
    return found


def cosines(history: History) -> dict[tuple[str, str], Series]:
    """The finite cosines between gradients over time, by pair."""
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


def moving_deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation over each window of `WINDOW` values, or over all of them where there are fewer.

    >>> moving_deviation(np.array([1.0, -1.0])).tolist()
    [1.0]
    """
    return np.lib.stride_tricks.sliding_window_view(values, min(WINDOW, len(values))).std(axis=1)


@dataclass(frozen=True)
class Directions:
    """What the balancer made of the gradients g_k, over the S logged steps that tell it; NaN where it has no value.

    With d the combined gradient, s = sum_k g_k the plain one and w_k the weights:

    Attributes:
        tasks, steps: the K tasks with a gradient, and the S steps.
        weighted: whether d = sum_k w_k g_k; elementwise methods have no weights, so no shares either.
        norms, weights: (S, K) |g_k| and w_k, 0 for a task that is absent from a step.
        alignment: (S, K) cos(d, g_k): below 0 the step went against the task.
        cosine: (S,) cos(d, s).
        length: (S,) |d| / |s|.
        left_out: how many further logged steps have a value that is missing or not finite.
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
        """(S, K) w_k |g_k| / sum_j |w_j| |g_j|; negative where a task's gradient is subtracted."""
        pulls = self.weights * self.norms
        return _ratio(pulls, np.abs(pulls).sum(axis=1, keepdims=True))

    def series(self, values: np.ndarray) -> dict[str, Series]:
        """The columns of an (S, K) array over time, by task; without those that have no value."""
        columns = zip(self.tasks, values.T, strict=True)
        return {task: (self.steps, column) for task, column in columns if np.isfinite(column).any()}


def directions(history: History) -> Directions:
    """The directions of a run; without any step where the log does not tell them.

    They follow from the Gram matrix M of norms and cosines: <d, g_k> = (M w)_k and |d|^2 = w'Mw. Where there are no
    weights, the log itself has the cosines (`direction/<task>`) and |d| (`direction_norm`).
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
    """The mean of the values that are there; None where none is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def thirds(values: np.ndarray) -> tuple[float | None, float | None]:
    """The means of the first and of the last third of a run."""
    part = -(-len(values) // 3)
    return mean(values[:part]), mean(values[len(values) - part :])


def _table(records: list[dict[str, Any]], keys: list[str], absent: float = 0.0) -> np.ndarray:
    """(records, keys): the values, NaN for null."""
    rows = [[record.get(key, absent) for key in keys] for record in records]
    return np.array(rows, dtype=float).reshape(len(records), len(keys))


def _gram(records: list[dict[str, Any]], tasks: list[str], norms: np.ndarray) -> np.ndarray:
    """(S, K, K) inner products; NaN where a cosine is needed and missing."""
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
    """(S,) |sum_k w_k g_k|; 0 where rounding is all that the gradients leave of each other."""
    squares = np.einsum("sk,skl,sl->s", weights, gram, weights)
    pulls = (np.abs(weights) * np.sqrt(np.diagonal(gram, axis1=1, axis2=2))).sum(axis=1)
    return np.sqrt(np.where(squares > 1e-12 * pulls**2, squares, 0))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b != 0)
