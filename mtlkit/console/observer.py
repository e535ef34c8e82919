"""Shows the progress of a run: a live display on a terminal, plain lines otherwise."""

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from mtlkit.console import blocks
from mtlkit.console.state import State
from mtlkit.console.words import clock
from mtlkit.data.summary import facts_in_words
from mtlkit.observer import Observer, Record
from mtlkit.plain_text import plain
from mtlkit.report.many import EACH, is_many, where_the_rest_is
from mtlkit.run.memory import memory_now
from mtlkit.terminal import Terminal

PLAIN = 120  #: the largest width of a plain line


class Console(Observer):
    """Shows the phases of a run, its losses, weights and metrics, its speed and memory, and the time left.

    `run` is the folder of the run, in which the rest of the figures is. `console` is rich's console; the default is a
    `Terminal` that writes to standard output. If it is no terminal, each record becomes plain lines of at most `PLAIN`
    characters. Of many tasks, means and the tasks that stand out are shown (`mtlkit.report.many`). Facts about the
    data, which include its terms of use, are printed once.
    """

    _told: ClassVar[set[tuple[str, ...]]] = set()

    def __init__(self, run: object = None, console: RichConsole | None = None) -> None:
        self.run = run
        self.console = console or Terminal()
        self.state = State(memory_now)
        self._live: Live | None = None
        self._phases: set[str] = set()
        self._explained = False  # that not all tasks are shown
        self._why = ""  # the run ended

    def phase(self, words: str) -> None:
        if self._live:
            self._progress.update(self._bar, phase=words.partition(" ")[0].lower())
        elif words not in self._phases:  # the first evaluation is news, the others have lines of their own
            self._phases.add(words)
            self._say(f"{words} ...")

    def start(self, total_steps: int, step: int) -> None:
        self.state.start(total_steps, step)
        if not self.console.is_interactive:
            return
        self._progress = Progress(
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            expand=True,
        )
        left = self.state.left()
        self._bar = self._progress.add_task("", total=total_steps, completed=step, left=left, phase="starting")
        self._live = Live(get_renderable=self._display, console=self.console, refresh_per_second=4)
        self._live.start()

    def step(self, record: Record) -> None:
        self.state.step(record)
        self._advance()
        if not self._live:
            facts = [*self.state.facts(), self.state.left()]
            self._record("train", facts, blocks.train_lines(self.state))
        self._incident(record)

    def evaluation(self, record: Record) -> None:
        self.state.evaluation(record)
        self._advance()
        if not self._live:
            val = record["split"] == "val"
            facts = [*self.state.epoch(record), *self.state.best_words(), self.state.left()] if val else []
            self._record("val" if val else "constant", facts, blocks.metric_lines(self.state, record))
        self._incident(record)

    def note(self, record: Record) -> None:
        self.state.note(record)
        self._why = record.get("why", self._why)
        if "decoders" in record:
            self._say(f"In training, {record['decoders']}.")
        for line in record.get("model", ()):
            self._say(line)
        lines = tuple(_data_in_words(record["data"])) if "data" in record else ()
        if lines not in self._told:  # print once, not again for each job of a sweep on the same data
            self._told.add(lines)
            for line in lines:
                self._say(line)
        self._incident(record)

    def finish(self, summary: Record) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        status = summary.get("status", "stopped")
        why = f": {self._why}" if self._why else ""
        steps = f"{self.state.done}/{self.state.total}"
        self._say(f"{status} at step {steps} after {clock(self.state.seconds)}{why}", "bold")

    def _advance(self) -> None:
        if self._live:
            self._progress.update(self._bar, completed=self.state.done, left=self.state.left())
        if is_many(self.state.tasks) and not self._explained:
            self._explained = True
            self._say(where_the_rest_is(len(self.state.tasks), self.run))

    def _record(self, name: str, facts: list[str], body: RenderableType) -> None:
        """Prints a record as plain lines: what it is, and its figures below."""
        self._print(blocks.Flow([f"{name:<8} {self.state.steps()}", *facts]))
        self._print(Padding(body, (0, 0, 0, 2)))

    def _incident(self, record: Record) -> None:
        if text := record.get("incident"):
            self._print(Text.assemble(("warning", "yellow"), f"  step {record['step']}: {plain(text)}"))

    def _say(self, line: str, style: str = "dim") -> None:
        self._print(Text(plain(line), style))  # rich takes out some characters that are not plain

    def _print(self, shown: RenderableType) -> None:
        if self.console.is_interactive:
            self.console.print(shown, highlight=False)
            return
        # rich fills tables with blanks up to their width, and a pipe has no width.
        for line in self.console.render_lines(shown, self.console.options.update(width=PLAIN), pad=False):
            text = "".join(segment.text for segment in line).rstrip()
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _display(self) -> Group:
        return Group(self._progress, blocks.live(self.state, self.console.width))


def _data_in_words(facts: Mapping[str, Any]) -> list[str]:
    """Returns what the run found in its data. Of many targets, only those with the fewest valid labels are shown."""
    targets = facts["targets"]
    if not is_many(list(targets)):
        return facts_in_words(facts)
    fewest = sorted(targets, key=lambda name: targets[name]["valid"])[:EACH]
    ranges = [one for one in facts.get("ranges", ()) if one["target"] in fewest]
    first, *rest = facts_in_words({**facts, "targets": {name: targets[name] for name in fewest}, "ranges": ranges})
    return [first, f"{len(targets)} targets; the {EACH} with the fewest valid labels (report.html has all):", *rest]
