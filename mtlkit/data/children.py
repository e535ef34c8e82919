"""The processes that load data: only the main process gets signals, and no worker outlives it."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader

from mtlkit.process import end_with_parent, for_main_only, wait_for_threads


class Loader(DataLoader):
    """A `DataLoader` whose workers leave signals to the main process and end with it.

    Ctrl-C reaches all processes of a terminal, and launchers such as torchrun signal a whole group. A worker that such
    a signal ended would take the step at hand with it.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, **options, worker_init_fn=_begin)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        wait_for_threads()  # workers are forks: a lock that a thread holds now would stay locked in them
        with for_main_only():  # the workers start here
            return super().__iter__()


def _begin(number: int) -> None:
    """Is called in a new worker."""
    # The process that starts workers is the main one or, with the start method `forkserver`, a server of it.
    main = multiprocessing.parent_process()
    end_with_parent(os.getppid(), main.pid if main else None)
    sys.excepthook = _say


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an error of a worker's own threads, which hand over batches, unless nobody takes them any more.

    Errors of the data set do not come here: the main process raises them.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
