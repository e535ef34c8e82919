"""Where the figures come from: tuning, failed runs, the rules of the runs, versions, seeds and folders."""

from collections.abc import Callable, Iterator
from html import escape

from mtlkit.page.parts import Numbers, section
from mtlkit.study.comparison import Comparison
from mtlkit.study.numbers import counted
from mtlkit.study.outcome import Outcome


def tuning(comparison: Comparison) -> str:
    """Returns the budgets of the tuning, and every trial with its figure."""
    trials = comparison.context.trials
    if not trials:
        return section("Tuning", "No tuning was part of this comparison.", "")
    budgets: dict[str, int] = {}
    for trial in trials:
        name = _subject(trial.method, trial.task)
        budgets[name] = budgets.get(name, 0) + len(trial.seeds)
    chosen = (f"{_subject(one.method, one.task)}: {one.words}" for one in trials if one.chosen)
    each = "; ".join(f"{name} {counted(count, 'run')}" for name, count in budgets.items())
    same = len(set(budgets.values())) == 1
    budget = f"Equal budgets: {counted(max(budgets.values()), 'run')} each." if same else f"The budgets differ: {each}."
    note = f"{budget} The lowest figure decides, on validation data and seeds of their own."
    numbers = Numbers("tuning", ("method", "task", "setting", "seeds", "figure", "chosen"))
    numbers.rows = [
        [one.method, one.task, one.words, " ".join(map(str, one.seeds)), one.score, "chosen" if one.chosen else ""]
        for one in trials
    ]
    items = "".join(f"<li>{escape(words)}" for words in chosen)
    return section("Tuning", note, f"<h3>Chosen</h3><ul>{items}</ul>{numbers.details()}")


def origins(comparison: Comparison) -> str:
    """Returns the facts about the runs, the failed ones, and the list of all with their folders."""
    facts = "".join(f"<dt>{escape(name)}<dd>{escape(words)}" for name, words in _facts(comparison) if words)
    failed = "".join(f"<li>{escape(f'{run}: {reason}')}" for run, reason in comparison.context.failed)
    failures = f"<h3>Failed runs</h3><ul>{failed}</ul>" if failed else ""
    command = comparison.context.command
    shown = f"<h3>Command</h3><pre>{escape(command)}</pre>" if command else ""
    return section(
        "Origins", "", f'<dl class="facts">{facts}</dl>{failures}{shown}{_runs(comparison).details(printed=False)}'
    )


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    outcomes = comparison.outcomes
    yield "Figures", comparison.kind
    yield "Selected by", _by_row(outcomes, lambda one: one.monitor)
    yield "Decoders", _by_row(outcomes, lambda one: one.decoders)
    for name, key in (("Protocol", "protocol"), ("Validation", "validation"), ("Steps", "total_steps")):
        yield name, _by_row(outcomes, lambda one, key=key: str(one.history.info.get(key, "")))  # type: ignore[misc]
    yield "Seeds", ", ".join(map(str, comparison.seeds))
    yield "Settings", _by_row(outcomes, lambda one: one.entry.settings)
    yield "Memory", _by_row(outcomes, lambda one: one.memory_of)
    together = comparison.context.at_a_time
    yield "At a time", counted(together, "run") if together else ""
    yield "Versions", _by_row(outcomes, lambda one: one.versions)


def _by_row(outcomes: list[Outcome], value: Callable[[Outcome], str]) -> str:
    """Returns what all runs share, or each value with the methods that have it."""
    found: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        found.setdefault(value(outcome), {})[_subject(outcome.entry.method, outcome.entry.task)] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{words} ({', '.join(names)})" for words, names in found.items() if words)


def _subject(method: str, task: str) -> str:
    return f"{method} {task}" if task else method


def _runs(comparison: Comparison) -> Numbers:
    numbers = Numbers("runs", ("method", "task", "seed", "step of the figures", "settings", "folder"))
    for outcome in comparison.outcomes:
        entry = outcome.entry
        numbers.rows.append([entry.method, entry.task, str(entry.seed), outcome.step, entry.settings, str(entry.run)])
    return numbers
