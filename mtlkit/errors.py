"""Errors that the command line must distinguish from others without importing torch."""


class StepError(RuntimeError):
    """A training step is not possible, and neither words nor files are wrong. The command's exit status is 3."""
