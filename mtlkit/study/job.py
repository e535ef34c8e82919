"""A run of a study in a process of its own, which submitit starts."""

import signal
from collections.abc import Callable, Mapping
from typing import Any

from mtlkit.errors import Stopped
from mtlkit.process import state_of, terminate_when, this_process
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
        if starter := self.starter:
            terminate_when(lambda: state_of(starter) == "dead")
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
