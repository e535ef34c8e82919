"""What the command line must tell apart from other errors without importing torch."""


class StepError(RuntimeError):
    """A training step cannot be made, by no fault of the words or the files. The command's exit status is 3."""
