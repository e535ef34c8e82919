"""RotoGrad: even lengths and aligned directions of the task gradients."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.channels import transform, unit_gradients, width
from mtlkit.gradients import inverse
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_choice, check_whole_number
from mtlkit.rotations import (
    Factors,
    any_rotation,
    exponential_change,
    move_rotation,
    nearest_rotation,
    set_rotation,
    skew,
    small_rotation,
)
from mtlkit.state import per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step

RATES = {"geodesic": 2e-3, "adam": 5e-4}
STARTS = {"small": small_rotation, "random": any_rotation}


@BALANCERS.register("rotograd")
class RotoGrad(Balancer):
    """Rotates the features of each task so that the task gradients agree, and gives them one length.

    Length: let G_k be the gradient of L_k at the features Z (all levels and positions), U_k = G_k / |G_k|, alpha_k =
    (|G_k| / |G_k^0|) / sum_i (|G_i| / |G_i^0|) and C = sum_k alpha_k |G_k|. The encoder gets C sum_k U_k. Direction:
    decoder k sees r_k = R_k z, where R_k is a rotation of the channels that descends on L_rot^k = -sum_n <R_k^T
    g~_{n,k}, v_n> at its own, lower rate, where g~_{n,k} = dL_k / dr_k and v_n = (1/K) sum_k u_{n,k}. As G~_k = G_k
    R_k^T, the gradient of L_rot^k by S, where R_k exp(S) with a skew S is the moved rotation, is M_k^T - M_k up to a
    factor, with M_k = sum_n u_{n,k} v_n^T. So no second backward pass is needed.

    `update: geodesic` moves R_k <- R_k exp(S), S = lr sqrt(2) (M_k - M_k^T) / |M_k - M_k^T|: this is steepest descent
    by an arc of length lr, in radians, whatever the scale of the losses and the number of channels and samples. (The
    divisor is at least |M_k| / 1000, so a rotation that is already aligned stands still.) With n samples and positions,
    S has at most the rank 2 n. While 4 n <= d, the exponential is taken exactly in their span, in O(d^2 n); otherwise
    it is taken of the d x d matrix. `update: adam` is the paper's rule: R_k = B_k exp(S_k), where B_k is the rotation
    at the start, and Adam moves each of the d (d - 1) / 2 numbers of the skew S_k by up to lr. It costs about 20 d^3
    operations per task and step, and wide features need a lower lr.

    R_k stays a rotation: in float32 |R^T R - 1| and |det R - 1| stay below 1e-6 over any number of steps.

    |G_k^0| is the first length of the task's gradient that is not 0. It is taken once more at the first such step from
    step `burn_in` on.

    Decoders: plain, as in the authors' package.

    When to use: for tasks that learn at about the same speed. All tasks get the same length, so a task that has
    converged keeps 1/K of the encoder's step, and its noise harms the others. The digits in
    docs/results/digits_notes.md become worse by this, and `rotate_only` loses almost nothing. Try `rotate_only` where
    one task converges long before the others.

    Differs from the published experiments: the rotations move by geodesics; `update=adam` gives the paper's rule. They
    start near the identity, so that decoders that were trained before still fit; the authors' package starts at any
    rotation, which `start=random` gives. Their rate is constant; in the package's example it decays, which
    `lr_decay=0.99999` gives. The losses are not divided; that example divides each by its first value, which
    `trainer.normalize_losses=1` gives.

    Source: Javaloy and Valera, RotoGrad, ICLR 2022, arXiv 2103.02631; their package `rotograd` 0.1.6.

    Memory: 2 K d^2 numbers; 6 K d^2 with `update: adam`.

    Args:
        update: how the rotations move, `geodesic` or `adam`.
        start: where the rotations start. `small`: near the identity, at exp(S), where the entries of S have the
            standard deviation 1e-2. (From the identity itself, a symmetric conflict would never be resolved.) `random`:
            anywhere.
        dim: rotate the first `dim` channels (null: all).
        flatten: rotate the first `dim` numbers of each flattened sample (channels x height x width, in this order) in
            place of the channels at each position. Then n counts samples only. The experiment `nyuv2_rotograd` does so.
        level: the level of a feature pyramid that is rotated (-1: the deepest). Lengths are always those over all
            levels.
        burn_in: the number of steps after which |G_k^0| is taken once more (0: never). The default is the package's.
        rotate_only: leaves the lengths of the gradients as they are (an ablation of the paper).
        scale_only: leaves the features as they are (an ablation of the paper).
        lr: the learning rate of the rotations. The rate should be lower than the network's, because the rotations lead
            in a Stackelberg game. Without lr it is 2e-3 for `geodesic` and 5e-4 for `adam` (the paper uses 5e-4 and
            1e-3 on digits).
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: `update` or `start` is none of the above, `burn_in` is negative, or both ablations are chosen.

    >>> import torch
    >>> from mtlkit import BALANCERS, EncoderInfo
    >>> balancer = BALANCERS.build("rotograd", tasks=("a", "b"))
    >>> balancer.setup({}, EncoderInfo(channels=(8,), strides=(0,)))
    >>> z = torch.randn(3, 8)
    >>> (r,) = balancer.adapter("a", [z])
    >>> torch.allclose(r.norm(dim=1), z.norm(dim=1), atol=1e-5)
    True
    """

    needs = frozenset({"gram"})
    decoders = "plain"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        update: Literal["geodesic", "adam"] = "geodesic",
        start: Literal["small", "random"] = "small",
        dim: int | None = None,
        flatten: bool = False,
        level: int = -1,
        burn_in: int = 20,
        rotate_only: bool = False,
        scale_only: bool = False,
        lr: float | None = None,
        lr_decay: float = 1.0,
    ) -> None:
        check_choice("balancer.update", update, RATES)
        check_choice("balancer.start", start, STARTS)
        super().__init__(tasks, lr=RATES[update] if lr is None else lr, lr_decay=lr_decay)
        check_whole_number("balancer.burn_in", burn_in, 0)
        if rotate_only and scale_only:
            raise ValueError("balancer.rotate_only and balancer.scale_only exclude each other.")
        self.update = update
        self.start = start
        self.dim = dim
        self.flatten = flatten
        self.level = level
        self.burn_in = burn_in
        self.rotate = not scale_only
        self.scale = not rotate_only
        self.initial_norm = per_task(tasks, torch.zeros(()))  # |G_k^0|; 0: not known yet
        self.settled = per_task(tasks, torch.zeros(()))  # 1 after |G_k^0| was taken again because of `burn_in`
        self.rotation = nn.ParameterDict()  # R_k
        self.remainder = nn.ParameterDict()  # the part of R_k that rounding removed, for `geodesic`
        self.base = nn.ParameterDict()  # B_k, for `adam`
        self.generator = nn.ParameterDict()  # S_k is skew(generator), for `adam`

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        if not self.rotate:
            return
        d = width(encoder, self.level, self.dim, self.flatten)
        zeros = torch.zeros(d, d)
        self.rotation, self.remainder = per_task(self.tasks, zeros), per_task(self.tasks, zeros)
        for task in sorted(self.tasks):
            set_rotation(self.rotation[task].data, self.remainder[task].data, STARTS[self.start](d))
        if self.update == "adam":
            self.remainder, self.base = nn.ParameterDict(), per_task(self.tasks, zeros)
            self.generator = per_task(self.tasks, zeros, learned=True)
            for task, rotation in self.rotation.items():
                self.base[task].data.copy_(rotation.data)

    def adapter(self, task: str, features: Features) -> Features:
        if not self.rotate:
            return features
        return transform(features, self.level, self.rotation[task], flatten=self.flatten)

    def combine(self, step: "Step") -> Tensor:
        norms = step.norms
        firsts = self._first_lengths(step, norms)
        if self.rotate:
            self._note_directions(step, norms)
        if not self.scale:
            return torch.ones_like(norms)
        ratios = norms * inverse(firsts.double())
        alpha = ratios * inverse(ratios.sum())
        return (alpha * norms).sum() * inverse(norms)

    def settling_steps(self, steps_per_epoch: int) -> int:
        return self.burn_in if self.scale else 0

    def _first_lengths(self, step: "Step", norms: Tensor) -> Tensor:
        """Returns the tasks' |G_k^0|, (k,). One that is new is kept after the step only, which may yet be skipped."""
        firsts, lengths = stack(self.initial_norm, step.tasks), norms.to(self.initial_norm[step.tasks[0]])
        waits = firsts == 0
        if step.number >= self.burn_in:
            waits |= stack(self.settled, step.tasks) == 0
        # Of several micro-batches, the last noted one is the only one that is not 0: after it, nothing is noted.
        noted = torch.stack([(step.noted(("length", t)) or [torch.zeros_like(firsts[0])])[-1] for t in step.tasks])
        waits &= noted == 0
        for task, length, wait in zip(step.tasks, lengths, waits.tolist(), strict=True):
            if wait:
                step.note(("length", task), length)
        found = torch.where(waits, lengths, noted)
        return torch.where(found == 0, firsts, found)

    def _note_directions(self, step: "Step", norms: Tensor) -> None:
        if all(row[self.level] is None for row in step.local_gradients):  # no present task uses this level
            return
        d = len(self.rotation[step.tasks[0]])
        units = unit_gradients(step, self.level, d, self.flatten)  # u_{n,k}, n over samples and positions
        count = int(step.sum_over_ranks(torch.tensor(len(units), device=units.device)))
        few = self.update == "geodesic" and 4 * count <= d
        if few:  # the factors of all processes are smaller than their products
            units = step.gather(units)
        mean = units.mean(dim=1)
        if few:
            found: list[tuple[Tensor, Tensor | None]] = [(unit, mean) for unit in units.unbind(1)]
            cosines = (units * mean[:, None]).sum(dim=(0, 2))
        else:
            sums = step.sum_over_ranks((mean.T @ units.flatten(1)).view(d, -1, d))  # M_k^T between the tasks' rows
            found = [(transposed, None) for transposed in sums.unbind(1)]
            cosines = torch.stack([transposed.trace() for transposed, _ in found])
        for task, pair, norm, cosine in zip(step.tasks, found, norms, cosines, strict=True):
            step.extras[f"alignment/{task}"] = -cosine
            if self.update == "geodesic":
                step.note(task, pair)  # factors (U_k, V) with M_k = U_k^T V, or (M_k^T, None)
            else:
                self._add_gradient(step, task, norm * pair[0].T)

    def _add_gradient(self, step: "Step", task: str, total: Tensor) -> None:
        # L_rot = -<R_k, sum_n g~_n v_n^T> with g~ = R g held constant, and R_k = B_k exp(S_k).
        constant = self.base[task].T @ (self.rotation[task] @ total)
        with torch.enable_grad():
            generator = self.generator[task]
            loss = -(torch.linalg.matrix_exp(skew(generator)) * constant).sum()
            (gradient,) = torch.autograd.grad(loss, generator)
        step.add_gradient(generator, gradient)

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        for task, initial in self.initial_norm.items():
            if noted := step.noted(("length", task)):
                initial.copy_(noted[-1])
                self.settled[task].fill_(step.number >= self.burn_in)
        for task, generator in self.generator.items():  # `adam`
            turned = self.base[task] @ torch.linalg.matrix_exp(skew(generator))
            self.rotation[task].copy_(nearest_rotation(turned))
        for task, remainder in self.remainder.items():  # `geodesic`
            if pairs := step.noted(task):
                factors = turn(self.rotation[task], pairs, step.rate)
                move_rotation(self.rotation[task], remainder, factors, number=step.number, rate=step.rate)


def turn(rotation: Tensor, pairs: Sequence[tuple[Tensor, Tensor | None]], arc: float) -> Factors:
    """Returns the factors of R exp(S) - R, with S = arc sqrt(2) (M - M^T) / |M - M^T|.

    M is the sum of left^T right over the pairs. Without a `right` the `left` is M^T itself. See `RotoGrad`.
    """
    d = len(rotation)
    if 4 * sum(len(left) for left, _ in pairs) > d:
        total = torch.stack([left.T if right is None else left.T @ right for left, right in pairs]).sum(0)
        return rotation, exponential_change(_arc(total, arc))
    left, right = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    basis = torch.linalg.qr(torch.cat([left, right]).T).Q  # (d, 2n): S acts in this span only
    change = exponential_change(_arc((left @ basis).T @ (right @ basis), arc))
    return rotation @ basis @ change, basis.T


def _arc(total: Tensor, arc: float) -> Tensor:
    """Returns S for M; see `turn`."""
    difference = total - total.T
    size = difference.norm().clamp_min(1e-3 * total.norm()).clamp_min(torch.finfo(total.dtype).tiny)
    return difference / size * (arc * 2**0.5)
