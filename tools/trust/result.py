"""What a part of the harness found, and the guards around each of its cases."""

import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

SECONDS = 60  #: one case that takes longer hangs
MESSAGE = 6000  #: a longer message is no message for people


@dataclass
class Result:
    """What became of the cases of a part, and the faults among them. Without faults, the part is passed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: figures, such as the memory that was needed

    @property
    def cases(self) -> int:
        return self.outcomes.total()

    def fault(self, words: str) -> None:
        self.outcomes["FAULT"] += 1
        self.faults.append(words)

    def in_words(self) -> str:
        parts = [f"{count} {name}" for name, count in sorted(self.outcomes.items())]
        return "; ".join([", ".join(parts), *self.notes])


class HangsError(BaseException):
    """A case took too long. No code of mtlkit catches it."""


@contextmanager
def guarded(seconds: int = SECONDS) -> Iterator[None]:
    """Ends a case that hangs, and keeps warnings quiet: they are no errors here."""

    def ring(*_: Any) -> None:
        raise HangsError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def misbehaved(error: BaseException) -> str:
    """Returns what is wrong with an error that a user gets, in words, or nothing."""
    from mtlkit.errors import for_users

    text = str(error)
    if not for_users(error):
        return f"{type(error).__name__}, which is no error for users: {text[:300]}"
    if not text.strip():
        return f"{type(error).__name__} without a message"
    if len(text) > MESSAGE:
        return f"a message of {len(text)} characters: {text[:100]} ..."
    return ""
