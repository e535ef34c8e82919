"""The state of a method in a loop: where it is, and how it is saved."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Adam

from mtlkit.balancer import Balancer

BALANCER, OPTIMIZER, NUMBER = "balancer.", "optimizer.", "number"


def move(balancer: Balancer, optimizer: Adam | None, device: torch.device, dtype: torch.dtype) -> None:
    """Moves the method and its optimizer's averages to the device. Their numbers become `dtype`."""
    with torch.inference_mode(False):  # an evaluation may come first, and what it made there could not be trained
        balancer.to(device, dtype)
        for parameter, values in optimizer.state.items() if optimizer else ():
            for key, value in values.items():
                if key != "step":  # Adam keeps its count on the CPU
                    values[key] = value.to(parameter.device, dtype)


def moved_by(
    fn: Callable[[Tensor], Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[torch.device, torch.dtype]:
    """Returns the device and the type to which a call such as `module.to(...)` or `module.half()` moves a module.

    The type is float32 or float64: a rotation or an average in half precision would lose what it learned.
    """
    probe = fn(torch.zeros((), device=device, dtype=dtype))
    return probe.device, torch.float64 if probe.dtype == torch.float64 else torch.float32


def collected(balancer: Balancer, optimizer: Adam | None, number: int) -> dict[str, Tensor]:
    """Returns all that a resumed loop needs, as tensors by name."""
    found = {BALANCER + name: value for name, value in balancer.state_dict().items()}
    for name, parameter in balancer.named_parameters():
        for key, value in (optimizer.state.get(parameter, {}) if optimizer else {}).items():
            found[f"{OPTIMIZER}{name}.{key}"] = value
    return found | {NUMBER: torch.tensor(number)}


def restore(
    balancer: Balancer,
    optimizer: Adam | None,
    state: Mapping[str, Tensor],
    prefix: str,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> int | None:
    """Loads what `collected` returned, from below the prefix. Returns the number of steps, None if it is missing.

    The lists get the names that are missing, the ones that do not belong here, and other problems.
    """
    saved = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    own = {name.removeprefix(BALANCER): value for name, value in saved.items() if name.startswith(BALANCER)}
    try:
        result = balancer.load_state_dict(own, strict=False)
        missing += [prefix + BALANCER + name for name in result.missing_keys]
        unexpected += [prefix + BALANCER + name for name in result.unexpected_keys]
    except RuntimeError as error:
        errors.append(str(error))
    parameters = dict(balancer.named_parameters()) if optimizer else {}
    if optimizer:
        optimizer.state.clear()
    for name, value in saved.items():
        if name.startswith(OPTIMIZER):
            parameter, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
            if optimizer is None or parameter not in parameters:
                unexpected.append(prefix + name)
                continue
            like = parameters[parameter]
            value = value.clone() if key == "step" else value.to(like.device, like.dtype, copy=True)
            optimizer.state[like][key] = value
        elif name != NUMBER and not name.startswith(BALANCER):
            unexpected.append(prefix + name)
    if NUMBER not in saved:
        missing.append(prefix + NUMBER)
        return None
    return int(saved[NUMBER])
