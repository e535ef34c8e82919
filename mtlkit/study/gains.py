"""How much better a method is than single-task training: per task, and as delta-m in its published definitions."""

from collections.abc import Mapping
from typing import Any

from mtlkit.study.comparison import Comparison
from mtlkit.study.delta_m import PUBLISHED, DeltaM, Result
from mtlkit.study.measured import Measured
from mtlkit.study.outcome import SINGLE
from mtlkit.study.statistics import Summary, summarise


def gains(comparison: Comparison, row: str) -> dict[str, Summary]:
    """Returns the gain in percent per task over `comparison.base` of the same seed: the mean over the task's metrics.

    Positive is better, whatever the definition of delta-m. A task is left out if a figure is missing, or if a figure is
    0 in the base.
    """
    return {task: summarise(list(by_seed.values())) for task, by_seed in gains_by_seed(comparison, row).items()}


def gains_by_seed(comparison: Comparison, row: str) -> dict[str, dict[int, float]]:
    """Returns the same by task and seed."""
    found = {}
    for task in comparison.tasks:
        keys = {metric.key: metric.higher for metric in comparison.metrics if metric.task == task}
        try:
            result = DeltaM(keys)(_figures(comparison, row, keys), _figures(comparison, comparison.base, keys))
        except ValueError:
            continue  # the table shows the missing figure; `delta` gives the reason
        found[task] = result.by_seed
    return found


def worse(comparison: Comparison, row: str) -> tuple[int, int]:
    """Returns how many tasks got worse than in `comparison.base`, and for how many tasks that is known."""
    found = gains(comparison, row)
    return sum(gain.mean < 0 for gain in found.values()), len(found)


def delta(comparison: Comparison, row: str, **options: Any) -> Result | str:
    """Returns delta-m of a method over the seeds that it shares with the base, or the reason why there is none.

    `options` are those of `DeltaM`. Without any, those that the study asked for count.
    """
    keys = {metric.key: metric.higher for metric in comparison.metrics}
    try:
        definition = DeltaM(keys, **(options or comparison.context.delta))
        return definition(_measured(comparison, row, keys), _measured(comparison, comparison.base, keys))
    except ValueError as error:
        return str(error)


def all_deltas(comparison: Comparison, row: str) -> dict[str, Result | str]:
    """Returns delta-m in every definition, by its words: averages, ways over seeds, and published baselines that fit.

    Positive is better in all of them. The other convention only turns the sign around.
    """
    keys = {metric.key: metric.higher for metric in comparison.metrics}
    found: dict[str, Result | str] = {}
    for average in ("tasks", "metrics"):
        for seeds, words in (("ratios", "mean of ratios"), ("means", "ratio of means")):
            found[f"mean over {average}, {words}"] = delta(comparison, row, average=average, seeds=seeds)
    for published in PUBLISHED.values():
        if set(published.figures) == set(keys):
            result = DeltaM(keys, "metrics")(_measured(comparison, row, keys), published)
            found[f"mean over metrics, against {published.label}"] = result
    return found


def _measured(comparison: Comparison, row: str, keys: Mapping[str, bool]) -> Measured:
    decoders = comparison.of(row)[0].decoders if row != SINGLE else ""
    name = "" if comparison.has_single else f"{comparison.base}, with the same seeds"
    return Measured(_figures(comparison, row, keys), keys, comparison.kind, decoders, name)


def _figures(comparison: Comparison, row: str, keys: Mapping[str, bool]) -> dict[int, dict[str, float]]:
    """Returns the figures of the seeds that the row and the base have in common."""
    rows = (row, comparison.base)
    seeds = set.intersection(*({outcome.entry.seed for outcome in comparison.of(one)} for one in rows))
    found: dict[int, dict[str, float]] = {seed: {} for seed in sorted(seeds)}
    for key in keys:
        for seed, value in comparison.values(row, key).items():
            if seed in found:
                found[seed][key] = value
    return found
