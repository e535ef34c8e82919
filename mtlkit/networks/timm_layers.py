"""Which layer of a timm architecture a parameter belongs to, as timm itself groups them."""

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import torch


def layer_numbers(architecture: str, names: Sequence[str], coarse: bool) -> dict[str, int]:
    """Returns the number of each parameter's layer, or with `coarse` of its stage. The stem has the number 0.

    `names` are those of the model with `features_only`, which timm may have changed: `stages.0` became `stages_0`.
    Raises `ValueError` if timm does not group the parameters of this architecture.

    >>> layer_numbers("test_convnext", ["stem_0.weight", "stages_1.blocks.0.norm.weight"], coarse=True)
    {'stem_0.weight': 0, 'stages_1.blocks.0.norm.weight': 1}
    """
    import timm
    from timm.models import group_parameters

    with torch.device("meta"):  # only its names are needed
        whole = timm.create_model(architecture)
    matcher: Any = getattr(whole, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"timm does not group the parameters of {architecture!r} by layer. Take another encoder.")
    roots = {name.partition(".")[0] for name in whole.state_dict()}
    # timm groups the parameters of a module. It only asks for their names, so this stands for the module.
    renamed: Any = SimpleNamespace(named_parameters=lambda: ((_name_in_timm(name, roots), name) for name in names))
    groups = group_parameters(renamed, matcher(coarse=coarse), return_values=True)
    return {name: number for number, group in groups.items() for name in group}


def _name_in_timm(name: str, roots: Collection[str]) -> str:
    """Returns the name in the whole model, whose outermost parts are called `roots`."""
    name = name.removeprefix("model.")  # how timm wraps a ViT
    first, _, rest = name.partition(".")
    for end in (place for place, letter in enumerate(first) if letter == "_" and first not in roots):
        if first[:end] in roots:
            return f"{first[:end]}.{first[end + 1 :]}.{rest}"
    return name
