"""Building blocks of `solvers`: dense convex problems of up to about a hundred variables, in float64.

The matrices `a` are positive definite with a diagonal of about one: cosines of the task gradients plus a ridge.
"""

import math

import torch
from torch import Tensor

from mtlkit.errors import StepError

EPS = torch.finfo(torch.float64).eps


class SolverError(StepError):
    """A solver did not reach its precision. It then returns no solution."""

    def __init__(self, problem: str, tasks: int, residual: float) -> None:
        super().__init__(
            f"The {problem} of {tasks} tasks was not solved: the relative residual is still {residual:.1e}. The Gram "
            f"matrix may be too noisy for this method: compute it in a higher precision (trainer.precision=fp32 or "
            f"fp64), or choose another balancer."
        )


def nonnegative(a: Tensor, h: Tensor) -> Tensor:
    """Returns argmin x'ax/2 - h'x over x >= 0, by active sets: the objective decreases with every change of the set.

    It frees all variables that the slope wants to free at once. If in the end this frees none of them, it frees the
    steeper half, and so on down to one variable. If a single variable cannot be freed, only rounding wants to free it.
    This variable then waits until another one was freed.
    """
    k = len(h)
    x, share = torch.zeros_like(h), 1.0
    free, waiting = torch.zeros_like(h, dtype=torch.bool), torch.zeros_like(h, dtype=torch.bool)
    size = a.abs()
    for _ in range(20 * k + 20):
        slope, noise = h - a @ x, h.abs() + size @ x
        wanted = (~free & ~waiting & (slope > 4 * k * EPS * noise)).nonzero().flatten()
        if not len(wanted):
            break
        order = slope[wanted].argsort(descending=True, stable=True)
        steepest = wanted[order[: max(1, int(share * len(wanted)))]]
        before, free = free, free.clone()
        free[steepest] = True
        x, free = _descend(a, h, x, free)
        if (free != before).any():
            share, waiting[:] = min(1.0, 2 * share), False
        elif len(steepest) > 1:
            share = share / 2
        else:
            waiting[steepest] = True
    slope, noise = h - a @ x, h.abs() + size @ x
    residual = float(torch.where(free, slope.abs(), slope).max()) / max(float(noise.max()), 1e-300)
    if residual > 1e-9:
        raise SolverError("quadratic program", k, residual)
    return x


def _descend(a: Tensor, h: Tensor, x: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Moves towards the minimum over the free variables. A variable that reaches zero on the way is fixed there."""
    while True:
        i = free.nonzero().flatten()
        z = torch.zeros_like(h)
        z[i] = torch.linalg.solve(a[i[:, None], i], h[i])
        stop = i[z[i] <= 0]
        if not len(stop):
            return z, free
        moving = x[stop] > 0
        steps = torch.where(moving, x[stop] / torch.where(moving, x[stop] - z[stop], 1.0), 0.0)
        x = x + steps.min() * (z - x)
        x[stop[steps == steps.min()]] = 0
        free = free & ((x > 0) | (z > 0))


def bargain(a: Tensor, ridge: float, r: Tensor, alpha: float) -> Tensor:
    """Solves (a b)_i = r_i b_i^(-1/alpha), b > 0, for a matrix that contains a ridge.

    If only the ridge limits some b_i, no direction helps these tasks together with the others. These tasks are then not
    harmed, and the other tasks bargain about the directions orthogonal to them.
    """
    b, lost = newton(a, r, alpha)
    held = lost | (ridge * b * b > 0.01 * b * (a @ b))
    if held.any():
        s, f = held.nonzero().flatten(), (~held).nonzero().flatten()
        across = a[s[:, None], f]
        rest = a[f[:, None], f] - across.T @ torch.linalg.solve(a[s[:, None], s], across)
        outside = rest.diagonal() > 4 * ridge  # others are in the span of the held tasks
        held[f[~outside]] = True
        s, f, rest = held.nonzero().flatten(), f[outside], (rest + rest.T)[outside][:, outside] / 2
        if len(f):
            b[f] = bargain(rest + ridge * torch.eye(len(f)).to(rest), ridge, r[f], alpha)
        b[s] = nonnegative(a[s[:, None], s], -a[s[:, None], f] @ b[f])
    return b


def newton(a: Tensor, r: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Finds the minimum over b > 0 of b'ab/2 - sum_i u_i(b_i), u_i' = r_i b_i^(-1/alpha), by relative Newton steps.

    It also returns the variables whose equations are so inexact by rounding that the other equations do not converge.
    """
    k, power = len(r), alpha / (1 + alpha)
    b = r**power
    b = b * ((b @ (r * b ** (-1 / alpha))) / (b @ a @ b)) ** power
    size, last = a.abs(), math.inf
    for _ in range(200):
        s = r * b ** (1 - 1 / alpha)
        root = s.sqrt()
        scaled = b / root
        hessian = scaled[:, None] * a * scaled
        hessian.diagonal().add_(1 / alpha)
        step = torch.linalg.solve(hessian, root - scaled * (a @ b)) / root  # b -> b (1 + step)
        noise = 4 * k * EPS * max(1.0, alpha) * b * (size @ b) / torch.maximum(s, b * (a @ b))
        known = noise < 0.1  # the other equations are only rounding
        largest = float(torch.where(known, step.abs(), 0.0).max())
        if largest <= 1e-9 or last / 2 <= largest <= float(torch.where(known, noise, 0.0).max()):
            return b * (1 + step.clamp(-0.5, 1)), torch.zeros_like(known)
        last = largest
        if float(step.abs().max()) * (1 + 1 / alpha) > 0.2:  # far: stay positive, and before the line's minimum
            step *= min(1.0, 0.9 / max(-float(step.min()), 0.9))
            move = b * step
            while float(move @ (a @ (b + move) - r * (b + move) ** (-1 / alpha))) > 0:
                move, step = move / 2, step / 2
        b = b * (1 + step)
    if known.all():
        raise SolverError("bargaining problem", k, largest)
    return b, ~known


def push(a: Tensor, ridge: float, q: Tensor, products: Tensor, length: float) -> Tensor:
    """Returns the b >= 0 of length sqrt(b'ab) = `length` with a b >= mu q - products, equal where b > 0.

    It searches mu. b(mu) solves a quadratic program, and its length grows with mu. On a fixed active set b is linear in
    mu, so the right mu is the root of a quadratic equation. A bracket protects against a change of the set. If the
    shortest convex combination is zero except for the ridge, no push helps all tasks. The result is then b for mu = 0,
    which harms none.
    """
    low = float((products / q).min())  # the best worst case is between low and high
    high = float(((products + length * a.diagonal().sqrt()) / q).min())
    mu = min(0.0, high)
    b = nonnegative(a, mu * q - products)
    if b @ a @ b < length**2 and mu == 0:
        shortest = nonnegative(a + q.outer(q), q)
        if ridge * (shortest @ shortest) > 0.01 * (shortest @ a @ shortest):
            return b
    for _ in range(200):
        found = math.sqrt(float(b @ a @ b))
        if abs(found - length) <= 1e-13 * length:
            break
        low, high = (mu, high) if found < length else (low, mu)
        last, mu = mu, _root(a, q, products, length, b.nonzero().flatten()) if b.any() else high
        if not low < mu < high + 1e-9 * abs(high):
            mu = (low + high) / 2
        if mu == last:  # the bracket cannot become smaller
            break
        b = nonnegative(a, mu * q - products)
    if abs(found - length) > max(1e-8 * length, 4 * len(q) * EPS * float(b @ a.abs() @ b) / length):
        raise SolverError("best worst case", len(q), abs(found / length - 1))
    return b * (length / found)


def _root(a: Tensor, q: Tensor, products: Tensor, length: float, i: Tensor) -> float:
    """Returns the larger mu at which b = a^(-1) (mu q - products) on the active set i has the length, or nan."""
    x, y = torch.linalg.solve(a[i[:, None], i], torch.stack([q[i], products[i]], dim=1)).T
    xx, xy, yy = float(x @ q[i]), float(x @ products[i]), float(y @ products[i])
    d = xy**2 - xx * (yy - length**2)
    return (xy + math.sqrt(d)) / xx if d >= 0 else math.nan
