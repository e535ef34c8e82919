r"""RotoGrad's first version on the digits, in a reduced protocol: trains every run and writes one page of tables.

    python tools/reproduce_digits.py --root DATA --out runs/digits --write docs/digits.md

DATA holds MNIST's files. Runs are ordinary mtlkit runs of the experiment `digits`, `--jobs` at a time. If it is started
again, the command uses finished runs and continues the others. After a change of the code, use a new --out.

    python tools/reproduce_digits.py --root DATA --out runs/digits --methods rotograd "rotograd scale_only" \
        --keep uniform cosreg "single task"

runs some methods, and takes the rows of others from the finished runs in --out, whatever the options of their
balancers. Use it for methods that a change of the code does not affect. The page names the rows that were kept, with
the days of their runs.

Every method, the single-task runs included, is tried with each rate of --rates on the first seed. The rate with the
lowest mean over tasks of (validation error / the constant prediction's error) is used for the other seeds. The error is
the mean squared error, or the share of wrong digits. All figures are those of the last checkpoint.
"""

import argparse
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from digits_page import FIGURES, SINGLE, Outcome, Outcomes, Table, render

from mtlkit import Experiment, log
from mtlkit.config.composition import read_config
from mtlkit.engine.losses import NonFiniteError

METHODS = {
    "uniform": ["balancer=uniform"],
    "gradnorm Z": ["balancer=gradnorm", "balancer.space=features"],
    "gradnorm W": ["balancer=gradnorm", "balancer.space=last_layer"],
    "rotograd": ["balancer=rotograd"],
    "rotograd scale_only": ["balancer=rotograd", "balancer.scale_only=true"],
    "rotograd rotate_only": ["balancer=rotograd", "balancer.rotate_only=true"],
    "procrustes 0.99": ["balancer=rotograd_procrustes", "balancer.lr_decay=0.99"],
    "procrustes 1.0": ["balancer=rotograd_procrustes", "balancer.lr_decay=1.0"],
    "procrustes jump": ["balancer=rotograd_procrustes", "balancer.update=jump"],
    "cosreg": ["balancer=cosreg"],
}
ALONE = {name: ["balancer=uniform", f"task=[{task}]"] for name, task in zip(SINGLE, FIGURES, strict=True)}
ROWS = ["single task", *METHODS]


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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder with MNIST's files")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="gets a folder for every run")
    parser.add_argument("--write", type=Path, help="writes the page to this file, too")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=ROWS, metavar="METHOD", help=", ".join(ROWS))
    parser.add_argument("--keep", nargs="+", choices=ROWS, default=[], metavar="METHOD", help="rows of finished runs")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides for every run")
    args = parser.parse_args(argv)

    words = {row: ALONE if row == "single task" else {row: METHODS[row]} for row in ROWS}
    methods = [method for row in ROWS if row in {*args.methods, *args.keep} for method in words[row]]
    kept = {method for row in args.keep for method in words[row]}
    jobs = {
        (method, rate, seed): make_job(args, method, (ALONE | METHODS)[method], rate, seed)
        for method in methods
        for rate in args.rates
        for seed in args.seeds
    }
    first, *others = args.seeds
    trials = [job for job in jobs.values() if job.seed == first]

    def repeats(outcomes: Outcomes) -> list[Job]:
        """Returns the runs with the chosen rate and the other seeds, for the methods of these trials."""
        table = Table(outcomes, args.rates, [first])
        return [jobs[method, table.chosen[method], seed] for method in table.methods for seed in others]

    done = finished([job for job in trials if job.method in kept])
    done |= finished(repeats(done))
    for job in jobs.values():
        check(job, kept=job.method in kept)
    started = time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), initializer=begin_process)
    try:
        found = run_all(pool, [job for job in trials if job.method not in kept])
        found |= run_all(pool, repeats(found))
    finally:
        pool.shutdown(cancel_futures=True)
    out(f"All runs are there, after {(time.perf_counter() - started) / 60:.1f} minutes.\n\n")
    command = shlex.join(["python", "tools/reproduce_digits.py", *(sys.argv[1:] if argv is None else argv)])
    done |= found
    outcomes = {key: done[key] for key in jobs if key in done}  # in the order of the methods
    folders = {key: jobs[key].folder for key in outcomes}
    page = render(Table(outcomes, args.rates, args.seeds), folders, command, kept)
    out(page)
    if args.write is not None:
        args.write.write_text(page, encoding="utf-8")


# -- the runs ---------------------------------------------------------------------------------------------------


def make_job(args: argparse.Namespace, method: str, words: Sequence[str], rate: float, seed: int) -> Job:
    folder = args.out / f"{method} rate={rate:g} seed={seed}".replace(" ", "_")
    own = [*words, f"trainer.lr={rate}", f"seed={seed}", f"data.root='{args.root}'", f"output_dir='{folder}'"]
    return Job(method, rate, seed, folder, (*own, *args.set))


def check(job: Job, kept: bool = False) -> None:
    """Composes the run's configuration. Raises an error for a folder that holds another run.

    For a run that is kept, only data, model and trainer must agree, as far as both have them: they make figures
    comparable.
    """
    config = Experiment.compose("digits", job.words).config.to_dict()
    if (job.folder / "config.yaml").exists():
        old = read_config(job.folder / "config.yaml").to_dict()
        config["output_dir"], config["data"]["root"] = old["output_dir"], old["data"]["root"]
        if kept:
            shared = ("data", "model", "trainer")
            config = {name: {k: v for k, v in config[name].items() if k in old[name]} for name in shared}
            old = {name: {k: v for k, v in old[name].items() if k in config[name]} for name in shared}
        if differ := [section for section in config if old.get(section) != config[section]]:
            sections = ", ".join(differ)
            raise ValueError(f"{job.folder} holds a run with other settings ({sections}). Choose another --out.")


def run_all(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> Outcomes:
    """Returns the outcomes of all jobs, and first runs those that have none."""
    missing = [job for job in jobs if not (job.folder / "outcome.json").exists()]
    futures = {pool.submit(run, job): job for job in missing}
    for number, future in enumerate(as_completed(futures), 1):
        seconds = future.result()
        out(f"[{number}/{len(missing)}] {futures[future]}: {seconds:.0f} s\n")
    return finished(jobs)


def finished(jobs: Sequence[Job]) -> Outcomes:
    """Returns the outcomes of jobs that are finished."""
    for job in jobs:
        if not (job.folder / "outcome.json").exists():
            raise ValueError(
                f"{job.folder} has no outcome.json: {job} is not finished. Take it out of --keep to run it."
            )
    return {(job.method, job.rate, job.seed): json.loads((job.folder / "outcome.json").read_text()) for job in jobs}


def begin_process() -> None:
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; its run goes on from a checkpoint


def run(job: Job) -> float:
    """Trains or continues a run, writes its outcome.json and returns the seconds that it took."""
    from mtlkit.run.inference import evaluate_run

    started = time.perf_counter()
    outcome: Outcome = {}
    try:
        Experiment.compose("digits", job.words).run(resume=(job.folder / "config.yaml").exists())
        records = log.read_log(job.folder / "metrics.jsonl")
        outcome["constant"] = next(record for record in records if record["split"] == "val_constant")
        outcome["val"] = [record for record in records if record["split"] == "val"][-1]
        outcome["test"] = evaluate_run(job.folder, "test", "last")
        outcome["noise"] = noise(records)
    except NonFiniteError as error:
        outcome = {"diverged": str(error)}
    log.write_whole(job.folder / "outcome.json", json.dumps(outcome, indent=1).encode())
    return time.perf_counter() - started


def noise(records: Sequence[dict[str, Any]]) -> float:
    """Returns how unstable training is: the standard deviation of log(loss) in its last third, a mean over tasks."""
    train = [record for record in records if record["split"] == "train"]
    last = train[-max(2, len(train) // 3) :]
    tasks = [task for task in FIGURES if f"loss/{task}" in last[-1]]
    return fmean(stdev(math.log(max(record[f"loss/{task}"], 1e-12)) for record in last) for task in tasks)


def out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
