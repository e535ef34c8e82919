"""Checks of option values, each with one message for all classes that use it."""

from collections.abc import Collection, Iterable
from numbers import Integral, Real

from mtlkit.registry import suggest


def check_number(key: str, value: object, interval: str) -> None:
    """Raises `ValueError` unless the value is a number in an interval such as `[0, 1)`. NaN is in none.

    >>> check_number("balancer.beta", 0.0, "[0, 1)")
    >>> check_number("balancer.beta", 1.0, "[0, 1)")
    Traceback (most recent call last):
    ValueError: balancer.beta must be a number in [0, 1), got 1.0.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    inside = isinstance(value, Real) and low <= float(value) <= high
    if not inside or (value == low and interval[0] == "(") or (value == high and interval[-1] == ")"):
        raise ValueError(f"{key} must be a number in {interval}, got {value}.")


def check_whole_number(key: str, value: object, least: int) -> None:
    """Raises `ValueError` unless the value is a whole number and at least `least`."""
    if not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{key} must be a whole number >= {least}, got {value}.")


def check_choice(key: str, value: object, choices: Collection[str]) -> None:
    """Raises `ValueError` unless the value is one of the choices; the message has the closest ones."""
    if value not in choices:
        raise ValueError(f"{key} cannot be {value!r}. {suggest(str(value), choices)}")


def check_task_names(key: str, names: Iterable[str], tasks: Collection[str]) -> None:
    """Raises `ValueError` for the first name that is not a task's."""
    for name in names:
        if name not in tasks:
            raise ValueError(f"{key} names the task {name!r}. {suggest(str(name), tasks)}")
