"""Matrices that act on the channels of one level, for balancers that give each decoder its own view of the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.gradients import at_least_float32, inverse
from mtlkit.network import EncoderInfo, Features

if TYPE_CHECKING:
    from mtlkit.step import Step


def width(encoder: EncoderInfo, level: int, dim: int | None = None, flatten: bool = False) -> int:
    """Returns the number of channels that `balancer.level` and `balancer.dim` (None: all) select.

    With `flatten`, `dim` counts the numbers of a flattened sample (C x H x W) in place of the channels.

    >>> width(EncoderInfo(channels=(8, 32), strides=(4, 8)), level=-1)
    32

    Raises:
        ValueError: the encoder has no such level, the level has fewer channels (or numbers), there are fewer than two,
            or a map is flattened without `dim`.
    """
    if not -len(encoder.channels) <= level < len(encoder.channels):
        raise ValueError(f"balancer.level is {level}, but the encoder shares {len(encoder.channels)} levels.")
    channels = encoder.channels[level]
    most, what = channels, "the level's channels"
    if flatten and encoder.strides[level]:
        if dim is None:
            raise ValueError(
                "balancer.flatten needs balancer.dim: a matrix for all numbers of a map would be too large. Set it to "
                "as many as to rotate, such as 1024, or leave out balancer.flatten."
            )
        most, what = encoder.numbers(level) or dim, "the numbers of a sample at this level (channels x height x width)"
    if dim is not None and not 2 <= dim <= most:
        raise ValueError(f"balancer.dim must be from 2 to {most}, {what}; got {dim}.")
    return channels if dim is None else dim


def transform(
    features: Features, level: int, matrix: Tensor, offset: Tensor | None = None, flatten: bool = False
) -> Features:
    """Returns the features with A z + b instead of the first d channels z of a level, at every position.

    With `flatten`, z is the first d numbers of the flattened sample.
    """
    z, d = features[level].flatten(1) if flatten else features[level], len(matrix)
    mapped = torch.einsum("ij,bj...->bi...", matrix.to(z.dtype), z[:, :d])
    if offset is not None:
        mapped = mapped + offset.to(z.dtype).view(-1, *[1] * (z.ndim - 2))
    adapted = list(features)
    whole = mapped if d == z.shape[1] else torch.cat([mapped, z[:, d:]], dim=1)
    adapted[level] = whole.reshape(features[level].shape)
    return adapted


def vectors(level: Tensor, d: int, flatten: bool = False) -> Tensor:
    """Returns (n, d): the first d channels of a level, with one row per sample and position.

    With `flatten`: the first d numbers of the flattened samples, with one row per sample.
    """
    level = at_least_float32(level)
    return level.flatten(1)[:, :d] if flatten else level[:, :d].movedim(1, -1).reshape(-1, d)


def unit_gradients(step: Step, level: int, d: int, flatten: bool = False) -> Tensor:
    """Returns (n, k, d): this process's gradients at the first d channels, divided by the tasks' `step.norms`."""
    nothing = torch.zeros_like(step.local_features[level])
    gradients = [row[level] for row in step.local_gradients]
    stacked = torch.stack([vectors(nothing if g is None else g, d, flatten) for g in gradients], dim=1)
    return stacked * inverse(step.norms).to(stacked)[:, None]
