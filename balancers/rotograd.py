"""RotoGrad: even lengths and aligned directions of the task gradients."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtlkit.balancer import BALANCERS, Balancer, per_task, stack
from mtlkit.task import EncoderInfo, Features, Task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("rotograd")
class RotoGrad(Balancer):
    """Rotates the features of each task so that the task gradients agree, and gives them one length.

    Length: with G_k the gradient of L_k at the features Z (all levels and positions), U_k = G_k / |G_k|,
    alpha_k = (|G_k| / |G_k^0|) / sum_i (|G_i| / |G_i^0|) and C = sum_k alpha_k |G_k|, the encoder gets C sum_k U_k.
    Direction: decoder k sees r_k = R_k z, with R_k = exp(A_k - A_k^T) a rotation of the channels; A_k descends on
    L_rot^k = -sum_n <R_k^T g~_{n,k}, v_n> at its own, lower rate, where g~_{n,k} = dL_k / dr_k and v_n =
    (1/K) sum_k u_{n,k}. As G~_k = G_k R_k^T, the d x d sums over samples sum_n g~_n v_n^T are all that this needs:
    there is no second backward pass, and the sums add over processes.

    The entries of A_k start random with a standard deviation of 1e-2: from exact identities a symmetric conflict
    would never be resolved. |G_k^0| is the length at the task's first step, taken anew at step `burn_in`.

    Source: Javaloy and Valera, RotoGrad, ICLR 2022, arXiv 2103.02631.

    Args:
        dim: rotate the first `dim` channels (null: all).
        level: which level of a pyramid is rotated (-1: the deepest). Lengths always are those over all levels.
        burn_in: steps after which |G_k^0| is taken once more.
        rotate_only, scale_only: the paper's two ablations.
        lr, lr_decay: of the rotations; slower than the network's, as the leader of a Stackelberg game (5e-4 beside
            1e-3 is the paper's choice on digits; wide features need less, as Adam moves all d^2 entries by lr).

    Memory: K d^2 numbers, three times that with Adam's.

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
        dim: int | None = None,
        level: int = -1,
        burn_in: int = 0,
        rotate_only: bool = False,
        scale_only: bool = False,
        lr: float = 5e-4,
        lr_decay: float = 1.0,
    ) -> None:
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        if rotate_only and scale_only:
            raise ValueError("balancer.rotate_only and balancer.scale_only exclude each other.")
        self.dim = dim
        self.level = level
        self.burn_in = burn_in
        self.rotate = not scale_only
        self.scale = not rotate_only
        self.initial_norm = per_task(tasks, torch.zeros(()))
        self.generator = nn.ParameterDict()  # A_k
        self.rotation = nn.ParameterDict()  # R_k, kept so that a forward pass is one product

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        if not self.rotate:
            return
        if not -len(encoder.channels) <= self.level < len(encoder.channels):
            raise ValueError(f"balancer.level is {self.level}, but the encoder shares {len(encoder.channels)} levels.")
        channels = encoder.channels[self.level]
        d = channels if self.dim is None else self.dim
        if not 2 <= d <= channels:
            raise ValueError(f"balancer.dim must be from 2 to {channels}, the level's channels; got {d}.")
        self.generator = per_task(self.tasks, torch.zeros(d, d), learned=True)
        self.rotation = per_task(self.tasks, torch.eye(d))
        for task in self.tasks:
            self.generator[task].data.normal_(std=1e-2)
        self._refresh()

    def adapter(self, task: str, features: Features) -> Features:
        if not self.rotate:
            return features
        rotation, z = self.rotation[task], features[self.level]
        d = len(rotation)
        rotated = torch.einsum("ij,bj...->bi...", rotation.to(z.dtype), z[:, :d])
        adapted = list(features)
        adapted[self.level] = rotated if d == z.shape[1] else torch.cat([rotated, z[:, d:]], dim=1)
        return adapted

    def combine(self, step: "Step") -> Tensor:
        norms = step.norms
        for task, norm in zip(step.tasks, norms, strict=True):
            if self.initial_norm[task] == 0 or step.number == self.burn_in:
                self.initial_norm[task].copy_(norm)
        if self.rotate:
            self._add_rotation_gradients(step, norms)
        if not self.scale:
            return torch.ones_like(norms)
        ratios = norms * _inverse(stack(self.initial_norm, step.tasks).double())
        alpha = ratios * _inverse(ratios.sum())
        return (alpha * norms).sum() * _inverse(norms)

    def _add_rotation_gradients(self, step: "Step", norms: Tensor) -> None:
        d = len(self.rotation[step.tasks[0]])
        rows = [row[self.level] for row in step.local_gradients]
        shape = next(row for row in rows if row is not None)
        flat = [
            (torch.zeros_like(shape) if row is None else row)[:, :d].transpose(0, 1).reshape(d, -1) for row in rows
        ]  # (d, n): one column a sample and position
        inverse = _inverse(norms)
        mean = sum(g * n.to(g.dtype) for g, n in zip(flat, inverse, strict=True)) / len(flat)
        sums = step.sum_over_ranks(torch.stack([g @ mean.T for g in flat]))  # (k, d, d): sum_n g_n v_n^T
        for task, total, n in zip(step.tasks, sums, inverse, strict=True):
            rotation = self.rotation[task]
            rotated = rotation @ total.to(rotation.dtype)  # sum_n g~_n v_n^T, as g~ = R g
            with torch.enable_grad():
                generator = self.generator[task]
                loss = -(_exponential(generator) * rotated).sum()
                (gradient,) = torch.autograd.grad(loss, generator)
            step.add_gradient(generator, gradient)
            step.extras[f"alignment/{task}"] = -total.diagonal().sum() * n

    def after_step(self, step: "Step") -> None:
        if self.rotate:
            self._refresh()

    @torch.no_grad()
    def _refresh(self) -> None:
        for task in self.tasks:
            self.rotation[task].copy_(_exponential(self.generator[task]))


def _inverse(values: Tensor) -> Tensor:
    """1/x, and 0 for a task without gradient."""
    return torch.where(values > 0, 1 / values, 0.0)


def _exponential(generator: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(generator - generator.T)
