"""Names for the parts of a step, as a profiler shows them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch.autograd import profiler

P = ParamSpec("P")
T = TypeVar("T")


def part(name: str) -> AbstractContextManager[Any]:
    """Gives a name to what happens inside, for torch's profiler. Without a profiler, it costs and does nothing.

    >>> with part("encoder"):
    ...     pass
    """
    # `record_function` alone would cost an operation of the dispatcher in every step.
    return profiler.record_function(name) if profiler._is_profiler_enabled else nullcontext()


def named(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Gives a name to each call of a function, as `part` does."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with part(name):
                return function(*args, **kwargs)

        return call

    return decorate
