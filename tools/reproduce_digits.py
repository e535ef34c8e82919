"""RotoGrad's first version on the digits, in a reduced protocol: trains every run and writes one page of tables.

    python tools/reproduce_digits.py --root DATA --out runs/digits --write docs/digits.md

DATA holds MNIST's files. Runs are ordinary mtlkit runs of the experiment `digits`, `--jobs` at a time. Started again,
the command takes up what is finished and goes on with what is not; after a change of the code, use a new --out.

Every method, the single-task runs included, is tried with each rate of --rates on the first seed. The rate with the
lowest mean over tasks of (validation error / the constant prediction's error) is taken for the other seeds. The error
is the mean squared error, or the share of wrong digits. All figures are those of the last checkpoint.
"""

import argparse
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mtlkit import Experiment, log
from mtlkit.config import load
from mtlkit.losses import NonFiniteError

FIGURES = {"left": "accuracy", "right": "accuracy", "sum": "mse", "product": "mse", "density": "mse"}
REGRESSIONS = [task for task, figure in FIGURES.items() if figure == "mse"]
DIGITS = [task for task in FIGURES if task not in REGRESSIONS]
METHODS = {
    "uniform": ["balancer=uniform"],
    "gradnorm Z": ["balancer=gradnorm", "balancer.space=features"],
    "gradnorm W": ["balancer=gradnorm", "balancer.space=last_layer"],
    "rotograd": ["balancer=rotograd"],
    "procrustes 0.99": ["balancer=rotograd_procrustes", "balancer.lr_decay=0.99"],
    "procrustes 1.0": ["balancer=rotograd_procrustes", "balancer.lr_decay=1.0"],
    "procrustes jump": ["balancer=rotograd_procrustes", "balancer.update=jump"],
    "cosreg": ["balancer=cosreg"],
}
SINGLE = {f"single {task}": ["balancer=uniform", f"task=[{task}]"] for task in FIGURES}  # one row of the table
ROWS = ["single task", *METHODS]
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
Figures = dict[str, float]  # by task: accuracy in percent, or mean squared error


@dataclass(frozen=True)
class Job:
    """One run."""

    method: str
    rate: float
    seed: int
    folder: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method}, rate {self.rate:g}, seed {self.seed}"


class Table:
    """The outcomes by method, rate and seed, and the rate chosen for each method."""

    def __init__(self, outcomes: dict[Job, Outcome], rates: Sequence[float], seeds: Sequence[int]) -> None:
        self.outcomes = {(job.method, job.rate, job.seed): outcome for job, outcome in outcomes.items()}
        self.rates, self.seeds = rates, seeds
        self.methods = list(dict.fromkeys(method for method, _, _ in self.outcomes))
        self.chosen = {method: min(rates, key=lambda rate: self.error(method, rate)) for method in self.methods}

    def error(self, method: str, rate: float) -> float:
        """The mean relative validation error of a trial; infinite where it diverged."""
        return relative_error(self.outcomes[method, rate, self.seeds[0]])

    def figures(self, row: str, seed: int, split: str = "test") -> Figures:
        """Of a row of the table in one seed; empty where the run diverged. `single task` joins five runs."""
        methods = list(SINGLE) if row == "single task" else [row]
        found: Figures = {}
        for method in methods:
            found |= percent(self.outcomes[method, self.chosen[method], seed].get(split, {}))
        return found

    def values(self, row: str, task: str, split: str = "test") -> dict[int, float]:
        """By seed."""
        by_seed = {seed: self.figures(row, seed, split) for seed in self.seeds}
        return {seed: figures[task] for seed, figures in by_seed.items() if task in figures}

    def gains(self, row: str, without: Iterable[str] = ()) -> dict[int, float]:
        """Delta-m by seed: the mean over tasks of the relative gain over the single-task run, in percent."""
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder with MNIST's files")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="gets a folder for every run")
    parser.add_argument("--write", type=Path, help="writes the page to this file, too")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=ROWS, metavar="METHOD", help=", ".join(ROWS))
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides for every run")
    args = parser.parse_args(argv)

    methods: dict[str, list[str]] = {}
    for row in args.methods:
        methods |= SINGLE if row == "single task" else {row: METHODS[row]}
    jobs = {
        (method, rate, seed): make_job(args, method, words, rate, seed)
        for method, words in methods.items()
        for rate in args.rates
        for seed in args.seeds
    }
    for job in jobs.values():
        check(job)
    started = time.perf_counter()
    first, *others = args.seeds
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), initializer=begin_process)
    try:
        outcomes = run_all(pool, [job for job in jobs.values() if job.seed == first])
        chosen = Table(outcomes, args.rates, [first]).chosen
        outcomes |= run_all(pool, [jobs[method, chosen[method], seed] for method in methods for seed in others])
    finally:
        pool.shutdown(cancel_futures=True)
    out(f"All runs are there, after {(time.perf_counter() - started) / 60:.1f} minutes.\n\n")
    command = shlex.join(["python", "tools/reproduce_digits.py", *(sys.argv[1:] if argv is None else argv)])
    page = render(Table(outcomes, args.rates, args.seeds), [job.folder for job in outcomes], command)
    out(page)
    if args.write is not None:
        args.write.write_text(page, encoding="utf-8")


# -- the runs ---------------------------------------------------------------------------------------------------


def make_job(args: argparse.Namespace, method: str, words: Sequence[str], rate: float, seed: int) -> Job:
    folder = args.out / f"{method} rate={rate:g} seed={seed}".replace(" ", "_")
    own = [*words, f"trainer.lr={rate}", f"seed={seed}", f"data.root='{args.root}'", f"output_dir='{folder}'"]
    return Job(method, rate, seed, folder, (*own, *args.set))


def check(job: Job) -> None:
    """Composes the run's configuration; refuses a folder that holds another run."""
    config = Experiment.compose("digits", job.words).config.to_dict()
    if (job.folder / "config.yaml").exists():
        old = load(job.folder / "config.yaml").to_dict()
        config["output_dir"], config["data"]["root"] = old["output_dir"], old["data"]["root"]
        if differ := [section for section in config if old.get(section) != config[section]]:
            sections = ", ".join(differ)
            raise ValueError(f"{job.folder} holds a run with other settings ({sections}). Choose another --out.")


def run_all(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> dict[Job, Outcome]:
    """The outcomes of all jobs, of which those without one are run."""
    missing = [job for job in jobs if not (job.folder / "outcome.json").exists()]
    futures = {pool.submit(run, job): job for job in missing}
    for number, future in enumerate(as_completed(futures), 1):
        seconds = future.result()
        out(f"[{number}/{len(missing)}] {futures[future]}: {seconds:.0f} s\n")
    return {job: json.loads((job.folder / "outcome.json").read_text()) for job in jobs}


def begin_process() -> None:
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; its run goes on from a checkpoint


def run(job: Job) -> float:
    """Trains, or goes on; writes the run's outcome.json and returns the seconds that it took."""
    from mtlkit.inference import evaluate

    started = time.perf_counter()
    outcome: Outcome = {}
    try:
        Experiment.compose("digits", job.words).run(resume=(job.folder / "config.yaml").exists())
        records = log.read(job.folder / "metrics.jsonl")
        outcome["constant"] = next(record for record in records if record["split"] == "val_constant")
        outcome["val"] = [record for record in records if record["split"] == "val"][-1]
        outcome["test"] = evaluate(job.folder, "test", "last")
        outcome["noise"] = noise(records)
    except NonFiniteError as error:
        outcome = {"diverged": str(error)}
    log.write_whole(job.folder / "outcome.json", json.dumps(outcome, indent=1).encode())
    return time.perf_counter() - started


def noise(records: Sequence[dict[str, Any]]) -> float:
    """How restless training is: the standard deviation of log(loss) in its last third, a mean over tasks."""
    train = [record for record in records if record["split"] == "train"]
    last = train[-max(2, len(train) // 3) :]
    tasks = [task for task in FIGURES if f"loss/{task}" in last[-1]]
    return fmean(stdev(math.log(max(record[f"loss/{task}"], 1e-12)) for record in last) for task in tasks)


# -- the arithmetic ---------------------------------------------------------------------------------------------


def relative_error(outcome: Outcome) -> float:
    """The mean over tasks of validation error / the constant prediction's error; infinite for a run that diverged."""
    found, constant = percent(outcome.get("val", {})), percent(outcome.get("constant", {}))
    return fmean(error(task, found[task]) / error(task, constant[task]) for task in found) if found else math.inf


def percent(record: dict[str, Any]) -> Figures:
    """The figures in an evaluation's record; none where one of them is not finite."""
    found = {task: record[key] for task, figure in FIGURES.items() if (key := f"{task}/{figure}") in record}
    if None in found.values():
        return {}
    return {task: value * (100 if task in DIGITS else 1) for task, value in found.items()}


def error(task: str, figure: float) -> float:
    return 100 - figure if task in DIGITS else figure


def gain(task: str, new: float, old: float) -> float:
    """Positive where `new` is better."""
    return new - old if task in DIGITS else old - new


# -- the page ---------------------------------------------------------------------------------------------------


def render(table: Table, folders: Sequence[Path], command: str) -> str:
    """The whole page, as markdown."""
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
        facts(table, folders, command),
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


def facts(table: Table, folders: Sequence[Path], command: str) -> str:
    infos = [next(r for r in log.read(folder / "metrics.jsonl") if r["split"] == "info") for folder in folders]
    days = sorted({info["started"][:10] for info in infos})
    versions = sorted({f"{name} {version}" for info in infos for name, version in info["versions"].items()})
    config = load(folders[0] / "config.yaml")
    return (
        f"Made by `{command}`, {' to '.join(dict.fromkeys((days[0], days[-1])))}; {', '.join(versions)}.\n\n"
        "The five tasks of RotoGrad's first version (`../mtlkit/datasets/multimnist.py` has the recipe) in the "
        f"experiment `digits`: {config.data.train_size or 'all'} training images, {config.trainer.max_epochs} epochs, "
        f"batches of {config.data.batch_size}, {config.trainer.optimizer} at a constant rate, seeds "
        f"{', '.join(map(str, table.seeds))}. `procrustes` is `rotograd_procrustes` with the `lr_decay` or `update` "
        "named; `gradnorm Z` and `W` have the spaces `features` and `last_layer`; all other options are defaults.\n\n"
        f"The rate of each method is the one of {', '.join(f'{rate:g}' for rate in table.rates)} with the lowest "
        f"validation error on seed {table.seeds[0]} (last table); the test images chose nothing.\n"
    )


def trial(table: Table, method: str, rate: float) -> list[str]:
    figures = percent(table.outcomes[method, rate, table.seeds[0]].get("val", {}))
    if not figures:
        return ["diverged", *("" for _ in FIGURES)]
    return [number(table.error(method, rate)), *(number(figures[t]) if t in figures else "" for t in FIGURES)]


def claims(table: Table) -> list[str]:
    """The numbers that bear on three of the paper's claims."""
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
    """The mean gain in percent, paired by seed, and the number of seeds with one."""
    new, old = table.values(row, task), table.values(other, task)
    found = [100 * gain(task, new[seed], old[seed]) / old[seed] for seed in new.keys() & old.keys()]
    return f"{fmean(found):+.1f} ({sum(g > 0 for g in found)} of {len(found)})" if found else "diverged"


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
    """Mean and standard deviation; names the number of values where it is not that of the runs."""
    values = list(values)
    if not values:
        return "diverged"
    return f"{number(fmean(values))} ± {deviation(values)}" + f" ({len(values)} of {runs})" * (len(values) < runs)


def number(value: float) -> str:
    """Three or four digits.

    >>> number(0.12345), number(8.7654), number(89.123), number(149.21)
    ('0.123', '8.77', '89.1', '149')
    """
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(abs(value), 0.1))))}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
