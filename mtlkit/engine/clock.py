"""How long a run has trained, over all its parts, and how long a step takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


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
        self._lap, self._step = self._began, 0

    @property
    def seconds(self) -> float:
        """The seconds, evaluations included. What a killed run did after its last checkpoint is not counted."""
        return self.before + time.perf_counter() - self._began

    def lap(self, step: int) -> float:
        """Returns the mean seconds per step since the last call, without the pauses, and begins to count anew."""
        now, steps = time.perf_counter(), max(1, step - self._step)
        seconds, self._lap, self._step = (now - self._lap) / steps, now, step
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count what happens inside as training."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._lap += time.perf_counter() - began
