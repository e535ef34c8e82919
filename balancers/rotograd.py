"""RotoGrad: even lengths and aligned directions of the task gradients."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtlkit.balancer import BALANCERS, Balancer, per_task, stack
from mtlkit.channels import inverse, orthogonalise, skew_exponential, transform, unit_gradients, width
from mtlkit.task import EncoderInfo, Features, Task

if TYPE_CHECKING:
    from mtlkit.step import Step

RATES = {"geodesic": 2e-3, "adam": 5e-4}


@BALANCERS.register("rotograd")
class RotoGrad(Balancer):
    """Rotates the features of each task so that the task gradients agree, and gives them one length.

    Length: with G_k the gradient of L_k at the features Z (all levels and positions), U_k = G_k / |G_k|,
    alpha_k = (|G_k| / |G_k^0|) / sum_i (|G_i| / |G_i^0|) and C = sum_k alpha_k |G_k|, the encoder gets C sum_k U_k.
    Direction: decoder k sees r_k = R_k z, with R_k a rotation of the channels that descends on
    L_rot^k = -sum_n <R_k^T g~_{n,k}, v_n> at its own, lower rate, where g~_{n,k} = dL_k / dr_k and v_n =
    (1/K) sum_k u_{n,k}. As G~_k = G_k R_k^T, its gradient at S, for R_k exp(S) with a skew S, is M_k^T - M_k up to a
    factor, with M_k = sum_n u_{n,k} v_n^T: there is no second backward pass.

    `update: geodesic` moves R_k <- R_k exp(S), S = lr sqrt(2) (M_k - M_k^T) / |M_k - M_k^T|: steepest descent
    by an arc of length lr, in radians, whatever the losses' scale and the number of channels and samples. (The
    divisor is at least |M_k| / 1000: what is aligned stands still.) n samples and positions give S the rank 2 n.
    While 4 n <= d the exponential is taken in their span, exactly, for O(d^2 n); beyond, of the d x d matrix.
    `update: adam` is the paper's: R_k = exp(A_k - A_k^T), and Adam moves the d^2 entries of A_k. It costs about
    20 d^3 a task and step, and wide features need a lower lr, as every entry moves by it.

    The entries of A_k start random with a standard deviation of 1e-2: from exact identities a symmetric conflict
    would never be resolved. |G_k^0| is the length at the task's first step, taken anew at step `burn_in`.

    Source: Javaloy and Valera, RotoGrad, ICLR 2022, arXiv 2103.02631.

    Memory: K d^2 numbers; with `update: adam` five times that.

    Args:
        update: how the rotations move, `geodesic` or `adam`.
        dim: rotate the first `dim` channels (null: all).
        level: which level of a pyramid is rotated (-1: the deepest). Lengths always are those over all levels.
        burn_in: steps after which |G_k^0| is taken once more.
        rotate_only, scale_only: the paper's two ablations.
        lr, lr_decay: of the rotations; slower than the network's, as the leader of a Stackelberg game. Without lr
            it is 2e-3 for `geodesic` and 5e-4 for `adam` (the paper's choice on digits, beside 1e-3).

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

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        update: str = "geodesic",
        dim: int | None = None,
        level: int = -1,
        burn_in: int = 0,
        rotate_only: bool = False,
        scale_only: bool = False,
        lr: float | None = None,
        lr_decay: float = 1.0,
    ) -> None:
        if update not in RATES:
            raise ValueError(f"balancer.update must be one of {', '.join(RATES)}; got {update!r}.")
        super().__init__(tasks, lr=RATES[update] if lr is None else lr, lr_decay=lr_decay)
        if rotate_only and scale_only:
            raise ValueError("balancer.rotate_only and balancer.scale_only exclude each other.")
        self.update = update
        self.dim = dim
        self.level = level
        self.burn_in = burn_in
        self.rotate = not scale_only
        self.scale = not rotate_only
        self.initial_norm = per_task(tasks, torch.zeros(()))
        self.rotation = nn.ParameterDict()  # R_k
        self.generator = nn.ParameterDict()  # A_k, for `adam`
        # What the micro-batches of this step say of M_k: factors (U_k, V) with M_k = U_k^T V, or (M_k^T, None).
        self._noted: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
        self._noted_at = -1

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        if not self.rotate:
            return
        d = width(encoder, self.level, self.dim)
        generator = per_task(self.tasks, torch.zeros(d, d), learned=self.update == "adam")
        self.rotation = per_task(self.tasks, torch.eye(d))
        for task in sorted(self.tasks):
            generator[task].data.normal_(std=1e-2)
            self.rotation[task].data.copy_(skew_exponential(generator[task].data))
        if self.update == "adam":
            self.generator = generator

    def adapter(self, task: str, features: Features) -> Features:
        if not self.rotate:
            return features
        return transform(features, self.level, self.rotation[task])

    def combine(self, step: "Step") -> Tensor:
        norms = step.norms
        for task, norm in zip(step.tasks, norms, strict=True):
            if self.initial_norm[task] == 0 or step.number == self.burn_in:
                self.initial_norm[task].copy_(norm)
        if self.rotate:
            self._note_directions(step, norms)
        if not self.scale:
            return torch.ones_like(norms)
        ratios = norms * inverse(stack(self.initial_norm, step.tasks).double())
        alpha = ratios * inverse(ratios.sum())
        return (alpha * norms).sum() * inverse(norms)

    def _note_directions(self, step: "Step", norms: Tensor) -> None:
        if self._noted_at != step.number:
            self._noted, self._noted_at = {}, step.number
        if all(row[self.level] is None for row in step.local_gradients):  # no present task uses this level
            return
        d = len(self.rotation[step.tasks[0]])
        units = unit_gradients(step, self.level, d)  # u_{n,k}, n over samples and positions
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
                self._noted.setdefault(task, []).append(pair)
            else:
                self._add_gradient(step, task, norm * pair[0].T)

    def _add_gradient(self, step: "Step", task: str, total: Tensor) -> None:
        rotated = self.rotation[task] @ total.to(self.rotation[task].dtype)  # sum_n g~_n v_n^T, as g~ = R g
        with torch.enable_grad():
            generator = self.generator[task]
            loss = -(skew_exponential(generator) * rotated).sum()
            (gradient,) = torch.autograd.grad(loss, generator)
        step.add_gradient(generator, gradient)

    @torch.no_grad()
    def after_step(self, step: "Step") -> None:
        if self.update == "adam":
            for task, generator in self.generator.items():
                self.rotation[task].copy_(skew_exponential(generator))
            return
        for task, pairs in self._noted.items():
            rotation = self.rotation[task]
            turn(rotation, pairs, step.rate)
            if step.number % 100 == 0:  # rounding adds up
                orthogonalise(rotation)
        self._noted = {}


def turn(rotation: Tensor, pairs: Sequence[tuple[Tensor, Tensor | None]], arc: float) -> None:
    """R <- R exp(S), S = arc sqrt(2) (M - M^T) / |M - M^T|, in place; M is the sum of left^T right over the pairs.

    Without a `right` the `left` is M^T itself. See `RotoGrad`.
    """
    d = len(rotation)
    pairs = [(left.to(rotation.dtype), None if right is None else right.to(rotation.dtype)) for left, right in pairs]
    if 4 * sum(len(left) for left, _ in pairs) > d:
        total = torch.stack([left.T if right is None else left.T @ right for left, right in pairs]).sum(0)
        rotation.copy_(rotation @ torch.linalg.matrix_exp(_skew(total, arc)))
        return
    left, right = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    basis = torch.linalg.qr(torch.cat([left, right]).T).Q  # (d, 2n): S acts in this span only
    power = torch.linalg.matrix_exp(_skew((left @ basis).T @ (right @ basis), arc))
    rotation.addmm_(rotation @ basis @ (power - torch.eye(len(power)).to(power)), basis.T)


def _skew(total: Tensor, arc: float) -> Tensor:
    skew = total - total.T
    size = skew.norm().clamp_min(1e-3 * total.norm()).clamp_min(torch.finfo(total.dtype).tiny)
    return skew / size * (arc * 2**0.5)
