"""Arithmetic on the gradients of K tasks: derivatives, inner products and weighted sums, for numbers of any size."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Row = list[Tensor | None]  # a task's gradient at the features, one tensor per level; None where it does not reach
BLOCK = 2**18  # so many numbers of a row are handled at a time


def gradients_of(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a scalar, themselves differentiable; zeros for an input that it does not depend on."""
    found = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def pull_back(
    levels: Sequence[Tensor], row: Row, inputs: Sequence[Tensor], *, retain_graph: bool = True
) -> list[Tensor]:
    """A task's gradient at the features carried back to `inputs`, flattened; zeros where it does not reach."""
    used = [i for i, g in enumerate(row) if g is not None]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if used:
        outputs, cotangents = [levels[i] for i in used], [row[i] for i in used]
        with torch.enable_grad():
            found = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=retain_graph, allow_unused=True)
    return [
        at_least_float32(torch.zeros_like(x) if g is None else g).flatten() for g, x in zip(found, inputs, strict=True)
    ]


def gram_of(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """(k, k) float64: the inner products of k gradients, each of which comes in several parts (None: zero)."""
    total: Tensor | float = 0.0
    for part in zip(*rows, strict=True):
        example = next((g for g in part if g is not None), None)
        if example is not None:
            zeros = example.new_zeros(1).expand(example.numel())
            total = total + inner_products([zeros if g is None else g.reshape(-1) for g in part])
    assert isinstance(total, Tensor), "no decoder uses the shared features"
    return total


def inner_products(rows: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> Tensor:
    """(k, l) float64: <rows_i, others_j> of vectors of one length; `others` are the rows themselves where left out.

    Float32 holds numbers from 1e-38 to 1e38, but not their squares. So every row is first divided by the power of two
    next to its largest entry, which rounds nothing that counts, and the products are taken back to scale in float64.
    Goes block by block, so that no copy of everything is made, and waits for no device.

    >>> rows = [torch.tensor([0.0, 2.0**-99]), torch.tensor([1.0, 2.0**99])]
    >>> inner_products(rows).tolist() == [[2.0**-198, 1.0], [1.0, 2.0**198]]
    True
    """
    total: Tensor | float = 0.0
    for start in range(0, max(rows[0].numel(), 1), BLOCK):
        left, left_size = _of_size_one([row[start : start + BLOCK] for row in rows])
        right, right_size = left, left_size
        if others is not None:
            right, right_size = _of_size_one([row[start : start + BLOCK] for row in others])
        total = total + (left @ right.T).double() * left_size[:, None] * right_size
    assert isinstance(total, Tensor)
    return total


def _of_size_one(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The rows (k, n), divided by powers of two so that the largest entry is about 1; and those powers (k,)."""
    stacked = torch.stack([at_least_float32(row) for row in rows])
    if not stacked.numel():
        return stacked, stacked.new_ones(len(rows), dtype=torch.float64)
    largest = torch.linalg.vector_norm(stacked.detach(), torch.inf, dim=1).double()
    size = torch.exp2(largest.log2().floor().clamp(-126, 126))  # whose inverse float32 can express as well
    return stacked.mul_((1 / size).to(stacked.dtype)[:, None]), size


def weighted_sum(gradients: Iterable[Tensor | None], weights: Tensor) -> Tensor | None:
    """sum_k w_k g_k; a product may be in range where the weight is not: w = 1e40 of a gradient of 1e-30."""
    total: Tensor | None = None
    mantissa, exponent = torch.frexp(weights.double())
    half = torch.div(exponent, 2, rounding_mode="floor")
    first, second = mantissa * torch.exp2(half.double()), torch.exp2((exponent - half).double())
    for k, gradient in enumerate(gradients):
        if gradient is not None:
            term = at_least_float32(gradient) * first[k]
            factor = second[k].to(term.dtype)
            total = term.mul_(factor) if total is None else total.addcmul_(term, factor)
    return total


def inverse(values: Tensor) -> Tensor:
    """1/x, and 0 where x is 0 or so small that 1/x is not finite: a task without gradient.

    >>> inverse(torch.tensor([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return torch.where(values >= torch.finfo(values.dtype).tiny, 1 / values, 0.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it has half precision, which is too coarse for sums; else as it is.

    >>> halves = [torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float16)]
    >>> [at_least_float32(x).dtype for x in [*halves, torch.ones(1, dtype=torch.float64)]]
    [torch.float32, torch.float32, torch.float64]
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
