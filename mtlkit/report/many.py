"""What a terminal shows of many tasks: means over the tasks, and the tasks that stand out. The limit is here only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

FEW = 10  #: up to so many tasks, a terminal shows all of them
EACH = 3  #: of more tasks, it shows so many that are the best, the worst, and those that changed most
GROUPS = ("best", "worst", "changed")  #: the names of the groups that `stand_out` returns

Figures = Mapping[str, float | None]


class Mean(NamedTuple):
    """A mean over the tasks that have a finite value, and how many these are. Without any, the value is None."""

    value: float | None
    of: int


def is_many(tasks: Sequence[str]) -> bool:
    """Returns whether there are too many tasks to show them all."""
    return len(tasks) > FEW


def mean(values: Iterable[float | None]) -> Mean:
    """
    >>> mean([1.0, None, 3.0, float("nan")])
    Mean(value=2.0, of=2)
    """
    found = [value for value in values if value is not None and finite(value)]
    return Mean(fmean(found), len(found)) if found else Mean(None, 0)


def finite(value: float | None) -> bool:
    """Returns whether there is a value that can be ordered and averaged."""
    return value is not None and math.isfinite(value)


def stand_out(values: Figures, before: Figures, higher: bool) -> dict[str, list[str]]:
    """Returns the best tasks, the worst ones, and those whose value is farthest from the one `before`.

    The first task of each group is the most remarkable one. A task without a finite value is in no group.

    >>> stand_out({"a": 0.5, "b": 0.9, "c": None, "d": 0.7, "e": 0.6}, {"a": 0.1, "d": 0.8}, higher=True)
    {'best': ['b', 'd', 'e'], 'worst': ['a'], 'changed': ['a', 'd']}
    """
    found = {task: value for task, value in values.items() if value is not None and finite(value)}
    ordered = sorted(found, key=found.__getitem__, reverse=higher)
    best = ordered[:EACH]
    worst = [task for task in reversed(ordered[-EACH:]) if task not in best]
    moves = {task: abs(value - old) for task, value in found.items() if (old := before.get(task)) is not None}
    moved = [task for task in sorted(moves, key=lambda task: -moves[task]) if moves[task] > 0]
    return dict(zip(GROUPS, (best, worst, moved[:EACH]), strict=True))


def common_metric(tasks: Sequence[str], directions: Mapping[str, bool | None]) -> tuple[str, bool] | None:
    """Returns the first metric with a direction that all tasks have, and whether higher is better.

    Tasks can be ordered by it. `directions` has the keys `<task>/<metric>`; None stands for no direction.

    >>> common_metric(["a", "b"], {"a/loss": None, "a/f1": True, "a/map": True, "b/map": True, "b/f1": True})
    ('f1', True)
    """
    for key, higher in directions.items():
        task, _, metric = key.partition("/")
        if task == tasks[0] and higher is not None and all(directions.get(f"{t}/{metric}") is higher for t in tasks):
            return metric, higher
    return None


def where_the_rest_is(count: int, run: object = None) -> str:
    """Says what is shown of so many tasks, and where all of them are. `run` is the folder of the run, if known."""
    folder, name = (f"{run}/report.html", str(run)) if run else ("report.html of the run", "RUN")
    return (
        f"{count} tasks: shown are means over them, the {EACH} best, the {EACH} worst and the {EACH} that changed "
        f"most. All of them: {folder}, or mtlkit evaluate {name}"
    )
