"""Ends a run when a scheduler asks for it: SIGTERM, or a signal before the time limit (Slurm: --signal=USR1@120).

A run that trains makes its optimizer step to the end, saves a checkpoint and ends with the exit status `RESUME`. Before
training there is nothing to save, so it ends at once. After training it writes its results, which takes seconds.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mtlkit import distributed
from mtlkit.errors import Stopped
from mtlkit.process import terminate_when

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LOOK = 1.0  #: seconds of training between two looks at the signals of all processes


class _Heard:
    """What this process has heard: signals belong to a process, not to a run."""

    signal = 0
    waits = False  # whether a run is in training, which looks for itself
    launcher = 0  # the process of torchrun that started this one


@contextmanager
def ends_by_signal() -> Iterator[None]:
    """Raises `Stopped` in the block when one of `SIGNALS` arrives, except in `in_training`.

    A signal that the program handles in another way is left to it.
    """
    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in SIGNALS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _hear)
    if mine and "TORCHELASTIC_RUN_ID" in os.environ and not _Heard.launcher:
        # torchrun ends what it started, but not when it is killed. Its processes would then train for nobody.
        _Heard.launcher = os.getppid()
        terminate_when(lambda: os.getppid() != _Heard.launcher)
    try:
        if _Heard.signal:  # it arrived while the run before this one wrote its results
            raise Stopped(_Heard.signal)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
        if mine:
            _Heard.signal = 0


@contextmanager
def in_training(save: Callable[[], None]) -> Iterator[Callable[[int, bool], None]]:
    """Lets signals wait within the block, and yields a `StopAfter`, which looks at them."""
    _Heard.waits = True
    try:
        yield StopAfter(save)
    finally:
        _Heard.waits = False


class StopAfter:
    """Ends a run after an optimizer step if any of its processes has heard a signal: all processes at the same step.

    Args:
        save: writes a checkpoint. All processes call it.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._step: int | None = None  # of the last look
        self._time = time.perf_counter()
        self._next = 0

    def __call__(self, step: int, now: bool = False) -> None:
        """Called after each step by all processes, with the same arguments. `now`: look at once. Raises `Stopped`."""
        if (now or step >= self._next or distributed.world_size() == 1) and (number := self._look(step)):
            self._save()
            distributed.gather(None)  # when one process has ended, a launcher ends the others, also one that saves
            raise Stopped(number, step)

    def _look(self, step: int) -> int:
        """Returns a signal that any process has heard, or 0."""
        # A signal may reach one process only, or each at another step. They agree about once a second, for a look waits
        # for the device. After how many steps the next look comes is agreed with it: their clocks differ.
        time_now = time.perf_counter()
        pace = LOOK if self._step is None else (time_now - self._time) / max(step - self._step, 1)
        heard, paces = zip(*distributed.gather((_Heard.signal, pace)), strict=True)
        self._step, self._time = step, time_now
        self._next = step + max(1, int(LOOK / max(1e-6, *paces)))
        return int(max(heard))


def _hear(number: int, frame: FrameType | None) -> None:
    if not _Heard.signal:  # launchers repeat themselves; a run that ends must not be disturbed in it
        _Heard.signal = number
        if not _Heard.waits:
            raise Stopped(number)
