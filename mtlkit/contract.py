"""Checks what plug-ins return, where it arrives. A message names the mistake and says what to write instead."""

import difflib
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Declares(Protocol):
    """What the checks below read of a balancer."""

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def space(self) -> str: ...


def check_hooks(cls: type, contract: Sequence[type]) -> None:
    """Raises `ValueError` for a public name of a class that is almost one of its contract: nothing would ever call it.

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


def check_objective(balancer: object, objective: Any, losses: Tensor) -> Tensor:
    """Returns the objective. Raises `ValueError` unless it is one number with a gradient."""
    what = f"{type(balancer).__name__}.objective must return one number made of `step.losses`"
    if not isinstance(objective, Tensor) or objective.shape != ():
        raise ValueError(f"{what}, a tensor of shape (), got {described(objective)}. Sum over the tasks: .sum().")
    if losses.requires_grad and not objective.requires_grad:
        raise ValueError(f"{what}. This one has no gradient: `step.losses` may not be detached in it.")
    return objective


def check_weights(balancer: object, weights: Any, like: Tensor, tasks: Sequence[str], method: str) -> Tensor:
    """Returns the weights of a balancer's `method`. Raises `ValueError` unless they are floats (k,) as `like` is."""
    what = f"{type(balancer).__name__}.{method} must give a weight for each of {', '.join(tasks)}: a tensor"
    if not isinstance(weights, Tensor):
        raise ValueError(f"{what} ({len(tasks)},), got {described(weights)}. Write torch.tensor([...]) or torch.stack.")
    if weights.shape != (len(tasks),):
        raise ValueError(f"{what} ({len(tasks)},), got the shape {tuple(weights.shape)}.")
    if not weights.is_floating_point():
        raise ValueError(f"{what} of floating-point numbers, got {weights.dtype}. Write weights.to(losses).")
    return weights.to(like.device)  # the host: a method that makes them on the device waits for it here


def check_gradient(balancer: object, gradient: Any, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradient that a balancer computed itself. Raises `ValueError` unless it has the shapes of `like`."""
    what = f"{type(balancer).__name__}.combine must return the weights (k,) or a list of gradients"
    _check_list(what, gradient, like, scalars=True)
    return list(gradient)


def check_adapted(balancer: object, task: str, adapted: Any, features: Sequence[Tensor]) -> list[Tensor]:
    """Returns a task's features. Raises `ValueError` unless they are a list with one tensor of its shape per level."""
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


def check_declared(balancer: Declares, name: str, *needs: str) -> None:
    """Raises `ValueError` unless the balancer declares one of the needs for a value of the step."""
    if not balancer.needs.intersection(needs):
        words = " or ".join(f"needs = frozenset({{{need!r}}})" for need in needs)
        raise ValueError(f"{type(balancer).__name__} reads `step.{name}` without declaring the need. Write {words}.")


def check_space(balancer: Declares, name: str, space: str) -> None:
    """Raises `ValueError` if the step has a value only in another space than the balancer's."""
    if balancer.space != space:
        raise ValueError(
            f"{type(balancer).__name__} reads `step.{name}`, which exists only in the space {space!r}, but it works in "
            f"{balancer.space!r}. Write spaces = ({space!r},) and pass space={space!r} to the constructor."
        )


def known(value: T | None, name: str, where: str) -> T:
    """Returns the value. Raises `ValueError` if the step does not have it at this time."""
    if value is None or (isinstance(value, list) and not value):
        raise ValueError(f"`step.{name}` is not known here. Read it in {where}, and keep what you need later.")
    return value


def no_double_backward(balancer: object, error: RuntimeError) -> ValueError:
    """Returns the error for a model that cannot be differentiated twice, although the balancer needs it."""
    return ValueError(
        f"{type(balancer).__name__} needs a double backward that a layer of this model does not have ({error}). Choose "
        f"another encoder or decoder, or another balancer."
    )


def described(value: Any) -> str:
    """Returns words for a value that was found, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(v).__name__ for v in value[:3])})"
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"
