"""The common part of the three kits: the choice of promises, and the name of a broken promise."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from mtlkit.registry import suggest

T = TypeVar("T")
Promise = Callable[[T], None]


def chosen(promises: Sequence[Promise[T]], only: Sequence[str]) -> list[Promise[T]]:
    """Returns the promises named in `only` (empty: all of them). Raises `ValueError` for an unknown name."""
    if isinstance(only, str):
        raise ValueError(f"`only` is a list of promises, such as ({only!r},), got {only!r}.")
    known = {promise.__name__: promise for promise in promises}
    for name in only:
        if name not in known:
            raise ValueError(f"There is no promise {name!r}. {suggest(str(name), known)}")
    return [promise for name, promise in known.items() if not only or name in only]


def keep(name: str, promises: Sequence[Promise[T]], subject: T, where: str = "") -> None:
    """Checks the promises on their subject. Raises `AssertionError` with the name of the first broken promise."""
    for promise in promises:
        try:
            promise(subject)
        except Exception as error:
            reason = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{name} breaks the promise {promise.__name__!r}{where}: {reason}") from error


def difference(one: Tensor, two: Tensor) -> float:
    """Returns the largest difference between two tensors. NaN equals NaN, and different shapes give infinity.

    >>> difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.5, torch.nan]))
    0.5
    """
    if one.shape != two.shape:
        return float("inf")
    one, two = one.double(), two.double()
    same = (one == two) | (one.isnan() & two.isnan())
    return float(torch.where(same, 0, (one - two).abs()).nan_to_num(torch.inf).max()) if one.numel() else 0.0


def assert_close(one: Tensor, two: Tensor, what: str, tolerance: float = 0.0) -> None:
    """Raises `AssertionError` with the largest difference if it is above `tolerance`, relative to numbers above 1."""
    found = difference(one, two)
    size = max(1.0, float(one.double().abs().nan_to_num(0, 0, 0).max())) if one.numel() else 1.0
    assert found <= tolerance * size, f"{what}: the largest difference is {found:.1e}"
