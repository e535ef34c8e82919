"""Observers: objects that watch a run. The log, the console and the trackers are observers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtlkit.registry import Registry

if TYPE_CHECKING:  # the parser of the command line imports this module, and does without
    import numpy as np

Record = Mapping[str, Any]  #: see `mtlkit.log`
Sample = Sequence[tuple[str, "np.ndarray"]]  #: names and RGB pictures (H, W, 3) uint8, see `save_pictures`


class Observer:
    """Watches a run. The engine calls the hooks in this order, on the main process only. By default they do nothing.

    An exception in a hook ends the run, because a run whose log cannot be written is of no use.

    A plug-in registers its own class. `trainer.observers: [NAME]` makes one of it, with the configuration of the run as
    the only argument. `config.output_dir` is the folder of the run.

    >>> from mtlkit.config.composition import compose
    >>> @OBSERVERS.register("printer")
    ... class Printer(Observer):
    ...     '''Prints what the balancer did.'''
    ...     def __init__(self, config):
    ...         self.name = config.balancer.name
    ...     def step(self, record):
    ...         print(self.name, record["weight/depth"])
    >>> OBSERVERS.build("printer", compose("scenes")).step({"step": 1, "split": "train", "weight/depth": 1.0})
    uniform 1.0
    """

    def start(self, total_steps: int, step: int) -> None:
        """Is called when the run begins. `step` of its `total_steps` optimizer steps are done already (0: new)."""

    def phase(self, words: str) -> None:
        """Is called when a part of the run begins that may take a while, also before `start`. `words` say which part.

        Only the observers that `Experiment.run` gets are told: those of the configuration are made later.
        """

    def note(self, record: Record) -> None:
        """Gets a record of the split `info`, or an incident outside the other records. It may be called at any time."""

    def step(self, record: Record) -> None:
        """Gets the record of a training step that is logged, of the split `train`."""

    def evaluation(self, record: Record) -> None:
        """Gets a record of the split `val` or `val_constant`."""

    def pictures(self, step: int, samples: Sequence[Sample]) -> None:
        """Gets the pictures of some evenly spread samples at the end of a run: images, targets, predictions, errors."""

    def finish(self, summary: Record) -> None:
        """Is called when the run is over, also after an exception. `summary["status"]` is, for example, "finished"."""


OBSERVERS: Registry[Observer] = Registry("observer", Observer)


class Observers(Observer):
    """Calls several observers, in their order."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self.observers = list(observers)

    def start(self, total_steps: int, step: int) -> None:
        for observer in self.observers:
            observer.start(total_steps, step)

    def phase(self, words: str) -> None:
        for observer in self.observers:
            observer.phase(words)

    def note(self, record: Record) -> None:
        for observer in self.observers:
            observer.note(record)

    def step(self, record: Record) -> None:
        for observer in self.observers:
            observer.step(record)

    def evaluation(self, record: Record) -> None:
        for observer in self.observers:
            observer.evaluation(record)

    def pictures(self, step: int, samples: Sequence[Sample]) -> None:
        for observer in self.observers:
            observer.pictures(step, samples)

    def finish(self, summary: Record) -> None:
        for observer in self.observers:
            observer.finish(summary)
