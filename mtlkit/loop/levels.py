"""Shared features as a loop has them: a tensor, or a list, a tuple or a dictionary of tensors, one per level."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mtlkit.contract import described

Rebuild = Callable[[Sequence[Tensor]], Any]

FORMS = (
    "Pass a tensor, or a list or a dictionary of tensors, one per level: vectors (B, C), maps (B, C, H, W), or tokens "
    "(B, N, C) with the channels last"
)


def to_levels(features: Any) -> tuple[dict[Any, Tensor], Rebuild]:
    """Returns the levels by name or number, channels second, and a function that gives such levels the form they had.

    Raises `ValueError` unless each level is a floating-point tensor of two or more dimensions, all on one device.

    >>> import torch
    >>> levels, rebuild = to_levels({"tokens": torch.rand(2, 5, 3), "map": torch.rand(2, 8, 4, 4)})
    >>> [tuple(level.shape) for level in levels.values()]
    [(2, 3, 5), (2, 8, 4, 4)]
    >>> {name: tuple(level.shape) for name, level in rebuild([*levels.values()]).items()}
    {'tokens': (2, 5, 3), 'map': (2, 8, 4, 4)}
    """
    if isinstance(features, Tensor):
        named: dict[Any, Any] = {"": features}
    elif isinstance(features, Mapping):
        named = dict(features)
    elif isinstance(features, list | tuple):
        named = dict(enumerate(features))
    else:
        raise ValueError(f"The shared features are {described(features)}. {FORMS}.")
    if not named:
        raise ValueError(f"The shared features have no level. {FORMS}.")
    for key, level in named.items():
        _check_level(key, level)
    devices = {str(level.device) for level in named.values()}
    if len(devices) > 1:
        raise ValueError(f"The levels of the shared features are on {', '.join(sorted(devices))}. Move them to one.")

    def rebuild(levels: Sequence[Tensor]) -> Any:
        back = [_channels(level) for level in levels]
        if isinstance(features, Tensor):
            return back[0]
        return dict(zip(named, back, strict=True)) if isinstance(features, Mapping) else list(back)

    return {name: _channels(level) for name, level in named.items()}, rebuild


def _channels(level: Tensor) -> Tensor:
    """Turns tokens (B, N, C) into (B, C, N), and back. Other levels have their channels second already."""
    return level.transpose(1, 2) if level.dim() == 3 else level


def _check_level(key: Any, level: Any) -> None:
    what = "The shared features are" if key == "" else f"Level {key!r} of the shared features is"
    if not isinstance(level, Tensor) or level.dim() < 2:
        raise ValueError(f"{what} {described(level)}. {FORMS}.")
    if not level.is_floating_point():
        raise ValueError(f"{what} a tensor of {level.dtype}. Features must be floating-point numbers.")


def check_channels(told: Mapping[Any, int], levels: Mapping[Any, Tensor]) -> None:
    """Raises `ValueError` unless the levels have the channels that the method was set up for."""
    found = {name: level.shape[1] for name, level in levels.items()}
    # Names are compared where both have them: levels may be told as a list, and handed over in a dictionary.
    if dict(told) != found and (told.keys() == found.keys() or [*told.values()] != [*found.values()]):
        raise ValueError(
            f"The shared features have the channels {_named(found)}, but the method was set up for {_named(told)}. "
            f"They must stay the same. Pass features= to mtlkit.Balanced, with the number of channels of each level. "
            f"Tokens (B, N, C) have them last."
        )


def _named(channels: Mapping[Any, int]) -> str:
    by_name = any(isinstance(key, str) and key for key in channels)
    return ", ".join(f"{key}: {number}" if by_name else str(number) for key, number in channels.items())
