"""Observers: objects that watch a run. The log, the console and the trackers are observers."""

from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]  #: see `mtlkit.log`


class Observer:
    """Watches a run. The engine calls the hooks in this order, on the main process only. By default they do nothing.

    An exception in a hook ends the run, because a run whose log cannot be written is of no use.
    """

    def start(self, total_steps: int, step: int) -> None:
        """Is called when the run begins. `step` of its `total_steps` optimizer steps are done already (0: new)."""

    def note(self, record: Record) -> None:
        """Gets a record of the split `info`, or an incident outside the other records. It may be called at any time."""

    def step(self, record: Record) -> None:
        """Gets the record of a training step that is logged, of the split `train`."""

    def evaluation(self, record: Record) -> None:
        """Gets a record of the split `val` or `val_constant`."""

    def finish(self, summary: Record) -> None:
        """Is called when the run is over, also after an exception. `summary["status"]` is, for example, "finished"."""


class Observers(Observer):
    """Calls several observers, in their order."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self.observers = list(observers)

    def start(self, total_steps: int, step: int) -> None:
        for observer in self.observers:
            observer.start(total_steps, step)

    def note(self, record: Record) -> None:
        for observer in self.observers:
            observer.note(record)

    def step(self, record: Record) -> None:
        for observer in self.observers:
            observer.step(record)

    def evaluation(self, record: Record) -> None:
        for observer in self.observers:
            observer.evaluation(record)

    def finish(self, summary: Record) -> None:
        for observer in self.observers:
            observer.finish(summary)
