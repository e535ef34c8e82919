"""What a study will cost, from a few measured steps of each method."""

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from mtlkit.config.schema import Config
from mtlkit.engine.optim import in_steps, total_steps
from mtlkit.observer import Observer, Record
from mtlkit.run.build import build_dataset, build_order
from mtlkit.run.experiment import Experiment
from mtlkit.study.plan import Job, Plan

STEPS = 6  #: measured steps; the first one, which includes what is done once, does not count


@dataclass(frozen=True)
class Cost:
    """The estimated seconds and bytes of one run."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class Line:
    """The runs of one method: how many, and what one of them costs."""

    method: str
    trials: int
    runs: int
    one: Cost

    @property
    def all(self) -> Cost:
        count = self.trials + self.runs
        return Cost(count * self.one.seconds, count * self.one.bytes)


class Clock(Observer):
    """Notes when the records of a run come."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []

    def step(self, record: Record) -> None:
        self.times.append(("train", time.perf_counter()))

    def evaluation(self, record: Record) -> None:
        self.times.append((str(record["split"]), time.perf_counter()))


def estimate(plan: Plan, tell: Callable[[str], None]) -> list[Line]:
    """Measures a few steps of every method, in a temporary folder, and returns the cost of all its runs.

    Single-task runs whose tasks have the same settings are measured once. Raises what a run raises.
    """
    first = {method.label: method.candidates[0] for method in plan.methods}
    runs, measured = plan.runs(first), dict[str, Cost]()
    lines = []
    for method in plan.methods:
        own = [job for job in runs if job.method is method]
        # Two single-task runs of like tasks take the same time: CelebA has forty.
        like = repr((own[0].config.task.values(), method.base)) if method.task else method.label
        if like not in measured:
            tell(f"Measuring {STEPS} steps of {method.label}")
            measured[like] = measure(own[0])
        trials = [job for job in plan.trials if job.method is method]
        lines.append(Line(method.label, len(trials), len(own), measured[like]))
    return lines


def measure(job: Job) -> Cost:
    """Runs a few steps of a job and returns what the whole run will cost, as far as early stopping does not end it.

    One evaluation is timed from the constant prediction's record to that of the untrained model.
    """
    config = job.config
    steps, evaluations = _length(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        trainer = replace(
            config.trainer,
            max_steps=STEPS,
            log_every=1,
            eval_every=STEPS,
            eval_every_epochs=None,
            warmup_steps=0,
            trackers=(),
            observers=(),
        )
        clock, began = Clock(), time.perf_counter()
        Experiment(replace(config, output_dir=str(folder), trainer=trainer)).run(observers=[clock])
        total = time.perf_counter() - began
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    times = [when for split, when in clock.times if split in ("train", "val")]
    constant = next(when for split, when in clock.times if split == "val_constant")
    # After the untrained model's record come those of the steps and of the last evaluation.
    evaluation, each = times[0] - constant, [after - before for before, after in pairwise(times[1:-1])]
    seconds = total + (steps - STEPS) * median(each) + (evaluations - 2) * evaluation
    return Cost(max(seconds, 0.0), float(disk))


def _length(config: Config) -> tuple[int, int]:
    """Returns the number of steps of a run and of its evaluations, with the one of the untrained model."""
    per_epoch = build_order(config, build_dataset(config, "train")).steps_per_epoch
    trainer = in_steps(config.trainer, per_epoch)
    steps = total_steps(trainer, per_epoch)
    every = trainer.eval_every or (trainer.eval_every_epochs or 1) * per_epoch
    return steps, 1 + math.ceil(steps / every)


def in_words(lines: Iterable[Line], at_a_time: int) -> list[tuple[str, ...]]:
    """Returns the rows of a table: the methods, and a sum."""
    lines = list(lines)
    rows = [("method", "trials", "runs", "one run", "all", "disk")]
    for line in lines:
        rows.append((line.method, str(line.trials), str(line.runs), clock(line.one.seconds), *_cost(line.all)))
    total = Cost(sum(line.all.seconds for line in lines) / at_a_time, sum(line.all.bytes for line in lines))
    trials, runs = (str(sum(getattr(line, key) for line in lines)) for key in ("trials", "runs"))
    return [*rows, ("sum" if at_a_time == 1 else f"sum, {at_a_time} at a time", trials, runs, "", *_cost(total))]


def _cost(cost: Cost) -> tuple[str, str]:
    return clock(cost.seconds), f"{cost.bytes / 1e6:.0f} MB" if cost.bytes < 1e9 else f"{cost.bytes / 1e9:.1f} GB"


def clock(seconds: float) -> str:
    """Returns a duration in words that are easy to compare.

    >>> clock(42.3), clock(61 * 60), clock(50 * 3600)
    ('42 s', '1.0 h', '50.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
