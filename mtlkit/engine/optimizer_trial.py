"""Whether an optimizer can go on with the state that it was given."""

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def check_steps(optimizer: Optimizer, names: Mapping[Tensor, str]) -> None:
    """Tries a step with the state of each parameter, on copies: torch loads any state, and the next step would fail.

    One parameter is copied at a time, so that this needs little memory. An optimizer that keeps more than torch's own
    attributes cannot be copied so, and parameters that are split over processes cannot be stepped alone: they are not
    tried.

    Args:
        names: of the parameters, for the message.

    Raises:
        ValueError: a step is not possible. It names the parameter.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> optimizer.state[weight]["momentum_buffer"] = torch.zeros(3)
    >>> check_steps(optimizer, {weight: "head.bias"})
    Traceback (most recent call last):
    ValueError: the optimizer's state of head.bias makes no step possible (RuntimeError)
    """
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps it
    pairs = [(group, parameter) for group in inner.param_groups for parameter in group["params"]]
    if any(isinstance(parameter, DTensor) for _, parameter in pairs) or not pairs:
        return
    first, parameter = pairs[0]
    defaults = {**inner.defaults, **{key: first[key] for key in first.keys() - inner.defaults.keys()}}
    if _fails(inner, defaults, parameter, {}):
        return
    for group, parameter in pairs:
        if problem := _fails(inner, group, parameter, inner.state.get(parameter, {})):
            raise ValueError(f"the optimizer's state of {names[parameter]} makes no step possible ({problem})")


def _fails(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, state: dict[str, Any]) -> str:
    """Returns the name of the error of a step of a copy, or nothing."""
    alone = copy.copy(optimizer)
    own = torch.nn.Parameter(torch.zeros_like(parameter))
    own.grad = torch.zeros_like(parameter)
    # A copy also of the group's values: some optimizers count their steps there, in a tensor.
    values = copy.deepcopy({key: value for key, value in group.items() if key != "params"})
    alone.param_groups = [{**values, "params": [own]}]
    alone.state = defaultdict(dict, {own: copy.deepcopy(state)})
    try:
        alone.step()
    except Exception as error:  # noqa: BLE001 (a foreign value may cause any error)
        return type(error).__name__
    return ""
