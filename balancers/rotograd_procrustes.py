"""Rotograd, the first version: rigid motions in closed form, and GradNorm's weights at the features."""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.balancers.gradnorm import first_losses, refuse_negative_losses, targets
from mtlkit.channels import (
    Arrived,
    arrived_apart,
    columns,
    gathered,
    rows_of,
    transform,
    transform_all,
    unit_gradients,
    width,
)
from mtlkit.gradients import at_least_float32, inverse
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_choice, check_number
from mtlkit.rotations import (
    Factors,
    blocks,
    factors_of,
    joined,
    move_rotations,
    set_rotation,
    small_rotation,
    total_of,
)
from mtlkit.state import Rows, per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step

UPDATES = ("closed_form_step", "sgd", "jump")


@BALANCERS.register("rotograd_procrustes")
class RotogradProcrustes(Balancer):
    """Turns each task's features towards the rotation that solves a least-squares problem of the task gradients.

    Decoder k sees z_k = R_k (z - c) + c_k, where R_k is a rotation of the channels, c the running mean of z and c_k the
    running mean of z_k. For each sample and position i, let g_{i,k} be the gradient of L_k at z_k, and g_i = sum_j w_j
    R_j^T g_{i,j} the weighted gradient at z. Then R^_k = argmin over rotations of sum_i |R g_i - g_{i,k}|^2 = U diag(1,
    ..., 1, det(U V^T)) V^T, where U S V^T = sum_i g_{i,k} g_i^T. Where there are too few samples to determine R^_k, it
    is the minimiser nearest to R_k; directions with singular values below sqrt(eps) of the largest count as
    undetermined.

    After each step R_k <- R_k - lr (R_k - R^_k), projected back to a rotation; c <- c - lr (c - mean z); c_k <- c_k -
    lr (c_k - mean z_k). `update: sgd` replaces R_k - R^_k by the gradient of the same sum, divided by |G| |G_k| and
    projected on the rotations' tangent space. `update: jump` sets all to the closed form (lr = 1). The sums are over
    all micro-batches of a step; in each, G_k and G are divided by their lengths |G_k| and |G|.

    The weights are GradNorm's at Z. The w_k > 0, whose sum is K, descend on sum_k | w_k |G_k| - target_k | with
    target_k = mean_j(w_j |G_j|) r_k^alpha held constant and r_k = (L_k / L_k^0) / mean_j(L_j / L_j^0). They move by
    proximal steps: each w_k moves by up to `weight_lr` and not past target_k / |G_k|. L_k^0 is the task's first loss
    that is not 0. A task without such a loss keeps its weight, and the others are balanced. The encoder gets sum_k w_k
    G_k.

    Decoders: weighted by w_k. The paper minimises sum_k w_k L_k.

    The state is c and, for each task, R_k and c_k - R_k c. The moves of the centres do not change c_k - R_k c, so an
    absent task keeps its features. R_k starts as the exponential of a skew matrix with random entries of about 1e-2,
    because exact conflicts would keep the identity fixed. With n samples and positions and 4 n <= d, everything is
    solved in the span of the gradients, in O(d^2 n). Otherwise it takes four singular value decompositions of d x d
    matrices per task and step. All tasks are solved together. On a GPU, torch waits for each call of a decomposition.

    Source: Rotograd: Dynamic Gradient Homogenization for Multitask Learning, submission to ICLR 2021 (first version of
    arXiv 2103.02631); the product of gradients in the paper, read literally, gives the transpose of R^_k.

    Differs from the published experiments: the losses are not divided; the paper divides each by its first value, which
    `trainer.normalize_losses=1` gives. The paper chose `alpha` and `weight_lr` by a grid search and does not give them;
    the defaults are GradNorm's. The paper does not say where its rotations start; here they start near the identity.

    Memory: 2 K d^2 numbers.

    Args:
        update: `closed_form_step`, `sgd` or `jump`.
        dim: rotate the first `dim` channels (null: all).
        level: the level of a feature pyramid that is rotated (-1: the deepest).
        alpha: how strongly slow tasks are favoured.
        weight_lr: the learning rate of the weights; `lr_decay` applies to it too.
        lr: the learning rate of rotations and centres. The paper starts at 0.02 and does best with decays of 0.9 and
            0.99.
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: an option is out of its range, or, in training, a loss is negative. The message names the task.

    >>> import torch
    >>> from mtlkit import BALANCERS, EncoderInfo
    >>> balancer = BALANCERS.build("rotograd_procrustes", tasks=("a", "b"))
    >>> balancer.setup({}, EncoderInfo(channels=(8,), strides=(0,)))
    >>> z = torch.randn(3, 8)
    >>> (z_a,) = balancer.adapter("a", [z])
    >>> torch.allclose(torch.cdist(z_a, z_a), torch.cdist(z, z), atol=1e-4)
    True
    """

    needs = frozenset({"gram"})
    decoders = "weighted"
    centre: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        update: Literal["closed_form_step", "sgd", "jump"] = "closed_form_step",
        dim: int | None = None,
        level: int = -1,
        alpha: float = 1.5,
        weight_lr: float = 0.025,
        lr: float = 0.02,
        lr_decay: float = 0.99,
    ) -> None:
        check_choice("balancer.update", update, UPDATES)
        check_number("balancer.lr", lr, "(0, 1]")
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        check_number("balancer.weight_lr", weight_lr, "[0, inf)")
        check_number("balancer.alpha", alpha, "[0, inf)")
        self.update = update
        self.dim = dim
        self.level = level
        self.alpha = alpha
        self.weight_lr = weight_lr
        self.weight = per_task(tasks, torch.ones(()))
        self.initial_loss = per_task(tasks, torch.zeros(()))
        self._arrived: Arrived | None = None  # in a backward pass, the task gradients

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        d = width(encoder, self.level, self.dim)
        self.register_buffer("centre", torch.zeros(d))  # c
        self.rotation = Rows(self.tasks, torch.zeros(d, d))  # R_k
        self.remainder = Rows(self.tasks, torch.zeros(d, d))  # the part of R_k that rounding removed
        self.offset = Rows(self.tasks, torch.zeros(d))  # c_k - R_k c
        for rotation, remainder in zip(self.rotation.values(), self.remainder.values(), strict=True):
            set_rotation(rotation, remainder, small_rotation(d))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Balancer:
        super()._apply(fn, recurse)
        if "centre" in self._buffers:  # it meets features, also where these have as many channels as there are tasks
            self.centre = fn(self.centre)
        return self

    def operations(self, encoder: EncoderInfo, samples: int) -> dict[str, float]:
        d, n = width(encoder, self.level, self.dim), rows_of(encoder, self.level, samples)
        found = {"": operations(len(self.tasks), d, n)}
        if 4 * n > d >= 4:
            found[f"balancer.dim={d // 2}"] = operations(len(self.tasks), d // 2, n)
        return found

    def adapter(self, task: str, features: Features) -> Features:
        return transform(features, self.level, self.rotation[task], self.offset[task])

    def adapters(self, features: Mapping[str, Features]) -> dict[str, Features]:
        matrices, offsets = (state.of(sorted(features)) for state in (self.rotation, self.offset))
        return transform_all(features, self.level, matrices, offsets, receive=self._receive)

    def _receive(self, arrived: Arrived) -> None:
        self._arrived = arrived

    def combine(self, step: "Step") -> Tensor:
        weights, norms, losses = stack(self.weight, step.tasks).double(), step.norms, step.losses.detach().double()
        refuse_negative_losses(losses, step.tasks)
        for task, norm, loss in zip(step.tasks, norms, losses, strict=True):
            step.note(("sizes", task), torch.stack([norm, loss]))
        total = (weights @ step.gram @ weights).clamp_min(0).sqrt()
        self._note_directions(step, weights * norms * inverse(total))
        return weights

    def _note_directions(self, step: "Step", shares: Tensor) -> None:
        arrived, self._arrived = self._arrived, None
        z = at_least_float32(columns(step.local_features[self.level], len(self.centre)))
        step.note("sums", step.sum_over_ranks(torch.cat([z.sum(1), z.new_tensor([z.shape[1]])])))
        if not step.reaches(self.level):  # no present task uses this level
            return
        names = self.rotation.names
        arrived = arrived or arrived_apart(step, self.level, len(self.centre), names)
        units, count = unit_gradients(step, arrived, names)
        weights = torch.zeros(len(names)).to(shares)
        weights[[names.index(task) for task in step.tasks]] = shares
        mean = torch.einsum("kdn,k->dn", units, weights.to(units))
        # (U_k, U), the gradients of L_k and of the weighted sum at z over their lengths, (d, n): U_k U^T is
        # R_k^T sum_i g_{i,k} g_i^T / (|G_k| |G|). Or (U_k U^T, None).
        if step.alike and 4 * count <= len(mean):  # the factors of all processes are smaller than their products
            step.note("factors", (gathered(step, units), gathered(step, mean)))
        else:
            products = (units.flatten(0, 1) @ mean.T).view(len(units), -1, len(mean))
            step.note("factors", (step.sum_over_ranks(products), None))

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        sizes = {task: torch.stack(noted).mean(0) for task in self.tasks if (noted := step.noted(("sizes", task)))}
        self._move_weights(sizes, self.weight_lr * step.rate / self.lr)
        rate = 1.0 if self.update == "jump" else step.rate
        sums = torch.stack(step.noted("sums")).sum(0)
        self.centre += rate * (sums[:-1].to(self.centre) / sums[-1] - self.centre)
        # Here c_k moves by lr R_k (mean z - c), as mean z_k = R_k (mean z - c) + c_k: c_k - R_k c stays as it is.
        factors: list[tuple[Tensor, Tensor | None]] = step.noted("factors")
        names = sorted(sizes)
        for some in blocks(names, len(self.centre)) if factors else ():
            rotation, remainder, offset = (state.of(some) for state in (self.rotation, self.remainder, self.offset))
            task_centre = offset + rotation @ self.centre
            places = [self.rotation.names.index(task) for task in some]
            change = self._turn(rotation, factors_of(factors, places), rate)
            move_rotations(rotation, remainder, change, number=step.number, rate=rate)
            self.rotation.put(some, rotation)
            self.remainder.put(some, remainder)
            self.offset.put(some, task_centre - rotation @ self.centre)

    def _move_weights(self, sizes: Mapping[str, Tensor], rate: float) -> None:
        """Moves the weights by |G_k| and L_k of each task that was present."""
        found = torch.stack(list(sizes.values()))
        initial = first_losses(self.initial_loss, found[:, 1], tuple(sizes))
        known = (initial > 0).tolist()
        tasks = list(compress(sizes, known))
        if not tasks:
            return
        norms, losses = found[known].unbind(1)
        weights = stack(self.weight, tasks).double()
        target = targets(weights, norms, losses / initial[known], self.alpha)
        gap = torch.where(norms > 0, weights - target * inverse(norms), 0.0)
        moved = (weights - gap.clamp(-rate, rate)).clamp_min(1e-3)
        for task, value in zip(tasks, moved * weights.sum() / moved.sum(), strict=True):
            self.weight[task].copy_(value)

    def _turn(self, rotation: Tensor, factors: Sequence[tuple[Tensor, Tensor | None]], rate: float) -> Factors:
        """Returns the factors of R P - R (K, d, d), with R^T R^ = nearest_rotations(U_k U^T).

        P is the identity outside the gradients' span.
        """
        basis = None
        if 4 * sum(left.shape[2] for left, _ in factors) <= rotation.shape[1]:
            left, right = joined(factors)
            both = torch.cat([left, right.expand_as(left)], 2)
            basis = torch.linalg.qr(both).Q  # (K, d, 2n): elsewhere P is the identity
            total = (basis.mT @ left) @ (right.T @ basis)
        else:
            total = total_of(factors)
        total = total.double()
        tolerance = torch.finfo(rotation.dtype).eps ** 0.5
        one = torch.eye(total.shape[1]).to(total)
        if self.update == "sgd":
            moved = one + rate * (total - total.mT) / len(factors)
        else:
            moved = one + rate * (nearest_rotations(total, tolerance) - one)
        change = (nearest_rotations(moved, tolerance) - one).to(rotation.dtype)
        return (rotation, change) if basis is None else (rotation @ basis @ change, basis.mT)


def operations(k: int, d: int, n: int) -> float:
    """Returns the floating-point operations of a step: products of matrices (2 d^3), and four decompositions (22 d^3).

    22 d^3 are those of a singular value decomposition with all vectors (Golub and Van Loan, Matrix Computations).
    """
    adapters = 4 * d * d * n  # forward and backward
    if 4 * n <= d:
        return k * (adapters + 8 * d * d * n + 16 * d * n * n + 4 * 22 * (2 * n) ** 3)
    return k * (adapters + 2 * d * d * n + 2 * d**3 + 4 * 22 * d**3)


def nearest_rotations(matrices: Tensor, tolerance: float) -> Tensor:
    """Returns for each matrix (K, d, d) the nearest rotation Q (with the largest <Q, matrix>).

    There are several such rotations where the matrix does not have full rank; singular values below `tolerance` times
    the largest count as 0. Of several, it is the nearest to 1.
    """
    u, s, vh = torch.linalg.svd(matrices)
    fixed = (s > tolerance * s[:, :1]).sum(1, keepdim=True).clamp_max(s.shape[1] - 1)
    free = torch.arange(s.shape[1], device=s.device) >= fixed
    # Q = u1 v1^T + u2 W v2^T. W is free as long as det Q = 1; for the Q nearest to 1, tr(W v2^T u2) is largest. The
    # rank differs between matrices, so W is found in whole ones: with 2 on the diagonal in the places of u1 and v1,
    # these get the first singular values (those of v2^T u2 are at most 1), and W leaves them as they are.
    inner = torch.where(free[:, :, None] & free[:, None], vh @ u, 0.0) + torch.diag_embed(torch.where(free, 0.0, 2.0))
    a, _, bh = torch.linalg.svd(inner.to(u))
    sign = torch.linalg.det(u) * torch.linalg.det(vh) * torch.linalg.det(a) * torch.linalg.det(bh)
    bh[:, -1] *= sign.sign()[:, None]
    return u @ bh.mT @ a.mT @ vh
