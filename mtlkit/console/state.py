"""What the console knows of a run: the newest records, and what follows from them."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from mtlkit.console.words import clip, clock, number, size
from mtlkit.log import class_key, tasks_of
from mtlkit.observer import Record
from mtlkit.report.many import common_metric, stand_out

MONITOR = "trainer.monitor="  #: begins `monitor_of` where a metric decides which evaluation is the best


class State:
    """The newest records of a run.

    `memory` returns bytes and what they count.
    """

    def __init__(self, memory: Callable[[], tuple[int | None, str]]) -> None:
        self.memory = memory
        self.total = self.first = self.done = 0
        self.began = time.monotonic()
        self.tasks: list[str] = []
        self.info: dict[str, object] = {}
        self.train: Record = {}
        self.train_before: Record = {}
        self.val: Record = {}
        self.val_before: Record = {}
        self.untrained: Record = {}
        self.best: Record = {}

    def start(self, total: int, step: int) -> None:
        self.total, self.first, self.done = total, step, step
        self.began = time.monotonic()

    def note(self, record: Record) -> None:
        self.info |= record
        if record.get("best_lost"):
            self.best = {}

    def step(self, record: Record) -> None:
        self.train_before, self.train = self.train, record
        self._advance(record)

    def evaluation(self, record: Record) -> None:
        self._advance(record)
        if record["split"] != "val":
            return
        self.val_before, self.val = self.val, record
        if record["step"] == 0:
            self.untrained = record
        if record.get("best"):
            self.best = record

    def _advance(self, record: Record) -> None:
        self.done = record["step"]
        self.tasks = list(dict.fromkeys([*self.tasks, *tasks_of(record)]))

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self.began

    def left(self) -> str:
        """Returns the remaining time, estimated from the mean speed since the start. Evaluations count."""
        if self.done <= self.first:
            return "-:--:-- left"
        return f"{clock(self.seconds / (self.done - self.first) * max(self.total - self.done, 0))} left"

    def steps(self) -> str:
        return f"{self.done:>{len(str(self.total))}}/{self.total}"

    def epoch(self, record: Record) -> list[str]:
        """Returns the epoch of a record, counted from 1, among those of the run."""
        per_epoch = self.info.get("steps_per_epoch")
        if not isinstance(per_epoch, int) or per_epoch < 1:
            return []
        whole = max(1, math.ceil(self.total / per_epoch))
        return [f"epoch {min(max(1, math.ceil(record['step'] / per_epoch)), whole)}/{whole}"]

    def facts(self) -> list[str]:
        """Returns how training goes, as short texts: epoch, speed, memory, learning rate, and the best evaluation."""
        found = self.epoch(self.train) if self.train else []
        seconds, samples = self.train.get("step_time"), self.info.get("batch_size")
        if seconds and isinstance(samples, int):
            found.append(f"{samples / seconds:.3g} samples/s")
        held, of = self.memory()
        if held is not None:
            found.append(f"{of} {size(held)}")
        return [*found, *self._rates(), *self.best_words()]

    def _rates(self) -> list[str]:
        """Returns the learning rates: one number if they are all the same."""
        rates = {key.removeprefix("lr/"): number(rate) for key, rate in self.train.items() if key.startswith("lr/")}
        values = dict.fromkeys(rates.values())
        if len(values) < 2:
            return [f"lr {value}" for value in values]
        return [f"lr {' and '.join(g for g, rate in rates.items() if rate == value)} {value}" for value in values]

    def best_words(self) -> list[str]:
        """Returns which evaluation is the best so far, and by which figure."""
        if not self.best:
            return []
        name, value = str(self.info.get("monitor_of", "")), self.best.get("monitor")
        higher: object = self.info.get("higher_is_better")
        if value is None:
            figure = ""
        elif name.startswith(MONITOR):
            key = name.removeprefix(MONITOR)
            ways = higher if isinstance(higher, dict) else {}
            up = any(way for one, way in ways.items() if key in (one, f"*/{one.partition('/')[2]}"))
            figure = f", {clip(key, 40)} {number(-value if up else value)}"  # the log has it so that lower is better
        elif name.startswith("delta-m"):
            figure = f", delta-m {-100 * value:+.3g} %"
        else:
            figure = f", loss/untrained {number(value)}"
        return [f"best: step {self.best['step']}{figure}"]

    def ranking(self) -> "Ranking":
        """Returns how many tasks are ordered: by a metric that all have, or by validation loss / untrained loss.

        Before the first evaluation, it is the loss of training.
        """
        ways = self.info.get("higher_is_better")
        common = common_metric(self.tasks, ways if isinstance(ways, dict) else {})
        if self.val and common:
            metric, higher = common
            now, before = ({t: record.get(f"{t}/{metric}") for t in self.tasks} for record in self._evaluations)
            return Ranking(metric, now, before, higher)
        if self.val and self.untrained:
            untrained = {t: self.untrained.get(f"loss/{t}") for t in self.tasks}
            now, before = (
                {t: _ratio(record.get(f"loss/{t}"), untrained[t]) for t in self.tasks} for record in self._evaluations
            )
            return Ranking("loss/untrained", now, before, False)
        return self.ranking_of_training()

    def ranking_of_training(self) -> "Ranking":
        """Returns the order of the tasks by their training losses."""
        now, before = ({t: r.get(f"loss/{t}") for t in self.tasks} for r in (self.train, self.train_before))
        return Ranking("loss", now, before, False)

    @property
    def _evaluations(self) -> tuple[Record, Record]:
        return self.val, self.val_before


class Ranking(NamedTuple):
    """By what tasks are ordered: its name, its values by task now and before, and whether higher is better."""

    by: str
    now: dict[str, float | None]
    before: dict[str, float | None]
    higher: bool

    def groups(self) -> dict[str, list[str]]:
        """Returns the tasks that stand out, by group."""
        return stand_out(self.now, self.before, self.higher)


def _ratio(value: float | None, of: float | None) -> float | None:
    return value / of if value is not None and of else None


def metrics_of(record: Record, task: str) -> dict[str, float | None]:
    """Returns the metrics of a task by name, without those of single classes."""
    prefix = f"{task}/"
    return {
        key.removeprefix(prefix): value
        for key, value in record.items()
        if key.startswith(prefix) and not class_key(key)
    }
