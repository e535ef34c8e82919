"""Rotation matrices that stay rotations while they are learned: their start values and their updates."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 2**18  # numbers that a CPU handles at a time, so that they stay in its cache: 1 MB in float32
Factors = tuple[Tensor, Tensor]  # two matrices, or two for each task, that stand for their product
# left (K, d, n) and right (d, n) for the matrices left_k right^T; without a right, the left (K, d, d) is the product
Pair = tuple[Tensor, Tensor | None]


def blocks(tasks: Sequence[str], d: int) -> Iterator[list[str]]:
    """Yields a few of the tasks at a time: their matrices (d, d) have up to 4 million numbers together, or it is one.

    Methods that make many such matrices of each task go through them, as all at once would take too much memory.

    >>> [len(some) for some in blocks(tuple("abcdefg"), 1000)]
    [4, 3]
    """
    size = max(1, 2**22 // d**2)
    for start in range(0, len(tasks), size):
        yield list(tasks[start : start + size])


def factors_of(factors: Sequence[Pair], places: Sequence[int]) -> list[Pair]:
    """Returns the pairs (left, right) for only some of the tasks, those in these places of each `left`."""
    return [(left if len(places) == len(left) else left[places], right) for left, right in factors]


def joined(factors: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Returns left (K, d, n) and right (d, n), the columns of all pairs. Each pair must have a right."""
    lefts, rights = zip(*factors, strict=True)
    return (lefts[0], rights[0]) if len(factors) == 1 else (torch.cat(lefts, 2), torch.cat(rights, 1))


def total_of(factors: Sequence[Pair]) -> Tensor:
    """Returns the sum (K, d, d) of left right^T over the pairs; without a right, the left is the product."""
    products = [left if right is None else left @ right.T for left, right in factors]
    return products[0] if len(products) == 1 else torch.stack(products).sum(0)


def skew(generator: Tensor) -> Tensor:
    """Returns L - L^T, where L is the part below the diagonal. Each entry of the skew matrix comes from one number.

    >>> skew(torch.tensor([[5.0, 7.0], [2.0, 5.0]])).tolist()
    [[0.0, -2.0], [2.0, 0.0]]
    """
    lower = generator.tril(-1)
    return lower - lower.mT


def terms(arc: float, dtype: torch.dtype) -> tuple[int, int]:
    """Returns how exp(S) - 1 is computed for a skew S that turns by at most `arc`, as (m, s).

    It is S + ... + S^m / m! of S / 2^s, squared s times. Then an error relative to S is below 8 eps. m is even: the
    error of 1 + S + ... + S^m as a rotation is then of the order m + 2, and otherwise of the order m + 1. All this
    follows from the length of the arc, so nothing is read from the device.

    >>> terms(2e-3, torch.float32), terms(0.1, torch.float32), terms(3.0, torch.float32), terms(2e-3, torch.float64)
    ((2, 0), (4, 0), (4, 5), (6, 0))
    """
    halvings = max(0, math.ceil(math.log2(max(arc, 1e-9) / 0.1)))
    arc, degree = arc / 2**halvings, 2
    while arc**degree / math.factorial(degree + 1) > 8 * torch.finfo(dtype).eps:
        degree += 2
    return degree, halvings


def arc_factor(whole: Tensor, skew: Tensor, arc: float) -> Tensor:
    """Returns the factor f (K, 1, 1) for which f (M - M^T) turns by `arc`, from |M|^2 and |M - M^T|^2, (K,) float64.

    The divisor |M - M^T| is at least |M| / 1000, so that a symmetric M, whose M - M^T is a rounding error, does not
    turn.
    """
    least = torch.finfo(torch.float32).tiny ** 2
    size = torch.maximum(skew, 1e-6 * whole).clamp_min(least).sqrt()
    return (arc * 2**0.5 / size)[:, None, None]


def squared_norms(matrices: Tensor) -> Tensor:
    """Returns |M_k|^2, (K,) float64, for (K, d, d)."""
    return torch.linalg.vector_norm(matrices, dim=(1, 2), dtype=torch.float64).square()


def whole_change(total: Tensor, arc: float) -> Tensor:
    """Returns exp(S) - 1 (K, d, d) for S = f (M - M^T); see `arc_factor`."""
    difference = total - total.mT
    degree, halvings = terms(arc, total.dtype)
    factor = arc_factor(squared_norms(total), squared_norms(difference), arc)
    skew = difference * (factor / 2**halvings).to(total.dtype)
    change = skew
    for j in range(degree, 1, -1):
        change = torch.baddbmm(skew, skew, change, alpha=1 / j)
    for _ in range(halvings):
        change = torch.baddbmm(change, change, change, beta=2)
    return change


def low_rank_change(left: Tensor, right: Tensor, arc: float) -> Factors:
    """Returns the two factors of exp(S) - 1 for S = f (M - M^T), M_k = left_k right^T; see `arc_factor`.

    With right = Q T, Q^T Q = 1 and N = left T^T, M - M^T is F Q^T - Q F^T, F = N - Q (Q^T N + N^T Q) / 2. What is
    symmetric in M is no longer in F: in M - M^T, it would leave its rounding. That matters, as the rotations turn until
    M is symmetric. With U = [f F, -Q] and V = [Q, f F], S = U V^T, and the sum of S^j / j! is U P V^T. P = 1 + X / 2 +
    X^2 / 6 + ..., X = V^T U, is the block phi(X) = (e^X - 1) / X of a small matrix exponential. Nothing of size d x d
    is made, and the one QR decomposition is of the common right.

    Args:
        left: (K, d, n)
        right: (d, n)

    Returns:
        U P (K, d, 2n) and V^T (K, 2n, d).
    """
    k, d, n = left.shape
    q, t = torch.linalg.qr(right)
    products = left @ t.T
    inside = q.T @ products
    f = products - q @ ((inside + inside.mT) / 2)
    mixed = q.T @ f
    degree, halvings = terms(arc, left.dtype)
    skew = 2 * (squared_norms(f) - (mixed * mixed.mT).sum((1, 2), dtype=torch.float64))
    factor = (arc_factor(squared_norms(products), skew, arc) / 2**halvings).to(f)
    f, mixed, q = f * factor, mixed * factor, q.expand(k, d, n)
    x = torch.cat([torch.cat([mixed, -(q[0].T @ q[0]).expand(k, n, n)], 2), torch.cat([f.mT @ f, -mixed.mT], 2)], 1)
    one = torch.eye(2 * n, dtype=x.dtype, device=x.device)
    p = one + x / degree
    for j in range(degree - 1, 1, -1):
        p = torch.baddbmm(one, x, p, alpha=1 / j)
    for _ in range(halvings):
        p = torch.baddbmm(p, p @ x, p, beta=2)
    return torch.cat([f, -q], 2) @ p, torch.cat([q, f], 2).mT


def small_rotation(d: int) -> Tensor:
    """Returns a random rotation near 1, in float64: exp(S), where entries of S have the standard deviation 1e-2."""
    return torch.linalg.matrix_exp(skew(1e-2 * torch.randn(d, d).double()))


def any_rotation(d: int) -> Tensor:
    """Returns a random rotation in float64. All rotations are equally likely (Haar's measure)."""
    q, r = torch.linalg.qr(torch.randn(d, d).double())
    # QR alone is not uniform: its signs depend on the algorithm. With a positive diagonal of R they are unique.
    q = q * r.diagonal().sign()
    # Half of the results are reflections. Turning one column round makes them rotations and keeps them uniform.
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Returns the rotation nearest to a matrix with an error e, up to e^2, in float64, by one step of Newton's method.

    >>> turned = torch.tensor([[0.6001, -0.8], [0.8, 0.6]])
    >>> found = nearest_rotation(turned)
    >>> bool((found.T @ found - torch.eye(2)).abs().max() < 1e-7)
    True
    """
    # Not by a singular value decomposition, which is exact for any matrix but takes 8 times as long (d = 512, on a
    # CPU).
    matrix = matrix.double()
    return 1.5 * matrix - 0.5 * matrix @ (matrix.mT @ matrix)


def set_rotation(rotation: Tensor, remainder: Tensor, value: Tensor) -> None:
    """Writes a float64 value into the pair, in place. See `move_rotations`."""
    rotation.copy_(value)
    remainder.copy_(value - rotation)


def move_rotations(rotation: Tensor, remainder: Tensor, factors: Factors, *, number: int, rate: float) -> None:
    """Adds changes to rotations (K, d, d), in place, so that they stay rotations over any number of steps.

    In float32, rounding the sum removes up to 6e-8 from each entry. If the rotation hardly turns, rounding removes the
    same in every step. The remainder stores what rounding removed, and the next step adds it (Kahan's sum). Only errors
    of the changes remain, relative to the changes. They are removed when the changes have added up to about 1, and at
    least every 100 steps.

    Args:
        rotation, remainder: their sum is the rotation. The forward pass uses only the first.
        factors: their product is the new rotation minus the old one.
        number, rate: the number of the step, and about how far it turns.
    """
    # A float64 product of d x d matrices is slow on many GPUs, so it is not made in every step.
    corrects = number % max(1, int(1 / max(rate, 1e-2))) == 0
    # In blocks that stay in the cache of a CPU from one line to the next: what counts here is how often the matrices
    # are read from memory. Another device gets all in one block.
    size = max(1, BLOCK // rotation[0].numel()) if rotation.device.type == "cpu" else len(rotation)
    parts = (whole.split(size) for whole in (rotation, remainder, *factors))
    moved = torch.empty_like(rotation[:size])
    for own, rest, left, right in zip(*parts, strict=True):
        # Small numbers are added first: the change goes into the remainder, which is small, and only then into the
        # rotation.
        rest.baddbmm_(left, right)
        new = torch.add(own, rest, out=moved[: len(own)])
        rest += own.sub_(new)  # exact where an entry is larger than its remainder
        own.copy_(new)
        if corrects:
            set_rotation(own, rest, nearest_rotation(own.double() + rest.double()))
