"""Which parameters belong to which task's head, and whether each loss was made as it should be."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mtlkit.balancer import Balancer
from mtlkit.engine.losses import Losses
from mtlkit.loop.graph import COMPILED, Found, Place, behind, place_of
from mtlkit.network import Features
from mtlkit.registry import suggest

RAW = ""  # stands for the shared features themselves, where the names of tasks stand for their aliases


def checked_heads(heads: Any, tasks: Sequence[str]) -> dict[str, nn.Module] | None:
    """Returns the heads by task. Raises `ValueError` unless there is a module for each task, and for no other name."""
    if heads is None:
        return None
    named = dict(heads.items()) if isinstance(heads, Mapping | nn.ModuleDict) else None
    if named is None or not all(isinstance(head, nn.Module) for head in named.values()):
        raise ValueError("heads must be a mapping from task to torch.nn.Module, or a ModuleDict.")
    for name in [*named, *tasks]:
        if name not in tasks:
            raise ValueError(f"heads has {name!r}, which is no task. {suggest(name, tasks)}")
        if name not in named:
            raise ValueError(f"heads has no module for task {name!r}.")
    return named


def parameters_of_heads(
    losses: Losses,
    aliases: Mapping[str, Features],
    features: Sequence[Tensor],
    heads: Mapping[str, list[nn.Parameter]] | None,
    balancer: Balancer,
    weighs: bool,
) -> dict[str, list[Tensor]]:
    """Returns the trainable parameters of each task's head.

    Args:
        losses: of the tasks in this step.
        aliases: the features that each task was given.
        features: the shared features as they came from the encoder.
        heads: all parameters of each head, if the loop told the heads.
        weighs: whether the heads' gradients will be multiplied by weights.

    Raises:
        ValueError: a loss has no gradient, does not depend on the features of its task, or depends on those of another
            task or on the shared features themselves; the parameters that `weighs` needs cannot be told apart; or a
            method that differentiates the heads twice meets compiled ones.
    """
    stops: dict[Place, str] = {}
    for name, levels in aliases.items():
        stops |= {place_of(level): name for level in levels if level.requires_grad}
    stops |= {place_of(level): RAW for level in features if level.requires_grad}
    found: dict[str, Found] = {}
    for name, (total, count) in losses.items():
        if total.requires_grad:
            found[name] = behind([total], stops)
            _check(name, found[name])
            if "create_graph" in balancer.needs and COMPILED in found[name].hiding:
                raise ValueError(
                    f"{type(balancer).__name__} differentiates the heads twice, which torch.compile does not support. "
                    f"Leave the head and the loss of task {name!r} uncompiled. In the space 'features', the encoder "
                    f"may stay compiled."
                )
        elif bool(count > 0):
            raise ValueError(
                f"The loss of task {name!r} has no gradient, so nothing would be learned. Leave out detach(), item() "
                f"and torch.no_grad(), or leave out the task."
            )
    if heads is not None:
        given: dict[str, list[Tensor]] = {}
        for name, head in heads.items():
            given[name] = [p for p in head if p.requires_grad]
        _check_apart(given, weighs, opaque=False)
        return given
    own = {id(parameter) for parameter in balancer.parameters()}
    parameters: dict[str, list[Tensor]] = {name: [] for name in aliases}
    for name, one in found.items():
        parameters[name] = [leaf for key, leaf in one.leaves.items() if key not in own]
    _check_apart(parameters, weighs, any(one.hiding for one in found.values()))
    return parameters


def _check(name: str, found: Found) -> None:
    mine = f"balanced(...)[{name!r}]"
    if RAW in found.stops:
        raise ValueError(
            f"The loss of task {name!r} uses the shared features themselves. Its gradient would reach the encoder past "
            f"the balancer. Give the head {mine}."
        )
    others = sorted(found.stops - {name, RAW})
    if others and not found.hiding:  # what is compiled together cannot be told apart
        raise ValueError(
            f"The loss of task {name!r} uses balanced(...)[{others[0]!r}], the features of another task. Give each "
            f"head its own."
        )
    if name not in found.stops:
        raise ValueError(
            f"The loss of task {name!r} does not depend on {mine} of the last forward pass. Compute it from these "
            f"features, without detach()."
        )


def _check_apart(parameters: Mapping[str, list[Tensor]], weighs: bool, opaque: bool) -> None:
    owner: dict[int, str] = {}
    for b, own in parameters.items():
        others = [owner.setdefault(id(p), b) for p in own]
        a = next((other for other in others if other != b), None)
        if a is None:
            continue
        if weighs and opaque:
            raise ValueError(
                f"This method gives each head its own weight, but the heads of {a!r} and {b!r} are compiled together. "
                f"Pass heads={{...}} to mtlkit.Balanced, with the module of each task, or compile each head by itself."
            )
        if opaque:
            return
        shapes = [str(tuple(p.shape)) for p, other in zip(own, others, strict=True) if other == a]
        what = (
            f"The losses of {a!r} and {b!r} share {len(shapes)} parameters behind the features (shapes "
            f"{', '.join(shapes[:3])})"
        )
        if weighs:
            raise ValueError(
                f"{what}, so these have no weight of their own. Put them into the encoder, or pass "
                f"decoder_gradients='plain' to mtlkit.Balanced."
            )
        warnings.warn(f"{what}. No balancer sees them: their gradients are added up.", stacklevel=4)
        return


def check_arrived(parameters: list[Tensor]) -> None:
    """Raises `ValueError` if no gradient of the heads is where the loop could see it."""
    if parameters and all(parameter.grad is None for parameter in parameters):
        raise ValueError(
            "This method gives each head its own weight, but the backward pass left no gradient in the heads' "
            "parameters. A wrapper such as FSDP or DeepSpeed keeps them to itself. Pass heads={...} with the wrapped "
            "modules and let it sum the gradients in every micro-batch, or pass decoder_gradients='plain'."
        )
