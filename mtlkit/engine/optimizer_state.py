"""The state of an optimizer with the names of its parameters, by which it finds its way back."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mtlkit.engine.optimizer_trial import check_steps

NAMES = "names"
SHOWN = 5  #: the largest number of parameters that a message names


def named_state(optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """Returns the optimizer's state, and the names that the module gives its parameters: one list per group."""
    return {**optimizer.state_dict(), NAMES: _names(optimizer, module)}


def load_named_state(optimizer: Optimizer, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Gives every parameter the state that was saved under its name, whatever its place in the optimizer is now.

    torch goes by the place alone: two tasks that change places in config.yaml would get each other's momentum. A state
    without names, such as one of an earlier version, is loaded by the place.

    Raises:
        ValueError: the state is of other parameters, or of other groups of them, or no step is possible with it.

    >>> import torch
    >>> def made(*names):
    ...     model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in names})
    ...     return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> model, optimizer = made("a", "b")
    >>> (model["a"](torch.ones(1)) + 2 * model["b"](torch.ones(1))).sum().backward()
    >>> optimizer.step()
    >>> swapped, other = made("b", "a")
    >>> load_named_state(other, swapped, named_state(optimizer, model))
    >>> [float(other.state[swapped[name].weight]["momentum_buffer"]) for name in ("a", "b")]
    [1.0, 2.0]
    """
    rest = {key: value for key, value in state.items() if key != NAMES}
    if NAMES in state:
        rest["param_groups"] = _in_place(state["param_groups"], state[NAMES], optimizer, _names(optimizer, module))
    optimizer.load_state_dict(rest)
    check_steps(optimizer, {parameter: name for name, parameter in module.named_parameters()})


def _in_place(
    groups: list[dict[str, Any]], there: list[list[str]], optimizer: Optimizer, here: list[list[str]]
) -> list[dict[str, Any]]:
    """Returns the saved groups in the optimizer's order, each with the numbers of its parameters in that order."""
    saved, own = {n for names in there for n in names}, {n for names in here for n in names}
    if saved != own:
        raise ValueError(
            f"the optimizer's state is of other parameters. Only there: {_some(saved - own)}. Only here: "
            f"{_some(own - saved)}"
        )
    by_names = {frozenset(names): (group, names) for group, names in zip(groups, there, strict=True)}
    found = []
    for own_group, names in zip(optimizer.param_groups, here, strict=True):
        if frozenset(names) not in by_names:
            raise ValueError(
                f"the optimizer's groups were made of other parameters. Its group {own_group.get('name', '')!r} is now "
                f"{_some(names)}"
            )
        group, order = by_names[frozenset(names)]
        number = dict(zip(order, group["params"], strict=True))
        found.append({**group, "params": [number[name] for name in names]})
    return found


def _names(optimizer: Optimizer, module: nn.Module) -> list[list[str]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{', '.join(found[:SHOWN]) or 'none'}{more}"
