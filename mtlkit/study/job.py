"""A run of a study in a process of its own, which submitit starts."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from mtlkit.errors import Stopped
from mtlkit.process import state_of, this_process
from mtlkit.run.stop import SIGNALS


class InJob:
    """Calls `train` in a job of submitit. A signal of the cluster stops the run after a step, with a checkpoint.

    After that, submitit does what it does with the signal: it puts a job of Slurm into the queue again, as often as its
    parameter slurm_max_num_timeout allows. A job of this machine ends, in the same way, with the process that made this
    object, also after SIGKILL.
    """

    def __init__(self, train: Callable[[Mapping[str, Any]], str], local: bool) -> None:
        self.train, self.starter = train, this_process() if local else None

    def __call__(self, values: Mapping[str, Any]) -> str:
        theirs = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}  # for our own
        if self.starter:
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            return self.train(values)
        except Stopped as stopped:
            if callable(handle := theirs[stopped.signal]):
                handle(stopped.signal, None)
            raise

    def checkpoint(self, values: Mapping[str, Any]) -> Any:
        """Returns what submitit starts in place of a job that was stopped: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, values)

    def _watch(self) -> None:
        assert self.starter is not None
        while state_of(self.starter) != "dead":
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
