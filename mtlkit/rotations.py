"""Rotation matrices that stay rotations while they are learned: how they start, and how they move."""

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]  # two matrices in place of their product


def skew(generator: Tensor) -> Tensor:
    """L - L^T, with L what stands below the diagonal: each entry of the skew matrix is one number.

    >>> skew(torch.tensor([[5.0, 7.0], [2.0, 5.0]])).tolist()
    [[0.0, -2.0], [2.0, 0.0]]
    """
    lower = generator.tril(-1)
    return lower - lower.T


def exponential_change(matrix: Tensor) -> Tensor:
    """X = exp(S) - 1 of a skew S, with an error relative to S.

    The rounding of exp(S) itself is relative to 1. Taken over in every step, it would add up to a matrix that is no
    rotation. So half of X + X^T + X^T X, which is 0 where 1 + X is a rotation, is taken out.
    """
    change = torch.linalg.matrix_exp(matrix) - torch.eye(len(matrix)).to(matrix)
    return change - 0.5 * (change + change.T + change.T @ change)


def small_rotation(d: int) -> Tensor:
    """A random rotation near the identity, in float64: exp(S) with entries of S of standard deviation 1e-2."""
    return torch.linalg.matrix_exp(skew(1e-2 * torch.randn(d, d).double()))


def any_rotation(d: int) -> Tensor:
    """A random rotation, all equally likely (Haar's measure), in float64."""
    q, r = torch.linalg.qr(torch.randn(d, d).double())
    q = q * r.diagonal().sign()
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation nearest to a matrix that is one but for an error e, up to e^2, in float64: a step of Newton's.

    >>> turned = torch.tensor([[0.6001, -0.8], [0.8, 0.6]])
    >>> found = nearest_rotation(turned)
    >>> bool((found.T @ found - torch.eye(2)).abs().max() < 1e-7)
    True
    """
    matrix = matrix.double()
    return 1.5 * matrix - 0.5 * matrix @ (matrix.T @ matrix)


def set_rotation(rotation: Tensor, remainder: Tensor, value: Tensor) -> None:
    """Puts a value in float64 into the pair, in place: see `move_rotation`."""
    rotation.copy_(value)
    remainder.copy_(value - rotation)


def move_rotation(rotation: Tensor, remainder: Tensor, factors: Factors, *, number: int, rate: float) -> None:
    """Adds a change to a rotation, in place, so that it stays one over any number of steps.

    In float32, rounding the sum takes up to 6e-8 of each entry, and from a rotation that hardly turns it takes the
    same in every step. The remainder keeps what rounding took, and the next step adds it (Kahan's sum). What is left
    are errors of the changes, relative to them. Once the changes have added up to about 1, and every 100 steps at
    least, they are taken out.

    Args:
        rotation, remainder: whose sum is the rotation; the first is what the forward pass takes.
        factors: whose product is the new rotation less the old one.
        number, rate: the step's number, and about how far it turns.
    """
    remainder.addmm_(*factors)
    moved = rotation + remainder
    remainder += rotation.sub_(moved)
    rotation.copy_(moved)
    if number % max(1, int(1 / max(rate, 1e-2))) == 0:
        set_rotation(rotation, remainder, nearest_rotation(rotation.double() + remainder.double()))
