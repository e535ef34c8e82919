"""What plug-ins hand back, checked where it arrives: a mistake of an author's is named, with what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from mtlkit.balancer import Balancer
    from mtlkit.task import Features

T = TypeVar("T")


def check_hooks(cls: type, contract: Sequence[type]) -> None:
    """Raises `ValueError` for a public name of a class that almost is one of its contract: nobody would ever call it.

    >>> class Contract:
    ...     def after_step(self): ...
    >>> class Mine(Contract):
    ...     def after_setp(self): ...
    >>> check_hooks(Mine, [Contract])
    Traceback (most recent call last):
    ValueError: Mine.after_setp: nothing calls that name. Did you mean 'after_step'? Or choose another name.
    """
    words = {name for base in contract for name in [*vars(base), *vars(base).get("__annotations__", {})]}
    words = {name for name in words if not name.startswith("_")}
    for name in vars(cls):
        own = not name.startswith("_") and name not in words and not hasattr(super(cls, cls), name)
        if own and (close := difflib.get_close_matches(name, words, n=1, cutoff=0.8)):
            raise ValueError(
                f"{cls.__name__}.{name}: nothing calls that name. Did you mean {close[0]!r}? Or choose another name."
            )


def check_objective(balancer: Balancer, objective: Any, losses: Tensor) -> Tensor:
    """The objective; raises `ValueError` for anything but one number with a gradient."""
    what = f"{type(balancer).__name__}.objective must return one number made of `step.losses`"
    if not isinstance(objective, Tensor) or objective.shape != ():
        raise ValueError(f"{what}, a tensor of shape (), got {described(objective)}. Sum over the tasks: .sum().")
    if losses.requires_grad and not objective.requires_grad:
        raise ValueError(f"{what}. This one has no gradient: `step.losses` may not be detached in it.")
    return objective


def check_weights(balancer: Balancer, weights: Any, like: Tensor, tasks: Sequence[str], method: str) -> Tensor:
    """The weights; raises `ValueError` for anything but a tensor (k,) of floats where `like` is."""
    what = f"{type(balancer).__name__}.{method} must give a weight for each of {', '.join(tasks)}: a tensor"
    if not isinstance(weights, Tensor):
        raise ValueError(f"{what} ({len(tasks)},), got {described(weights)}. Write torch.tensor([...]) or torch.stack.")
    if weights.shape != (len(tasks),):
        raise ValueError(f"{what} ({len(tasks)},), got the shape {tuple(weights.shape)}.")
    if not weights.is_floating_point():
        raise ValueError(f"{what} of floating-point numbers, got {weights.dtype}. Write weights.to(gram).")
    if weights.device != like.device:
        raise ValueError(f"{what} on {like.device}, got one on {weights.device}. Write weights.to(gram).")
    return weights


def check_gradient(balancer: Balancer, gradient: Any, like: Sequence[Tensor]) -> Features:
    """The gradient that a balancer gives itself; raises `ValueError` for anything but tensors of those shapes."""
    what = f"{type(balancer).__name__}.combine must return the weights (k,) or a list of gradients"
    _check_list(what, gradient, like, scalars=True)
    return list(gradient)


def check_adapted(balancer: Balancer, task: str, adapted: Any, features: Features) -> Features:
    """A task's features; raises `ValueError` for anything but a list with a tensor of the same shape a level."""
    _check_list(f"{type(balancer).__name__}.adapter of task {task!r} must return a list of levels", adapted, features)
    return list(adapted)


def _check_list(what: str, found: Any, like: Sequence[Tensor], *, scalars: bool = False) -> None:
    expected = ", ".join(str(tuple(level.shape)) for level in like)
    if not isinstance(found, tuple | list) or not all(isinstance(level, Tensor) for level in found):
        raise ValueError(f"{what}, one tensor for each of {expected}, got {described(found)}.")
    shapes = [tuple(level.shape) for level in found]
    if len(found) != len(like) or any(
        shape != tuple(level.shape) and not (scalars and shape == ()) for shape, level in zip(shapes, like, strict=True)
    ):
        raise ValueError(f"{what}, of the shapes {expected}, got {', '.join(map(str, shapes)) or 'none'}.")


def check_declared(balancer: Balancer, name: str, *needs: str) -> None:
    """Raises `ValueError` for what a step knows only where the balancer declares one of these needs."""
    if not balancer.needs.intersection(needs):
        words = " or ".join(f"needs = frozenset({{{need!r}}})" for need in needs)
        raise ValueError(f"{type(balancer).__name__} reads `step.{name}` without declaring the need. Write {words}.")


def check_space(balancer: Balancer, name: str, space: str) -> None:
    """Raises `ValueError` for what a step knows in another space only."""
    if balancer.space != space:
        raise ValueError(
            f"{type(balancer).__name__} reads `step.{name}`, which there is in the space {space!r} only, and works in "
            f"{balancer.space!r}. Write spaces = ({space!r},) and pass space={space!r} to the constructor."
        )


def known(value: T | None, name: str, where: str) -> T:
    """The value; raises `ValueError` for what a step does not know at this time."""
    if value is None or (isinstance(value, list) and not value):
        raise ValueError(f"`step.{name}` is not known here. Read it in {where}, and keep what you need later.")
    return value


def no_double_backward(balancer: Balancer, error: RuntimeError) -> ValueError:
    return ValueError(
        f"{type(balancer).__name__} needs a double backward that a layer of this model does not have ({error}). Choose "
        f"another encoder or decoder, or another balancer."
    )


def described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(v).__name__ for v in value[:3])})"
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"
