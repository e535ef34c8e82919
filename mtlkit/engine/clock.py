"""How long a run has trained, over all its parts."""

import time


class Clock:
    """Counts the seconds since it was made, on top of those of earlier parts of the run (`before`).

    >>> clock = Clock()
    >>> clock.before = 60.0
    >>> 60 <= clock.seconds < 120
    True
    """

    def __init__(self) -> None:
        self.before = 0.0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The seconds, evaluations included. What a killed run did after its last checkpoint is not counted."""
        return self.before + time.perf_counter() - self._began
