"""Rotograd, the first version: rigid motions in closed form, and GradNorm's weights at the features."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.balancers.gradnorm import first_losses, refuse_negative_losses, targets
from mtlkit.channels import transform, unit_gradients, vectors, width
from mtlkit.gradients import inverse
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_choice, check_number
from mtlkit.rotations import Factors, move_rotation, set_rotation, small_rotation
from mtlkit.state import per_task, stack
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
    solved in the span of the gradients, in O(d^2 n). Otherwise it takes two singular value decompositions of d x d
    matrices per task and step (0.5 s on a CPU core for d = 512), until `lr` has decayed below the rounding of its
    floats.

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

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        d = width(encoder, self.level, self.dim)
        self.register_buffer("centre", torch.zeros(d))  # c
        self.rotation = per_task(self.tasks, torch.zeros(d, d))  # R_k
        self.remainder = per_task(self.tasks, torch.zeros(d, d))  # the part of R_k that rounding removed
        self.offset = per_task(self.tasks, torch.zeros(d))  # c_k - R_k c
        for task in sorted(self.tasks):
            set_rotation(self.rotation[task].data, self.remainder[task].data, small_rotation(d))

    def adapter(self, task: str, features: Features) -> Features:
        return transform(features, self.level, self.rotation[task], self.offset[task])

    def combine(self, step: "Step") -> Tensor:
        weights, norms, losses = stack(self.weight, step.tasks).double(), step.norms, step.losses.detach().double()
        refuse_negative_losses(losses, step.tasks)
        for task, norm, loss in zip(step.tasks, norms, losses, strict=True):
            step.note(("sizes", task), torch.stack([norm, loss]))
        total = (weights @ step.gram @ weights).clamp_min(0).sqrt()
        self._note_directions(step, weights * norms * inverse(total))
        return weights

    def _note_directions(self, step: "Step", shares: Tensor) -> None:
        d = len(self.centre)
        z = vectors(step.local_features[self.level], d)
        sums = step.sum_over_ranks(torch.cat([z.sum(0), z.new_tensor([len(z)])]))
        step.note("sums", sums)
        units = unit_gradients(step, self.level, d)
        few = 4 * int(sums[-1]) <= d
        if few:  # the factors of all processes are smaller than their products
            units = step.gather(units)
        mean = torch.einsum("nkd,k->nd", units, shares.to(z))
        if few:
            found: list[tuple[Tensor | None, Tensor]] = [(unit, mean) for unit in units.unbind(1)]
        else:
            products = step.sum_over_ranks((units.flatten(1).T @ mean).view(-1, d, d))
            found = [(None, product) for product in products]
        # (U_k, U), the gradients of L_k and of the weighted sum at z over their lengths, (n, d): U_k^T U is
        # R_k^T sum_i g_{i,k} g_i^T / (|G_k| |G|). Or (None, U_k^T U).
        for task, pair in zip(step.tasks, found, strict=True):
            step.note(("pairs", task), pair)

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        sizes = {task: torch.stack(noted).mean(0) for task in self.tasks if (noted := step.noted(("sizes", task)))}
        self._move_weights(sizes, self.weight_lr * step.rate / self.lr)
        rate = 1.0 if self.update == "jump" else step.rate
        *sums, count = torch.stack(step.noted("sums")).sum(0)
        self.centre += rate * (torch.stack(sums).to(self.centre) / count - self.centre)
        # Here c_k moves by lr R_k (mean z - c), as mean z_k = R_k (mean z - c) + c_k: c_k - R_k c stays as it is.
        for task in sizes:
            rotation, offset = self.rotation[task], self.offset[task]
            task_centre = offset + rotation @ self.centre
            factors = self._turn(rotation, step.noted(("pairs", task)), rate)
            move_rotation(rotation, self.remainder[task], factors, number=step.number, rate=rate)
            offset.copy_(task_centre - rotation @ self.centre)

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

    def _turn(self, rotation: Tensor, pairs: Sequence[tuple[Tensor | None, Tensor]], rate: float) -> Factors:
        """Returns the factors of R P - R, with R^T R^ = rotation_nearest(U_k^T U).

        P is the identity outside the gradients' span.
        """
        basis = None
        rows = sum(len(right) for _, right in pairs)
        if 4 * rows <= len(rotation):
            left, right = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            basis = torch.linalg.qr(torch.cat([left, right]).T).Q  # (d, 2n): elsewhere P is the identity
            total = (left @ basis).T @ (right @ basis)
        else:
            total = sum(right if left is None else left.T @ right for left, right in pairs)
        total = total.double()
        tolerance = torch.finfo(rotation.dtype).eps ** 0.5
        one = torch.eye(len(total)).to(total)
        if self.update == "sgd":
            moved = one + rate * (total - total.T) / len(pairs)
        else:
            moved = one + rate * (rotation_nearest(total, tolerance) - one)
        change = (rotation_nearest(moved, tolerance) - one).to(rotation.dtype)
        return (rotation, change) if basis is None else (rotation @ basis @ change, basis.T)


def rotation_nearest(matrix: Tensor, tolerance: float) -> Tensor:
    """Returns the rotation Q nearest to the matrix (with the largest <Q, matrix>). Of several, it is the nearest to 1.

    There are several such rotations where the matrix does not have full rank; singular values below `tolerance` times
    the largest count as 0.
    """
    u, s, vh = torch.linalg.svd(matrix)
    fixed = min(int((s > tolerance * s[0]).sum()), len(s) - 1)
    # Q = u1 v1^T + u2 W v2^T. W is free as long as det Q = 1; for the Q nearest to 1, tr(W v2^T u2) is largest.
    a, _, bh = torch.linalg.svd(vh[fixed:] @ u[:, fixed:])
    sign = torch.linalg.det(u) * torch.linalg.det(vh) * torch.linalg.det(a) * torch.linalg.det(bh)
    bh[-1] *= sign.sign()
    return u[:, :fixed] @ vh[:fixed] + u[:, fixed:] @ bh.T @ a.T @ vh[fixed:]
