"""Matrices that act on the channels of one level, for balancers that give each decoder its own view of the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

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


def rows_of(encoder: EncoderInfo, level: int, samples: int, flatten: bool = False) -> int:
    """Returns n: the samples, or all their positions at a level. The size of the images must be known for a map.

    >>> rows_of(EncoderInfo((8,), (4,), image=(32, 24)), level=0, samples=2)
    96
    """
    return (
        samples if flatten else samples * (encoder.numbers(level) or encoder.channels[level]) // encoder.channels[level]
    )


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


def columns(level: Tensor, d: int, flatten: bool = False) -> Tensor:
    """Returns (d, n): the first d channels of a level, with one column per sample and position.

    With `flatten`: the first d numbers of the flattened samples, with one column per sample.
    """
    return (level.flatten(1) if flatten else level)[:, :d].transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Arrived:
    """The gradients of all tasks at the first d channels of a level, from the backward pass of `transform_all`.

    Attributes:
        columns: (K, d, n), with one column per sample and position. The tasks are in the order of their sorted names.
        copies: how many equal columns each one stands for. A decoder that averages over the positions gives the same
            gradient to all of them. If all decoders do so, there is one column per sample.
    """

    columns: Tensor
    copies: int


def transform_all(
    features: Mapping[str, Features],
    level: int,
    matrices: Tensor,
    offsets: Tensor | None = None,
    *,
    flatten: bool = False,
    receive: Callable[[Arrived], None] | None = None,
) -> dict[str, Features]:
    """Does for all tasks what `transform` does for one: A_k z + b_k in place of z, by one matrix product.

    All tasks must have the same features (see `Balancer.adapters`). The matrices (K, d, d) and offsets (K, d) are in
    the order of the sorted names. They get no gradient. The backward pass is one product, too, and hands the gradients
    at the features to `receive`.
    """
    names = sorted(features)
    levels = [features[name][level] for name in names]
    if torch.is_grad_enabled() and any(z.requires_grad for z in levels):
        found = Adapters.apply(flatten, receive, *levels, matrices, offsets)
    else:
        found = _transformed(levels[0], matrices, offsets, flatten).unbind()
    adapted = {name: list(own) for name, own in features.items()}
    for name, z in zip(names, found, strict=True):
        adapted[name][level] = z
    return adapted


class Adapters(Function):
    """Computes what `transform_all` says. Each output comes from the input in the same place (`mtlkit.loop.graph`)."""

    @staticmethod
    def forward(ctx: Any, flatten: bool, receive: Callable[[Arrived], None] | None, *given: Any) -> tuple[Tensor, ...]:
        *levels, matrices, offsets = given
        ctx.set_materialize_grads(False)  # None says that no decoder used a task's features
        ctx.save_for_backward(matrices)
        ctx.flatten, ctx.receive = flatten, receive
        return _transformed(levels[0], matrices, offsets, flatten).unbind()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (matrices,) = ctx.saved_tensors
        like = next((g for g in gradients if g is not None), None)
        if like is None:
            return None, None, *gradients, None, None
        # A gradient that is the same at all positions has one number of memory for all of them.
        copies = 1 if ctx.flatten else like[0, 0].numel()
        if copies > 1 and all(g is None or _is_constant(g) for g in gradients):
            found = [None if g is None else g.flatten(2)[..., 0] for g in gradients]
        else:
            copies, found = 1, list(gradients)
        zeros = like.new_zeros(like.shape if copies == 1 else like.shape[:2])
        stacked = torch.stack([zeros if g is None else g for g in found])  # (K, B, C, ...)
        whole = stacked.flatten(2) if ctx.flatten else stacked
        d = matrices.shape[1]
        arrived = matrices.to(like.dtype).mT @ whole[:, :, :d].transpose(1, 2).flatten(2)
        if ctx.receive is not None:
            ctx.receive(Arrived(at_least_float32(arrived.detach()), copies))
        result = _put(arrived, whole).view(stacked.shape)
        if copies > 1:
            result = result.view(*stacked.shape, *[1] * (like.ndim - 2)).expand(len(stacked), *like.shape)
        rows = zip(gradients, result.unbind(), strict=True)
        return None, None, *(None if g is None else row for g, row in rows), None, None


def _is_constant(gradient: Tensor) -> bool:
    pairs = zip(gradient.shape[2:], gradient.stride()[2:], strict=True)
    return all(stride == 0 or size == 1 for size, stride in pairs)


def _transformed(level: Tensor, matrices: Tensor, offsets: Tensor | None, flatten: bool) -> Tensor:
    """Returns (K, B, C, ...): the level as each task gets it."""
    k, d, _ = matrices.shape
    z = level.flatten(1) if flatten else level
    mapped = (matrices.to(z.dtype).flatten(0, 1) @ columns(z, d)).view(k, d, -1)
    if offsets is not None:
        mapped = mapped + offsets.to(z.dtype)[:, :, None]
    return _put(mapped, z.expand(k, *z.shape)).view(k, *level.shape)


def _put(mapped: Tensor, whole: Tensor) -> Tensor:
    """Returns (K, B, C, ...) with `mapped` (K, d, n) in place of the first d channels."""
    k, d, _ = mapped.shape
    first = mapped.view(k, d, whole.shape[1], *whole.shape[3:]).transpose(1, 2)
    return first if d == whole.shape[2] else torch.cat([first, whole[:, :, d:]], dim=2)


def arrived_apart(step: Step, level: int, d: int, names: Sequence[str], flatten: bool = False) -> Arrived:
    """Returns the same where each task's `adapter` was called alone, from the gradients that the step has."""
    nothing = torch.zeros_like(step.local_features[level])
    found = {task: row[level] for task, row in zip(step.tasks, step.local_gradients, strict=True)}
    rows = [nothing if found.get(name) is None else found[name] for name in names]
    stacked = torch.stack([columns(at_least_float32(row), d, flatten) for row in rows if row is not None])
    return Arrived(stacked * (step.seed.to(stacked) * step.samples.size), 1)


def unit_gradients(step: Step, arrived: Arrived, names: Sequence[str]) -> tuple[Tensor, int]:
    """Returns G_k / |G_k| (K, d, n) for all tasks in the order of the sorted `names`, zeros for absent ones.

    |G_k| is the length over all processes and levels, from `step.norms`. The columns are those of this process. The
    second result is the number of columns of all processes.
    """
    gradients, copies = arrived.columns, arrived.copies
    if copies > 1 and step.samples.size > 1:  # on other processes, they may not be equal
        gradients, copies = gradients.repeat_interleave(copies, dim=2), 1
    inverses = inverse(step.norms)
    factors = torch.zeros(len(names)).to(inverses)
    factors[[names.index(task) for task in step.tasks]] = inverses
    # Gradients arrive larger by the factor that the backward pass started with; see `Space.unit`.
    scale = copies**0.5 / step.samples.size / step.seed.to(gradients)
    return gradients * (factors.to(gradients) * scale)[:, None, None], gradients.shape[2] * step.samples.size


def gathered(step: Step, local: Tensor) -> Tensor:
    """Returns (..., n) with the columns of all processes."""
    return local if step.samples.size == 1 else step.gather(local.movedim(-1, 0)).movedim(0, -1)
