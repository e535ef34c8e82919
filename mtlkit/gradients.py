"""Arithmetic on the gradients of K tasks: derivatives, inner products and weighted sums, for numbers of any size."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

Row = list[Tensor | None]  # a task's gradient at the features, one tensor per level; None: the task does not use it
Rows = Sequence[Tensor]
BLOCK = 2**21  # numbers of all rows together that are handled at a time: 8 MB in float32


def gradients_of(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradients of a scalar, with their graph; zeros for an input that it does not depend on.

    An input that needs no gradient, such as a level of frozen layers, gets zeros, too.
    """
    needed = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(loss, needed, create_graph=True, allow_unused=True))
    gradients = [next(found) if x.requires_grad else None for x in inputs]
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, inputs, strict=True)]


def pull_back(
    levels: Sequence[Tensor], row: Row, inputs: Sequence[Tensor], *, retain_graph: bool = True
) -> list[Tensor]:
    """Carries a task's gradient at the features back to `inputs`; returns it flattened, zeros for unused inputs."""
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
    """Returns (k, k) float64: the inner products of k gradients, each of which has several parts (None: zero)."""
    total: Tensor | float = 0.0
    for part in zip(*rows, strict=True):
        example = next((g for g in part if g is not None), None)
        if example is not None:
            zeros = example.new_zeros(()).expand(example.shape)  # one number of memory, whatever the level's size
            total = total + inner_products([zeros if g is None else g for g in part])
    assert isinstance(total, Tensor), "no decoder uses the shared features"
    return total


def inner_products(rows: Rows, others: Rows | None = None) -> Tensor:
    """Returns (k, l) float64: <rows_i, others_j> of tensors of one shape. Without `others`, it takes the rows twice.

    Float32 holds numbers from 1e-38 to 1e38, but not their squares. So every row is first divided by the power of two
    next to its largest entry. This does not round the digits that count. The products get their scale back in float64.
    The function works block by block, so it makes no copy of everything, and it does not wait for a device.

    >>> rows = [torch.tensor([0.0, 2.0**-99]), torch.tensor([1.0, 2.0**99])]
    >>> inner_products(rows).tolist() == [[2.0**-198, 1.0], [1.0, 2.0**198]]
    True
    """
    total: Tensor | float = 0.0
    for left_part, right_part in _blocks(rows, others):
        left, left_size = _of_size_one(left_part)
        right, right_size = left, left_size  # half the work, and a symmetric result
        if right_part is not None:
            right, right_size = _of_size_one(right_part)
        # The product is a matrix product in float32, which is fast on every device; only the K x K result becomes
        # float64.
        total = total + (left @ right.T).double() * left_size[:, None] * right_size
    assert isinstance(total, Tensor)
    return total


def _blocks(rows: Rows, others: Rows | None) -> Iterator[tuple[Rows, Rows | None]]:
    """Yields the same columns of both, some at a time."""
    length, block = rows[0].numel(), max(1, BLOCK // len(rows))
    if length <= block:
        yield rows, others
        return
    flat, other = [row.reshape(-1) for row in rows], others and [row.reshape(-1) for row in others]
    for start in range(0, length, block):
        columns = slice(start, start + block)
        yield [row[columns] for row in flat], other and [row[columns] for row in other]


def largest(values: Tensor, dim: int | tuple[int, ...] = ()) -> Tensor:
    """Returns the largest absolute values along some axes, or of all numbers. NaN where there is one.

    On a CPU, it is ten times as fast as torch's norm of the order infinity.

    >>> largest(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 1).tolist()
    [3.0, 2.0]
    """
    return torch.maximum(values.amax(dim), values.amin(dim).neg())


def _of_size_one(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the rows (k, n), divided by powers of two so that the largest entry is about 1, and these powers (k,)."""
    stacked = torch.stack([at_least_float32(row) for row in rows]).flatten(1)
    if not stacked.numel():
        return stacked, stacked.new_ones(len(rows), dtype=torch.float64)
    top = largest(stacked.detach(), 1).double()
    # A power of two and not the length: the division then changes only exponents. Clamped, so that float32 can hold the
    # inverse, too; a row of zeros, whose logarithm is -inf, gets the smallest power.
    size = torch.exp2(top.log2().floor().clamp(-126, 126))
    return stacked.mul_((1 / size).to(stacked.dtype)[:, None]), size


def weighted_sum(gradients: Iterable[Tensor | None], weights: Tensor) -> Tensor | None:
    """Returns sum_k w_k g_k, for weights on the host.

    A weight may be out of float32's range: 1e40 times a gradient of 1e-30 is in range.
    """
    total: Tensor | None = None
    for gradient, weight in zip(gradients, weights.tolist(), strict=True):
        if gradient is not None:  # the task uses this level
            first, second = _factors(weight)
            gradient = at_least_float32(gradient)
            if second != 1:
                gradient = gradient * second
            total = gradient * first if total is None else total.add_(gradient, alpha=first)
    return total


def _factors(weight: float) -> tuple[float, float]:
    """Returns two factors of a weight, both in float32's range; the second one is a power of two, mostly 1."""
    mantissa, exponent = math.frexp(weight)
    half = 0 if -100 < exponent < 100 else exponent // 2
    return math.ldexp(mantissa, exponent - half), math.ldexp(1.0, half)


def inverse(values: Tensor) -> Tensor:
    """Returns 1/x, and 0 where x is 0 or so small that 1/x is not finite: the task has no gradient.

    >>> inverse(torch.tensor([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return torch.where(values >= torch.finfo(values.dtype).tiny, 1 / values, 0.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32 if it has half precision, which is too coarse for sums. Others stay as they are.

    >>> halves = [torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float16)]
    >>> [at_least_float32(x).dtype for x in [*halves, torch.ones(1, dtype=torch.float64)]]
    [torch.float32, torch.float32, torch.float64]
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
