"""Errors that the command line must distinguish from others without importing torch."""

USER_ERRORS = (ValueError, LookupError, OSError)
BUGS = (KeyError, IndexError)  # LookupErrors that come from a fault in the program, not from a wrong word


class StepError(RuntimeError):
    """A training step is not possible, and neither words nor files are wrong. The command's exit status is 3."""


def for_users(error: BaseException) -> bool:
    """Returns whether the message of an error is written for users, so that they need no traceback."""
    return isinstance(error, (StepError, *USER_ERRORS)) and not isinstance(error, BUGS)
