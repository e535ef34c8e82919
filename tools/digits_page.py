"""Makes the page of tables of `reproduce_digits.py` from the outcomes of its runs, as markdown."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mtlkit import log
from mtlkit.config.composition import read_config

FIGURES = {"left": "accuracy", "right": "accuracy", "sum": "mse", "product": "mse", "density": "mse"}
REGRESSIONS = [task for task, figure in FIGURES.items() if figure == "mse"]
DIGITS = [task for task in FIGURES if task not in REGRESSIONS]
SINGLE = [f"single {task}" for task in FIGURES]  # one row of the table
#: Test means in the paper's tables 1 and 3.
PAPER = {
    "single task": (93.50, 90.65, 6.44, 159.08, 1.62),
    "uniform": (90.15, 86.65, 5.14, 149.21, 0.51),
    "gradnorm Z": (89.15, 85.32, 5.07, 144.91, 0.31),
    "gradnorm W": (89.60, 85.72, 5.13, 151.58, 0.44),
    "procrustes 0.99": (88.99, 84.92, 4.58, 135.19, 0.24),
    "procrustes 1.0": (83.55, 79.31, 4.88, 143.41, 0.25),
    "procrustes jump": (64.73, 58.55, 6.11, 193.93, 0.89),
}

Outcome = dict[str, Any]
Outcomes = dict[tuple[str, float, int], Outcome]  # by method, rate and seed
Folders = Mapping[tuple[str, float, int], Path]
Figures = dict[str, float]  # by task: accuracy in percent, or mean squared error


class Table:
    """The outcomes by method, rate and seed, and the rate chosen for each method."""

    def __init__(self, outcomes: Outcomes, rates: Sequence[float], seeds: Sequence[int]) -> None:
        self.outcomes = outcomes
        self.rates, self.seeds = rates, seeds
        self.methods = list(dict.fromkeys(method for method, _, _ in self.outcomes))
        self.chosen = {method: min(rates, key=lambda rate: self.error(method, rate)) for method in self.methods}

    def error(self, method: str, rate: float) -> float:
        """Returns the mean relative validation error of a trial; infinite if it diverged."""
        return relative_error(self.outcomes[method, rate, self.seeds[0]])

    def figures(self, row: str, seed: int, split: str = "test") -> Figures:
        """Returns the figures of a table row for one seed; empty if the run diverged. `single task` joins five runs."""
        methods = SINGLE if row == "single task" else [row]
        found: Figures = {}
        for method in methods:
            found |= percent(self.outcomes[method, self.chosen[method], seed].get(split, {}))
        return found

    def values(self, row: str, task: str, split: str = "test") -> dict[int, float]:
        """Returns the figures of a row by seed."""
        by_seed = {seed: self.figures(row, seed, split) for seed in self.seeds}
        return {seed: figures[task] for seed, figures in by_seed.items() if task in figures}

    def gains(self, row: str, without: Iterable[str] = ()) -> dict[int, float]:
        """Returns Delta-m by seed: the mean over tasks of the relative gain over the single-task run, in percent."""
        tasks = [task for task in FIGURES if task not in without]
        found = {}
        for seed in self.seeds:
            multi, single = self.figures(row, seed), self.figures("single task", seed)
            if multi.keys() == single.keys() == FIGURES.keys():
                found[seed] = 100 * fmean(gain(task, multi[task], single[task]) / single[task] for task in tasks)
        return found

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys("single task" if method in SINGLE else method for method in self.methods))


# -- the arithmetic ---------------------------------------------------------------------------------------------


def relative_error(outcome: Outcome) -> float:
    """Returns the mean over tasks of validation error / the constant prediction's error; infinite after divergence."""
    found, constant = percent(outcome.get("val", {})), percent(outcome.get("constant", {}))
    return fmean(error(task, found[task]) / error(task, constant[task]) for task in found) if found else math.inf


def percent(record: dict[str, Any]) -> Figures:
    """Returns the figures in an evaluation's record, or none if one of them is not finite."""
    found = {task: record[key] for task, figure in FIGURES.items() if (key := f"{task}/{figure}") in record}
    if None in found.values():
        return {}
    return {task: value * (100 if task in DIGITS else 1) for task, value in found.items()}


def error(task: str, figure: float) -> float:
    return 100 - figure if task in DIGITS else figure


def gain(task: str, new: float, old: float) -> float:
    """Returns the relative gain, which is positive if `new` is better."""
    return new - old if task in DIGITS else old - new


# -- the page ---------------------------------------------------------------------------------------------------


def render(table: Table, folders: Folders, command: str, kept: Collection[str] = ()) -> str:
    """Returns the whole page, as markdown. `kept` are the methods of earlier runs, which were not repeated."""
    names = {row: f"`{row}`" for row in table.rows}
    head = ["method", *(f"{task}, {'%' if task in DIGITS else 'MSE'}" for task in FIGURES)]
    delta = ["Δm, %", "Δm without density, %"] if "single task" in table.rows else []

    def results(split: str) -> list[list[str]]:
        return [
            [names[row], *(spread(table.values(row, task, split).values(), len(table.seeds)) for task in FIGURES)]
            for row in table.rows
        ]

    def deltas(row: str) -> list[str]:
        return (
            [spread(gains.values(), len(table.seeds)) for gains in (table.gains(row), table.gains(row, ["density"]))]
            if delta
            else []
        )

    test = [cells + deltas(row) for row, cells in zip(table.rows, results("test"), strict=True)]
    trials = [
        [f"`{method}`", f"{rate:g}" + " (chosen)" * (rate == table.chosen[method]), *trial(table, method, rate)]
        for method in table.methods
        for rate in table.rates
    ]
    parts = [
        "# The first look on real digits\n",
        facts(table, folders, command, kept),
        "## Test images\n",
        "Mean ± standard deviation over seeds, of the last checkpoint. Δm is the mean over tasks of the relative gain "
        "over the single-task run of the same seed.\n",
        markdown(head + delta, test),
        "## Validation images\n",
        markdown(head, results("val")),
        *claims(table),
        "## What the paper has\n",
        "Test images after 150 epochs on batches of 1024, ten runs, all else unknown (canvas, threshold of density, "
        "widths of the network): only the order of methods can be compared.\n",
        markdown(head, [[f"`{row}`", *map(number, figures)] for row, figures in PAPER.items()]),
        "## All trials\n",
        f"Validation images, seed {table.seeds[0]}; `error` is the mean of the errors relative to the constant "
        "prediction's.\n",
        markdown([head[0], "learning rate", "error", *head[1:]], trials),
    ]
    return "\n".join(parts)


def facts(table: Table, folders: Folders, command: str, kept: Collection[str]) -> str:
    infos = {key: info(folder) for key, folder in folders.items()}
    days = between(info["started"] for info in infos.values())
    versions = sorted({f"{name} {version}" for info in infos.values() for name, version in info["versions"].items()})
    config = read_config(next(iter(folders.values())) / "config.yaml")
    rows = dict.fromkeys("single task" if method in SINGLE else method for method in table.methods if method in kept)
    earlier = between(info["started"] for (method, _, _), info in infos.items() if method in kept) if kept else ""
    return (
        f"Made by `{command}`, {days}; {', '.join(versions)}.\n\n"
        + f"Kept from earlier runs ({earlier}), not repeated: {', '.join(f'`{row}`' for row in rows)}.\n\n" * bool(rows)
        + "The five tasks of RotoGrad's first version (`../mtlkit/datasets/multimnist.py` has the recipe) in the "
        f"experiment `digits`: {config.data.train_size or 'all'} training images, {config.trainer.max_epochs} epochs, "
        f"batches of {config.data.batch_size}, {config.trainer.optimizer} at a constant rate, seeds "
        f"{', '.join(map(str, table.seeds))}. `procrustes` is `rotograd_procrustes` with the `lr_decay` or `update` "
        "named; `gradnorm Z` and `W` have the spaces `features` and `last_layer`; all other options are defaults.\n\n"
        f"The rate of each method is the one of {', '.join(f'{rate:g}' for rate in table.rates)} with the lowest "
        f"validation error on seed {table.seeds[0]} (last table); the test images chose nothing.\n"
    )


def info(folder: Path) -> dict[str, Any]:
    """Returns what a run noted about itself at its start."""
    return next(record for record in log.read_log(folder / "metrics.jsonl") if record["split"] == "info")


def between(times: Iterable[str]) -> str:
    """Returns the first and the last day.

    >>> between(["2026-11-26T01:02", "2026-11-25T03:04"]), between(["2026-11-26T01:02"])
    ('2026-11-25 to 2026-11-26', '2026-11-26')
    """
    days = sorted(time[:10] for time in times)
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def trial(table: Table, method: str, rate: float) -> list[str]:
    figures = percent(table.outcomes[method, rate, table.seeds[0]].get("val", {}))
    if not figures:
        return ["diverged", *("" for _ in FIGURES)]
    return [number(table.error(method, rate)), *(number(figures[t]) if t in figures else "" for t in FIGURES)]


def claims(table: Table) -> list[str]:
    """Returns the numbers that concern three of the paper's claims."""
    head = ["", *FIGURES]
    have = set(table.rows)
    parts = [
        f"## Three claims of the paper\n\nWith {len(table.seeds)} seeds, a difference below about two standard "
        "deviations says nothing. Where the figures and a claim differ, `docs/digits_notes.md` says why.\n"
    ]
    rotations = [row for row in table.rows if row.startswith(("rotograd", "procrustes")) and "jump" not in row]
    if "uniform" in have and rotations:
        rows = [[f"`{row}`", *(against(table, row, "uniform", task) for task in FIGURES)] for row in rotations]
        parts += ["**Rotograd has better regressions than plain summing.** Gain over `uniform` on test images, in "
                  "percent of its figure, and in how many seeds it is one:\n", markdown(head, rows)]  # fmt: skip
    steps = [row for row in table.rows if row.startswith("procrustes")]
    if "procrustes jump" in have:
        rows = [
            [f"`{row}`", *(deviation(table.values(row, task).values()) for task in FIGURES), restless(table, row)]
            for row in steps
        ]
        parts += ["**Without iterative updates (`jump`) training is unstable.** Standard deviation over seeds of the "
                  "test figures; and of log(training loss) in the last third of a run:\n",
                  markdown([*head, "within a run"], rows)]  # fmt: skip
    if {"gradnorm Z", "gradnorm W"} <= have:
        rows = [
            ["gain of `Z` over `W`", *(against(table, "gradnorm Z", "gradnorm W", task) for task in FIGURES)],
            *(
                [f"deviation of `{row}`, %", *(relative_deviation(table, row, task) for task in FIGURES)]
                for row in ("gradnorm Z", "gradnorm W")
            ),
        ]
        parts += ["**GradNorm at the features (Z) is no worse than at the last layer (W).** Gain in percent and in how "
                  "many seeds, beside the deviations over seeds in percent of the mean:\n",
                  markdown(head, rows)]  # fmt: skip
    return parts


def against(table: Table, row: str, other: str, task: str) -> str:
    """Returns the mean gain in percent, paired by seed, and the number of seeds with a gain; a dash if it is over 0."""
    new, old = table.values(row, task), table.values(other, task)
    if not (seeds := new.keys() & old.keys()):
        return "diverged"
    found = [100 * gain(task, new[seed], old[seed]) / old[seed] for seed in seeds if old[seed]]
    return f"{fmean(found):+.1f} ({sum(g > 0 for g in found)} of {len(found)})" if found else "-"


def restless(table: Table, row: str) -> str:
    found = [table.outcomes[row, table.chosen[row], seed].get("noise") for seed in table.seeds]
    return spread((value for value in found if value is not None), len(found))


def relative_deviation(table: Table, row: str, task: str) -> str:
    values = list(table.values(row, task).values())
    return number(100 * stdev(values) / fmean(values)) if len(values) > 1 else "-"


def deviation(values: Iterable[float]) -> str:
    values = list(values)
    return number(stdev(values)) if len(values) > 1 else "-"


def spread(values: Iterable[float], runs: int) -> str:
    """Returns mean and standard deviation, and the number of values if it is not that of the runs."""
    values = list(values)
    if not values:
        return "diverged"
    return f"{number(fmean(values))} ± {deviation(values)}" + f" ({len(values)} of {runs})" * (len(values) < runs)


def number(value: float) -> str:
    """Returns the number with three or four digits.

    >>> number(0.12345), number(8.7654), number(89.123), number(149.21)
    ('0.123', '8.77', '89.1', '149')
    """
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(abs(value), 0.1))))}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
