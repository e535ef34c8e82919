"""Shows the progress of a run: a live display on a terminal, plain lines otherwise."""

import time
from typing import Any, ClassVar

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mtlkit.data.summary import facts_in_words
from mtlkit.log import class_key, tasks_of
from mtlkit.observer import Observer, Record
from mtlkit.terminal import Terminal

SHOWN = 6  #: the largest number of tasks that are shown; these are the first ones


class Console(Observer):
    """Shows losses, weights, gradient norms, the last evaluation and the time left.

    `console` is rich's console; the default is a `Terminal` that writes to standard output. If it is no terminal, each
    record becomes one plain line with the loss and the weight (`w`) per task, or the metrics per task. `*` marks the
    best evaluation so far. Facts about the data, which include its terms of use, are printed once.
    """

    _told: ClassVar[set[tuple[str, ...]]] = set()

    def __init__(self, console: RichConsole | None = None) -> None:
        self.console = console or Terminal()
        self.total = self.first = self.done = 0
        self.began = time.monotonic()
        self._live: Live | None = None
        self._tasks: dict[str, None] = {}  # an ordered set
        self._train: Record = {}
        self._val: Record = {}
        self._why = ""  # the run ended

    def start(self, total_steps: int, step: int) -> None:
        self.total, self.first, self.done = total_steps, step, step
        self.began = time.monotonic()
        if not self.console.is_interactive:
            return
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            expand=True,
        )
        self._bar = self._progress.add_task("", total=total_steps, completed=step, left=self._left())
        self._live = Live(get_renderable=self._display, console=self.console, refresh_per_second=4)
        self._live.start()

    def step(self, record: Record) -> None:
        self._train = record
        self._advance(record)
        if not self._live:
            self._line("train", record, [_train_text(record, task) for task in tasks_of(record)])
        self._incident(record)

    def evaluation(self, record: Record) -> None:
        if record["split"] == "val":
            self._val = record
            self._advance(record)
        if not self._live:
            name = "constant" if record["split"] == "val_constant" else "val *" if record.get("best") else "val"
            self._line(name, record, [f"{task} {_metrics_text(record, task)}" for task in tasks_of(record)])
        self._incident(record)

    def note(self, record: Record) -> None:
        self._why = record.get("why", self._why)
        if "decoders" in record:
            self._dim(f"In training, {record['decoders']}.")
        for line in record.get("model", ()):
            self._dim(line)
        lines = tuple(facts_in_words(record["data"])) if "data" in record else ()
        if lines not in self._told:  # print once, not again for each job of a sweep on the same data
            self._told.add(lines)
            for line in lines:
                self._dim(line)
        self._incident(record)

    def working(self, what: str) -> None:
        self._dim(what)

    def finish(self, summary: Record) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        seconds = time.monotonic() - self.began
        status = summary.get("status", "stopped")
        why = f": {self._why}" if self._why else ""
        self.console.print(f"{status} at step {self.done}/{self.total} after {clock(seconds)}{why}", style="bold")

    def _advance(self, record: Record) -> None:
        self.done = record["step"]
        self._tasks |= dict.fromkeys(tasks_of(record))
        if self._live:
            self._progress.update(self._bar, completed=self.done, left=self._left())

    def _left(self) -> str:
        """Returns the remaining time, estimated from the mean speed since the start. Evaluations count."""
        if self.done <= self.first:
            return "-:--:-- left"
        pace = (time.monotonic() - self.began) / (self.done - self.first)
        return f"{clock(pace * max(self.total - self.done, 0))} left"

    def _line(self, name: str, record: Record, parts: list[str]) -> None:
        steps = f"{record['step']:>{len(str(self.total))}}/{self.total}"
        line = f"{name:<8} {steps}  {self._left():>12}  {' | '.join(parts[:SHOWN] + _more(len(parts)))}"
        self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _incident(self, record: Record) -> None:
        if text := record.get("incident"):
            line = Text.assemble(("warning", "yellow"), f"  step {record['step']}: {text}")
            self.console.print(line, highlight=False, soft_wrap=True)

    def _dim(self, line: str) -> None:
        self.console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _display(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column("task")
        for column in ("loss", "weight", "gradient"):
            table.add_column(column, justify="right")
        table.add_column(f"validation at step {self._val['step']}" if self._val else "")
        for task in list(self._tasks)[:SHOWN]:
            numbers = (number(self._train.get(f"{key}/{task}")) for key in ("loss", "weight", "grad_norm"))
            table.add_row(task, *numbers, _metrics_text(self._val, task))
        for more in _more(len(self._tasks)):
            table.add_row(more, style="dim")
        return Group(self._progress, table)


def number(value: Any) -> str:
    """Formats a number with four significant digits. `-` means that it is missing or was not finite.

    >>> [number(value) for value in (0.123456, 1234567, 1e-7, None)]
    ['0.1235', '1.235e+06', '1e-07', '-']
    """
    return "-" if value is None else f"{value:.4g}"


def clock(seconds: float) -> str:
    """
    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def _train_text(record: Record, task: str) -> str:
    weight = record.get(f"weight/{task}")
    scaled = "" if weight is None else f" w {number(weight):<9}"
    return f"{task} {number(record.get(f'loss/{task}')):<9}{scaled}"


def _metrics_text(record: Record, task: str) -> str:
    prefix = f"{task}/"
    figures = {key: value for key, value in record.items() if key.startswith(prefix) and not class_key(key)}
    return " ".join(f"{key.removeprefix(prefix)} {number(value):<9}" for key, value in figures.items())


def _more(count: int) -> list[str]:
    return [f"+{count - SHOWN} more"] if count > SHOWN else []
