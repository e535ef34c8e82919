"""Errors that the command line must distinguish from others without importing torch."""

import signal

RESUME = 75  #: exit status of what a signal stopped: the same command goes on (EX_TEMPFAIL of sysexits.h, "try again")

USER_ERRORS = (ValueError, LookupError, OSError)
BUGS = (KeyError, IndexError)  # LookupErrors that come from a fault in the program, not from a wrong word


class StepError(RuntimeError):
    """A training step is not possible, and neither words nor files are wrong. The command's exit status is 3."""


class Stopped(SystemExit):
    """A signal has stopped the run. The run can go on. Where nobody catches it, the process ends with `RESUME`.

    Args:
        number: the signal.
        step: the optimizer step after which the checkpoint was saved; None: the run was not in training.

    >>> print(Stopped(signal.SIGTERM, 12), Stopped(signal.SIGTERM).code)
    SIGTERM: stopped after step 12, with a checkpoint. 75
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(RESUME)
        self.signal, self.step = signal.Signals(number), step

    def __str__(self) -> str:
        where = "." if self.step is None else f" after step {self.step}, with a checkpoint."
        return f"{self.signal.name}: stopped{where}"


def for_users(error: BaseException) -> bool:
    """Returns whether the message of an error is written for users, so that they need no traceback."""
    return isinstance(error, (StepError, *USER_ERRORS)) and not isinstance(error, BUGS)
