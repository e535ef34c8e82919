"""The sentences below the tables of a comparison: what the numbers are, and what a reader must know with them."""

from collections.abc import Callable, Iterable, Iterator

from mtlkit.study.comparison import Comparison, Trial
from mtlkit.study.gains import delta
from mtlkit.study.numbers import counted, fixed, p_text
from mtlkit.study.outcome import SINGLE, Outcome
from mtlkit.study.ranking import ranks, unranked
from mtlkit.study.remarks import remarks
from mtlkit.study.statistics import FEWEST


def notes(comparison: Comparison) -> dict[str, list[str]]:
    """Returns the sentences by their heading. A heading without sentences is left out."""
    found = {
        "Remarks": list(remarks(comparison)),
        "How to read the numbers": [*_numbers(comparison), *delta_notes(comparison), *_ranks(comparison)],
        "Tuning": list(_tuning(comparison)),
        "How the runs were made": list(_runs(comparison)),
    }
    return {heading: sentences for heading, sentences in found.items() if sentences}


def figures_note(comparison: Comparison) -> str:
    """Says what the figures are and over which seeds they are means."""
    seeds = comparison.seeds
    words = f"{'seed' if len(seeds) == 1 else 'means over the seeds'} {joined(seeds)}"
    interval = "; ± is half of the 95 % interval of the mean (Student's t)" if len(seeds) >= FEWEST else ""
    return f"Figures: {comparison.kind}, {words}{interval}."


def joined(parts: Iterable[object]) -> str:
    """Returns the parts with commas between them.

    >>> joined([0, 1, 2])
    '0, 1, 2'
    """
    return ", ".join(map(str, parts))


def delta_notes(comparison: Comparison) -> Iterator[str]:
    """Says how delta-m is defined, and why a method has none."""
    definitions: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row == comparison.base:
            continue
        result = delta(comparison, row)
        if isinstance(result, str):
            yield f"No Δm of {row}: {result}"
        else:
            definitions.setdefault(result.definition, []).append(row)
    for definition, rows in definitions.items():
        yield f"Δm{f' of {joined(rows)}' if len(definitions) > 1 else ''}: {definition}."


def cost_notes(comparison: Comparison) -> Iterator[str]:
    """Says what step time and memory of the rows are."""
    if comparison.singles:
        yield (
            f"Step time and memory of {SINGLE}: the sum of the step times over tasks, and the memory of the largest "
            "task."
        )


def _numbers(comparison: Comparison) -> Iterator[str]:
    yield figures_note(comparison)
    if len(comparison.seeds) >= FEWEST:
        yield (
            f"Differences are method minus {comparison.reference}, each seed with itself, with their 95 % interval and "
            "the p of the paired t test, adjusted by Holm for the whole table of differences."
        )
    yield (
        f"worse: how many tasks have a lower mean gain than {comparison.base}, of the tasks for which it is known. "
        f"The gain of a task is the mean over its metrics of the relative improvement over {comparison.base}."
    )
    yield from cost_notes(comparison)


def _ranks(comparison: Comparison) -> Iterator[str]:
    found, left_out = ranks(comparison), unranked(comparison)
    if left_out:
        yield f"No rank, because a figure is missing: {joined(left_out)}."
    if not found.blocks:
        return
    yield (
        f"rank: the mean over {found.blocks} {'block' if found.blocks == 1 else 'blocks'}, each of one task and one "
        "seed. In a block, a method is placed by the mean share of the other methods that it beats, over the metrics "
        f"of the task. The ranks speak of these tasks with other seeds, and not of other tasks. {SINGLE} has no rank."
    )
    if found.critical is not None:
        friedman = "" if found.p is None else f" Friedman's test of any difference: p = {p_text(found.p)}."
        yield (
            f"Critical difference of two mean ranks at 5 % (Nemenyi): {fixed(found.critical, 2)}.{friedman} The tests "
            "take blocks as independent. Tasks of one run are not quite, so a narrow verdict of ranks is no evidence."
        )


def _tuning(comparison: Comparison) -> Iterator[str]:
    of: dict[str, list[Trial]] = {}
    for trial in comparison.context.trials:
        of.setdefault(f"{trial.method}{f' of {trial.task}' if trial.task else ''}", []).append(trial)
    if not of:
        return
    budgets = {
        name: f"{counted(len(trials), 'setting')} with {counted(sum(len(trial.seeds) for trial in trials), 'run')}"
        for name, trials in of.items()
    }
    if len(set(budgets.values())) == 1:
        yield f"Budget: {next(iter(budgets.values()))} for each of {joined(of)}."
    else:
        each = joined(f"{name} {budget}" for name, budget in budgets.items())
        yield f"The budgets are NOT equal: {each}."
    for name, trials in of.items():
        chosen = [f"{one.words} (score {one.score:.4g})" for one in trials if one.chosen and one.score is not None]
        tried = joined(f"{one.words}: {'none' if one.score is None else f'{one.score:.4g}'}" for one in trials)
        yield f"{name} uses {joined(chosen) or 'none of the settings'}. Tried, with scores (lower is better): {tried}."
    seeds = sorted({seed for trial in comparison.context.trials for seed in trial.seeds})
    yield f"Seeds of the tuning: {joined(seeds)}."


def _runs(comparison: Comparison) -> Iterator[str]:
    outcomes = comparison.outcomes
    for entry in {(one.entry.method, one.entry.task, one.entry.settings): one.entry for one in outcomes}.values():
        if entry.settings:
            yield f"Settings of {entry.method}{f' of {entry.task}' if entry.task else ''}: {entry.settings}."
    multi = [one for one in outcomes if not one.entry.task]
    yield from _facts(multi, "In training", lambda one: one.decoders)
    yield from _facts(outcomes, "Protocol", lambda one: one.history.info.get("protocol"))
    yield from _facts(outcomes, "Selection", lambda one: " by ".join(filter(None, (one.kind, one.monitor))))
    yield from _facts(outcomes, "Memory is the peak", lambda one: one.memory_of)
    if any(one.memory_of == "of the process" for one in outcomes):
        yield (
            "The memory of a process includes Python's own, and what earlier runs in the same process left: with "
            "--jobs 1 or more, each run has a process of its own."
        )
    if at_a_time := comparison.context.at_a_time:
        shared = "one run" if at_a_time == 1 else f"up to {at_a_time} runs"
        yield f"Step times were measured with {shared} at a time on the machine."
    yield from _facts(outcomes, "Versions", lambda one: one.versions)


def _facts(outcomes: Iterable[Outcome], what: str, fact: Callable[[Outcome], str | None]) -> Iterator[str]:
    """States a fact once if it is the same for all, and otherwise with the methods that it is true of."""
    found: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        if text := fact(outcome):
            found.setdefault(text, {})[outcome.entry.method] = None
    for text, names in found.items():
        yield f"{what}{f' ({joined(names)})' if len(found) > 1 else ''}: {text}."
