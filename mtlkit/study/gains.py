"""How much better a method is than single-task training: per task, and as delta-m in its published definitions."""

from collections.abc import Mapping
from typing import Any

from mtlkit.study.comparison import Comparison
from mtlkit.study.delta_m import PUBLISHED, DeltaM, Result, definition_of
from mtlkit.study.measured import Measured
from mtlkit.study.outcome import SINGLE
from mtlkit.study.statistics import Summary, summarise


def gains(comparison: Comparison, row: str) -> dict[str, Summary]:
    """Returns the gain in percent per task over `base_of(row)` of the same seed: the mean over the task's metrics.

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
            found[task] = DeltaM(keys)(*_both(comparison, row, keys)).by_seed
        except ValueError:
            continue  # the table shows the missing figure; `delta` gives the reason
    return found


def worse(comparison: Comparison, row: str) -> tuple[int, int]:
    """Returns how many tasks got worse than in `base_of(row)`, and for how many tasks that is known."""
    found = gains(comparison, row)
    return sum(gain.mean < 0 for gain in found.values()), len(found)


def delta(comparison: Comparison, row: str, **options: Any) -> Result | str:
    """Returns delta-m of a method over the seeds that it shares with the base, or the reason why there is none.

    `options` are those of `DeltaM`. Without any, those that the study asked for count.
    """
    keys = {metric.key: metric.higher for metric in comparison.metrics}
    try:
        definition = definition_of(keys, options or comparison.context.delta)
        return definition(*_both(comparison, row, keys))
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
            result = DeltaM(keys, "metrics")(_both(comparison, row, keys)[0], published)
            found[f"mean over metrics, against {published.label}"] = result
    return found


def _both(comparison: Comparison, row: str, keys: Mapping[str, bool]) -> tuple[Measured, Measured]:
    """Returns the figures of a row and of its base, for the seeds of which both have all.

    If there is no such seed, for those of which both have any: then the definition says which figure is missing.
    """
    rows = (row, comparison.base_of(row))
    seeds = set.intersection(*(set(comparison.values(one, key)) for one in rows for key in keys))
    seeds = seeds or set.intersection(*({outcome.entry.seed for outcome in comparison.of(one)} for one in rows))

    def measured(one: str) -> Measured:
        found: dict[int, dict[str, float]] = {seed: {} for seed in sorted(seeds)}
        for key in keys:
            for seed in seeds & comparison.values(one, key).keys():
                found[seed][key] = comparison.values(one, key)[seed]
        decoders = "" if one in comparison.singles else comparison.of(one)[0].decoders
        name = "" if one == SINGLE else f"{one}, with the same seeds"
        return Measured(found, keys, comparison.kind, decoders, name)

    return measured(rows[0]), measured(rows[1])
