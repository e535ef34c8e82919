"""Matrices that act on the channels of one level, for balancers that give each decoder its own view of the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlkit.gradients import at_least_float32, inverse
from mtlkit.network import EncoderInfo, Features

if TYPE_CHECKING:
    from mtlkit.step import Step


def width(encoder: EncoderInfo, level: int, dim: int | None = None) -> int:
    """Returns the number of channels that `balancer.level` and `balancer.dim` (None: all) select.

    >>> width(EncoderInfo(channels=(8, 32), strides=(4, 8)), level=-1)
    32

    Raises:
        ValueError: the encoder has no such level, or the level has fewer channels, or there are fewer than two.
    """
    if not -len(encoder.channels) <= level < len(encoder.channels):
        raise ValueError(f"balancer.level is {level}, but the encoder shares {len(encoder.channels)} levels.")
    channels = encoder.channels[level]
    if dim is not None and not 2 <= dim <= channels:
        raise ValueError(f"balancer.dim must be from 2 to {channels}, the level's channels; got {dim}.")
    return channels if dim is None else dim


def transform(features: Features, level: int, matrix: Tensor, offset: Tensor | None = None) -> Features:
    """Returns the features with A z + b instead of the first d channels z of a level, at every position."""
    z, d = features[level], len(matrix)
    mapped = torch.einsum("ij,bj...->bi...", matrix.to(z.dtype), z[:, :d])
    if offset is not None:
        mapped = mapped + offset.to(z.dtype).view(-1, *[1] * (z.ndim - 2))
    adapted = list(features)
    adapted[level] = mapped if d == z.shape[1] else torch.cat([mapped, z[:, d:]], dim=1)
    return adapted


def vectors(level: Tensor, d: int) -> Tensor:
    """Returns (n, d): the first d channels of a level, with one row per sample and position."""
    return at_least_float32(level)[:, :d].movedim(1, -1).reshape(-1, d)


def unit_gradients(step: Step, level: int, d: int) -> Tensor:
    """Returns (n, k, d): this process's gradients at a level's first d channels, divided by the tasks' `step.norms`."""
    nothing = torch.zeros_like(step.local_features[level])
    gradients = [row[level] for row in step.local_gradients]
    stacked = torch.stack([vectors(nothing if g is None else g, d) for g in gradients], dim=1)
    return stacked * inverse(step.norms).to(stacked.dtype)[:, None]
