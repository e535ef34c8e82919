"""RotoGrad: even lengths and aligned directions of the task gradients."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.channels import Arrived, arrived_apart, gathered, rows_of, transform, transform_all, unit_gradients, width
from mtlkit.gradients import inverse
from mtlkit.network import EncoderInfo, Features
from mtlkit.option_checks import check_choice, check_whole_number
from mtlkit.rotations import (
    Factors,
    Pair,
    any_rotation,
    blocks,
    factors_of,
    joined,
    low_rank_change,
    move_rotations,
    nearest_rotation,
    set_rotation,
    skew,
    small_rotation,
    total_of,
    whole_change,
)
from mtlkit.state import Rows, per_task, stack
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
    S has at most the rank 2 n. While 4 n <= d, the exponential is taken in their span, in O(d^2 n); otherwise it is
    taken of the d x d matrix. (Where all decoders average over the positions, n counts samples only.) The rotations of
    all tasks move together, and no step waits for the device. `update: adam` is the paper's rule: R_k = B_k exp(S_k),
    where B_k is the rotation at the start, and Adam moves each of the d (d - 1) / 2 numbers of the skew S_k by up to
    lr. It costs about 130 d^3 operations per task and step. torch's exponential waits for the device, twice per step
    for each 4 million numbers of the matrices. Wide features need a lower lr.

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
        self.rotation: Rows  # R_k
        self.remainder: Rows  # the part of R_k that rounding removed, for `geodesic`
        self.base: Rows  # B_k, for `adam`
        self.generator = nn.ParameterDict()  # S_k is skew(generator), for `adam`
        self._arrived: Arrived | None = None  # in a backward pass, the task gradients

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        if not self.rotate:
            return
        d = width(encoder, self.level, self.dim, self.flatten)
        zeros = torch.zeros(d, d)
        self.rotation = Rows(self.tasks, zeros)
        if self.update == "geodesic":
            self.remainder = Rows(self.tasks, zeros)
        else:
            self.base = Rows(self.tasks, zeros)
            self.generator = per_task(self.tasks, zeros, learned=True)
        other = self.remainder if self.update == "geodesic" else self.base
        for rotation, rest in zip(self.rotation.values(), other.values(), strict=True):
            set_rotation(rotation, rest, STARTS[self.start](d))
        if self.update == "adam":
            self.base.whole.copy_(self.rotation.whole)

    def operations(self, encoder: EncoderInfo, samples: int) -> dict[str, float]:
        if not self.rotate:
            return {}
        d = width(encoder, self.level, self.dim, self.flatten)
        n = rows_of(encoder, self.level, samples, self.flatten)
        found = {"": operations(len(self.tasks), d, n, self.update)}
        if self.update == "adam":
            found["balancer.update=geodesic"] = operations(len(self.tasks), d, n, "geodesic")
        return found

    def adapter(self, task: str, features: Features) -> Features:
        if not self.rotate:
            return features
        return transform(features, self.level, self.rotation[task], flatten=self.flatten)

    def adapters(self, features: Mapping[str, Features]) -> dict[str, Features]:
        if not self.rotate:
            return dict(features)
        matrices = self.rotation.of(sorted(features))
        return transform_all(features, self.level, matrices, flatten=self.flatten, receive=self._receive)

    def _receive(self, arrived: Arrived) -> None:
        self._arrived = arrived

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
        firsts = stack(self.initial_norm, step.tasks)
        lengths, waits = norms.to(firsts), firsts == 0
        if step.number >= self.burn_in:
            waits |= stack(self.settled, step.tasks) == 0
        # Of several micro-batches, one at most notes a length that is not 0: after it, no length is noted.
        noted = self._noted_lengths(step, step.tasks)
        new = torch.where(waits & (noted == 0), lengths, 0.0)
        step.note("lengths", dict(zip(step.tasks, new.unbind(), strict=True)))
        found = noted + new
        return torch.where(found == 0, firsts, found)

    def _noted_lengths(self, step: "Step", tasks: Sequence[str]) -> Tensor:
        zero = torch.zeros_like(self.initial_norm[tasks[0]])
        noted: list[dict[str, Tensor]] = step.noted("lengths")
        return torch.stack([sum((found[task] for found in noted if task in found), zero) for task in tasks])

    def _note_directions(self, step: "Step", norms: Tensor) -> None:
        arrived, self._arrived = self._arrived, None
        if not step.reaches(self.level):  # no present task uses this level
            return
        names, d = self.rotation.names, self.rotation.of(step.tasks[:1]).shape[1]
        arrived = arrived or arrived_apart(step, self.level, d, names, self.flatten)
        units, count = unit_gradients(step, arrived, names)  # u_{n,k} as (K, d, n), n over samples and positions
        mean = units.sum(0) / len(step.tasks)  # v_n as (d, n)
        if self.update == "geodesic" and step.alike and 4 * count <= len(mean):
            # The factors of all processes are smaller than their products.
            units, mean = gathered(step, units), gathered(step, mean)
            alignments = -(units * mean).sum((1, 2))
            step.note("factors", (units, mean))
        else:
            totals = step.sum_over_ranks((units.flatten(0, 1) @ mean.T).view(len(units), -1, len(mean)))  # M_k
            alignments = -totals.diagonal(dim1=1, dim2=2).sum(1)
            if self.update == "geodesic":
                step.note("factors", (totals, None))
            else:
                self._add_gradients(step, norms, totals)
        found = dict(zip(names, alignments.unbind(), strict=True))
        step.extras |= {f"alignment/{task}": found[task] for task in step.tasks}

    def _add_gradients(self, step: "Step", norms: Tensor, totals: Tensor) -> None:
        # L_rot = -<R_k, sum_n g~_n v_n^T> with g~ = R g held constant, and R_k = B_k exp(S_k).
        lengths = dict(zip(step.tasks, norms.to(totals).unbind(), strict=True))
        for some in blocks(step.tasks, totals.shape[1]):
            places = [self.rotation.names.index(task) for task in some]
            sums = totals[places] * torch.stack([lengths[task] for task in some])[:, None, None]
            constants = self.base.of(some).mT @ (self.rotation.of(some) @ sums)
            with torch.enable_grad():
                generators = stack(self.generator, some).detach().requires_grad_()
                loss = -(torch.linalg.matrix_exp(skew(generators)) * constants).sum()
                (gradients,) = torch.autograd.grad(loss, generators)
            for task, gradient in zip(some, gradients.unbind(), strict=True):
                step.add_gradient(self.generator[task], gradient)

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        tasks = tuple(task for task in self.initial_norm if any(task in found for found in step.noted("lengths")))
        if tasks:
            found = self._noted_lengths(step, tasks)
            firsts = torch.where(found == 0, stack(self.initial_norm, tasks), found)
            for task, first in zip(tasks, firsts.unbind(), strict=True):
                self.initial_norm[task].copy_(first)
            if step.number >= self.burn_in:
                settled = torch.where(found == 0, stack(self.settled, tasks), 1.0)
                for task, value in zip(tasks, settled.unbind(), strict=True):
                    self.settled[task].copy_(value)
        if self.generator:  # `adam`
            for some in blocks(self.base.names, len(self.rotation.whole[0])):
                turned = self.base.of(some) @ torch.linalg.matrix_exp(skew(stack(self.generator, some)))
                self.rotation.put(some, nearest_rotation(turned).to(turned))
        elif factors := step.noted("factors"):
            present = [task for task in self.rotation.names if task in step.window.tasks]
            rotation, remainder = self.rotation.of(present), self.remainder.of(present)
            places = [self.rotation.names.index(task) for task in present]
            change = turn(rotation, factors_of(factors, places), step.rate)
            move_rotations(rotation, remainder, change, number=step.number, rate=step.rate)
            self.rotation.put(present, rotation)
            self.remainder.put(present, remainder)


def operations(k: int, d: int, n: int, update: str) -> float:
    """Returns the floating-point operations of a step of RotoGrad in products of matrices; one with d^3 takes 2 d^3.

    >>> f"{operations(40, 512, 32, 'geodesic'):.1e}, {operations(40, 512, 32, 'adam'):.1e}"
    '4.4e+09, 7.0e+11'
    """
    adapters = 2 * d * d * n  # forward and backward
    if update == "adam":
        # M and its two factors; exp(S) twice with 6 products, its derivative by an exponential that is twice as wide;
        # B exp(S), and its correction.
        return 2 * k * (adapters + d * d * n + d**3 * (2 + 6 * 2 + 6 * 8 + 1 + 2))
    if 4 * n <= d:  # R U and the change of R; five products with n^2 d, and U P
        return 2 * k * (adapters + 4 * d * d * n + 5 * d * n * n + 4 * d * n * n)
    return 2 * k * (adapters + d * d * n + 2 * d**3)  # M, S^2, R exp(S)


def turn(rotation: Tensor, factors: Sequence[Pair], arc: float) -> Factors:
    """Returns the factors of R exp(S) - R (K, d, d), with S = arc sqrt(2) (M - M^T) / |M - M^T|.

    M is the sum of left right^T over the pairs. See `RotoGrad`.
    """
    if 4 * sum(left.shape[2] for left, _ in factors) <= rotation.shape[1]:
        change, basis = low_rank_change(*joined(factors), arc)
        return rotation @ change, basis
    return rotation, whole_change(total_of(factors), arc)
