"""Solves the small convex problems of Gram balancers: pure functions of a K x K Gram matrix, exact up to rounding.

Every function takes the Gram matrix M (k, k) of k task gradients g_i. It returns weights w (k,) of the combined
gradient sum_i w_i g_i, with M's dtype and on M's device. Internally it computes in float64.

Precision: all functions except `alignment` work on the cosines C_ij = M_ij / (|g_i| |g_j|). Lengths may therefore
differ by any factor: 1e-12 next to 1e12 in one Gram matrix is fine. Only angles are limited by float64. A Gram matrix
holds cosines to about 1e-16, so a combination that is 1e-8 times shorter than its gradients, which cancel, is only
rounding. A ridge of that size, `RIDGE` times k, is added to C's diagonal. If a Gram matrix has a negative eigenvalue
(for example after a sum in float32), this eigenvalue shows the size of its error, and the ridge follows it.

A gradient of exactly zero length has no direction, so it cannot be harmed. It counts only where a function says so: it
is the shortest point of `min_norm_point`, and it counts in the mean of `best_worst_case`.

Where gradients depend on each other, rounding decides part of the result, and rounding depends on the order of sums.
With `mtlkit.gram.any_order`, the Gram matrix itself decides the order.

>>> gram = torch.tensor([[4.0, -2.0], [-2.0, 4.0]], dtype=torch.float64)
>>> (gram @ min_norm_point(gram)).round(decimals=6).tolist()  # the combined gradient serves both tasks
[1.0, 1.0]
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mtlkit.convex import EPS, SolverError, bargain, nonnegative, push
from mtlkit.gram import checked_gram

__all__ = [
    "SolverError",
    "alignment",
    "alpha_fair",
    "best_worst_case",
    "dual_cone_projection",
    "min_norm_point",
    "project_to_simplex",
]

RIDGE = 4 * EPS


def min_norm_point(gram: Tensor) -> Tensor:
    """Returns the weights of the shortest gradient in the convex hull: argmin w'Mw over w >= 0, sum w = 1.

    It satisfies M w >= w'Mw in every entry, with equality where w > 0. If gradients are linearly dependent, w is one of
    several solutions, but the combined gradient is unique. A zero gradient is itself the shortest point.

    >>> min_norm_point(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0.75, 0.25]
    """
    m = checked_gram(gram)
    if not (zero := m.diagonal() <= 0).any():
        p = _cosines(m)
        # As a penalty, the sum constraint needs no solver of its own. Any c > 0 gives the right direction, because w is
        # scaled to the sum 1 at the end.
        # w solves min w'Mw/2 + c (sum w - 1)^2/2 over w >= 0, up to its length; here with b = |g| w and c = min |g|^2.
        q = p.norms.min() / p.norms
        w = nonnegative(p.cosines + q.outer(q), q) * q
    else:
        w = zero.double()  # each of them is the shortest, so they share the weight
    return (w / w.sum()).to(gram)


def project_to_simplex(point: Tensor) -> Tensor:
    """Returns the nearest point (k,) with entries >= 0 and the sum 1: entries above a threshold, minus the threshold.

    >>> project_to_simplex(torch.tensor([0.75, 0.5, -1.0])).tolist()
    [0.625, 0.375, 0.0]
    """
    ordered = point.sort(descending=True).values
    shifts = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype, device=point.device)
    last = (ordered > shifts).sum(dim=0, keepdim=True) - 1  # (1,), as a device would have to wait for a single number
    return (point - shifts[last]).clamp_min(0)


def dual_cone_projection(gram: Tensor, start: Tensor) -> Tensor:
    """Projects each combination `start` (r, k) of the gradients onto {d: g_i . d >= 0 for every task i}.

    The nearest d is a combination with weights w = argmin w'Mw over w >= start. The result is (r, k), row by row.

    >>> dual_cone_projection(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]), torch.eye(2)).tolist()
    [[1.0, 0.25], [1.0, 1.0]]
    """
    m, rows = checked_gram(gram), start.detach().to(gram.device, torch.float64, copy=True)
    p = _cosines(m)
    for row in rows:
        # Solved for the distance to `start`, divided by its size: the solver's tolerances are relative to about 1.
        b = p.norms * row[p.kept]
        if len(b) and (size := b.abs().max()) > 0:
            row[p.kept] += size / p.norms * nonnegative(p.cosines, -p.cosines @ (b / size))
    return rows.to(gram)


def alpha_fair(gram: Tensor, alpha: float) -> Tensor:
    """Solves M w = w^(-1/alpha), w > 0: the direction that shares progress alpha-fairly (alpha = 1: Nash's bargain).

    The w minimise w'Mw/2 - sum_i u(w_i), u' = w^(-1/alpha), by Newton's method in relative steps. There is no solution
    if no direction helps some tasks together with the others (a convex combination of gradients, which includes theirs,
    is zero). The function then returns the limit for M with a ridge on its diagonal that goes to zero: these tasks are
    not harmed, and the other tasks bargain about the directions orthogonal to them. At a Pareto-stationary point of all
    tasks, all w are 0.

    >>> alpha_fair(torch.tensor([[4.0, 0.0], [0.0, 16.0]]), alpha=1.0).tolist()
    [0.5, 0.25]
    """
    m = checked_gram(gram)
    p, w = _cosines(m), torch.zeros_like(m[0])
    if len(p.norms):
        # The solution for s g is that for g times a power of s, so one common factor is taken out before it can
        # overflow.
        size = p.norms.max()
        norms = p.norms / size
        b = bargain(p.cosines, p.ridge, norms ** (1 / alpha - 1), alpha)
        w[p.kept] = b / norms * size ** (-2 * alpha / (1 + alpha))
    return w.to(gram)


def best_worst_case(gram: Tensor, radius: float) -> Tensor:
    """Returns the weights of the d in a ball around the mean gradient g_0 that maximises min_i g_i . d.

    The ball's radius is `radius` |g_0|. With w* = argmin over the simplex of g_w . g_0 + radius |g_0| |g_w|, the result
    is d = g_0 + radius |g_0| g_w* / |g_w*|. If g_w* = 0 (no d helps all tasks), d is the limit: g_0 moved just far
    enough to harm no task.

    >>> best_worst_case(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), radius=0.5).tolist()
    [0.75, 0.75]
    """
    m = checked_gram(gram)
    k = len(m)
    p, w = _cosines(m), torch.full_like(m[0], 1 / k)
    if not len(p.norms):
        return w.to(gram)
    norms = p.norms / p.norms.max()
    mean = norms / k  # g_0 in terms of the unit gradients; zero gradients count in k, as in the mean itself
    products = p.cosines @ mean  # the inner products of g_i / |g_i| and g_0
    length = radius * math.sqrt(float(mean @ products))
    if length > radius * 2 * math.sqrt(p.ridge) * float(mean.norm()):  # else g_0 = 0 up to rounding, so d = g_0
        w[p.kept] += push(p.cosines, p.ridge, norms.min() / norms, products, length) / norms
    return w.to(gram)


def alignment(gram: Tensor) -> Tensor:
    """Returns the weights that make the condition number 1: sqrt(l_min) V L^(-1/2) V' 1/k, with M = V L V'.

    l_min is the smallest eigenvalue that is not zero. Float64 cannot distinguish eigenvalues below 4 k eps times the
    largest eigenvalue from zero. To count fully, independent gradients must not differ in length by more than about
    1e7.

    >>> alignment(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
    [0.5, 0.25]
    """
    m = checked_gram(gram)
    # Not on the cosines: here the lengths matter, as the method makes them equal to the shortest.
    values, vectors = torch.linalg.eigh(m)
    # A Gram matrix has no negative eigenvalue. One that is below zero shows how large the errors of all are.
    kept = values > torch.maximum(4 * len(m) * EPS * values[-1], -2 * values[0])
    mean = torch.full_like(values, 1 / len(m))
    if not kept.any():
        return mean.to(gram)
    values, vectors = values[kept], vectors[:, kept]
    return (vectors @ ((vectors.T @ mean) * (values[0] / values).sqrt())).to(gram)


# -- inside: float64, gradients of length one ---------------------------------------------------------------


class _Problem(NamedTuple):
    kept: Tensor  # the tasks with a gradient; the fields below contain only their rows
    norms: Tensor
    cosines: Tensor  # positive definite: it includes the ridge
    ridge: float


def _cosines(m: Tensor) -> _Problem:
    kept = m.diagonal() > 0
    norms = m.diagonal()[kept].sqrt()
    cosines = m[kept][:, kept] / norms / norms[:, None]
    ridge = RIDGE * len(norms)
    if len(norms):
        ridge += max(0.0, -2 * float(torch.linalg.eigvalsh(cosines)[0]))
    # Without the ridge, linearly dependent gradients would make the matrix singular, and no system could be solved. It
    # is as small as the rounding of a Gram matrix, so it moves no result that is certain.
    cosines.diagonal().add_(ridge)
    return _Problem(kept, norms, cosines, ridge)
