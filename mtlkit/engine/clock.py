"""How long a run has trained, over all its parts, how long a step takes, and for what it waits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mtlkit.engine.parts import part
from mtlkit.waits import WAITS


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
        self._spent = dict.fromkeys(WAITS, 0.0)

    @property
    def seconds(self) -> float:
        """The seconds, evaluations included. What a killed run did after its last checkpoint is not counted."""
        return self.before + time.perf_counter() - self._began

    def lap(self, step: int) -> dict[str, float]:
        """Returns `step_time` and each of `WAITS`, as the log has them, and begins to count anew.

        They are mean seconds per step since the last call. `step_time` is without the pauses.
        """
        now, steps = time.perf_counter(), max(1, step - self._step)
        found = {"step_time": (now - self._lap) / steps} | {key: value / steps for key, value in self._spent.items()}
        self._lap, self._step, self._spent = now, step, dict.fromkeys(WAITS, 0.0)
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count what happens inside as training."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._lap += time.perf_counter() - began

    @contextmanager
    def waiting(self, key: str) -> Iterator[None]:
        """Counts what happens inside as one of `WAITS`."""
        began = time.perf_counter()
        try:
            with part(key.removesuffix("_time")):
                yield
        finally:
            self._spent[key] += time.perf_counter() - began
