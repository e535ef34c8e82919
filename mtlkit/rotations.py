"""Rotation matrices that stay rotations while they are learned: their start values and their updates."""

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]  # two matrices that stand for their product


def skew(generator: Tensor) -> Tensor:
    """Returns L - L^T, where L is the part below the diagonal. Each entry of the skew matrix comes from one number.

    >>> skew(torch.tensor([[5.0, 7.0], [2.0, 5.0]])).tolist()
    [[0.0, -2.0], [2.0, 0.0]]
    """
    lower = generator.tril(-1)
    return lower - lower.T


def exponential_change(matrix: Tensor) -> Tensor:
    """Returns X = exp(S) - 1 of a skew S, with an error relative to S.

    The rounding of exp(S) itself is relative to 1. If each step kept this error, the matrix would in time no longer be
    a rotation. X + X^T + X^T X is 0 if 1 + X is a rotation. The function therefore subtracts half of it.
    """
    change = torch.linalg.matrix_exp(matrix) - torch.eye(len(matrix)).to(matrix)
    return change - 0.5 * (change + change.T + change.T @ change)


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
    return 1.5 * matrix - 0.5 * matrix @ (matrix.T @ matrix)


def set_rotation(rotation: Tensor, remainder: Tensor, value: Tensor) -> None:
    """Writes a float64 value into the pair, in place. See `move_rotation`."""
    rotation.copy_(value)
    remainder.copy_(value - rotation)


def move_rotation(rotation: Tensor, remainder: Tensor, factors: Factors, *, number: int, rate: float) -> None:
    """Adds a change to a rotation, in place, so that it stays a rotation over any number of steps.

    In float32, rounding the sum removes up to 6e-8 from each entry. If the rotation hardly turns, rounding removes the
    same in every step. The remainder stores what rounding removed, and the next step adds it (Kahan's sum). Only errors
    of the changes remain, relative to the changes. They are removed when the changes have added up to about 1, and at
    least every 100 steps.

    Args:
        rotation, remainder: their sum is the rotation. The forward pass uses only the first.
        factors: their product is the new rotation minus the old one.
        number, rate: the number of the step, and about how far it turns.
    """
    # Small numbers are added first: the change goes into the remainder, which is small, and only then into the
    # rotation.
    remainder.addmm_(*factors)
    moved = rotation + remainder
    remainder += rotation.sub_(moved)  # exact where an entry is larger than its remainder
    rotation.copy_(moved)
    # A float64 product of d x d matrices is slow on many GPUs, so it is not made in every step.
    if number % max(1, int(1 / max(rate, 1e-2))) == 0:
        set_rotation(rotation, remainder, nearest_rotation(rotation.double() + remainder.double()))
