"""Gradient-adversarial training: the model hides from a discriminator which task a gradient comes from."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.channels import width
from mtlkit.network import EncoderInfo
from mtlkit.option_checks import check_number, check_whole_number
from mtlkit.state import per_task, stack
from mtlkit.task import Task

if TYPE_CHECKING:
    from mtlkit.step import Step


@BALANCERS.register("adversarial")
class Adversarial(Balancer):
    """Makes the task gradients at the features indistinguishable, by true double backward.

    Let g_{k,n,p} be the gradient of L_k at position p of sample n's features, and v_{k,n,p} the same gradient divided
    by its root mean square length over the sample. A discriminator D (linear, ReLU, linear, with one output per task)
    learns to tell the task k from v_{k,n,p}. D descends on CE = mean_{k,n,p} cross-entropy(D(v_{k,n,p}), k), while
    encoder and decoders descend on sum_k L_k - alpha CE: the gradient of CE is reversed where it enters the v. A sample
    without a gradient of task k does not count in CE for this task. D distinguishes only the tasks that are present in
    the step. The scale of the losses has no effect on CE, so alpha is in the units of the losses. With `ramp_epochs`,
    alpha is multiplied by 2 / (1 + exp(-10 p)) - 1, where p grows from 1 / ramp_epochs in the first epoch to 1.

    Source: Maninis, Radosavovic and Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR 2019, arXiv
    1904.08918 (its adversarial part).

    Decoders: plain. The reversed gradient reaches them too, by its definition, as in the authors' code
    (facebookresearch/astmt, experiments/dense_predict).

    Differs from the published experiments: in the authors' code the reversed gradient grows over the whole training,
    which `ramp_epochs=N` gives for N epochs, and counts 1 % against 99 % of the losses, which `alpha=0.01` gives. The
    discriminator is as wide as the features, which `hidden=C` gives for C channels, and learns at ten times the model's
    rate, by SGD. The authors' code divides every position's gradient by its own length; mtlkit does not offer this.

    Memory: (C + 1) h numbers for C channels and h hidden units, and h + 1 per task. The state of Adam makes it three
    times as much.

    Args:
        alpha: the weight of the reversed gradient, >= 0.
        ramp_epochs: the number of epochs over which alpha grows (0: it has its full value from the start).
        hidden: the width of the discriminator.
        level: the level of a feature pyramid at which the gradients are taken (-1: the deepest).
        lr: the learning rate of the discriminator.
        lr_decay: the factor of that rate per step.

    Raises:
        ValueError: an option is out of its range, or, in training, a layer has no double backward.

    >>> from mtlkit import BALANCERS, EncoderInfo
    >>> balancer = BALANCERS.build("adversarial", tasks=("a", "b"), hidden=16)
    >>> balancer.setup({}, EncoderInfo(channels=(8,), strides=(0,)))
    >>> sum(p.numel() for p in balancer.parameters())  # (8 + 1) 16 + (16 + 1) 2
    178
    """

    needs = frozenset({"create_graph"})

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        alpha: float = 0.1,
        ramp_epochs: int = 0,
        hidden: int = 64,
        level: int = -1,
        lr: float = 1e-3,
        lr_decay: float = 1.0,
    ) -> None:
        super().__init__(tasks, lr=lr, lr_decay=lr_decay)
        check_number("balancer.alpha", alpha, "[0, inf)")
        check_whole_number("balancer.hidden", hidden, 1)
        check_whole_number("balancer.ramp_epochs", ramp_epochs, 0)
        self.alpha = alpha
        self.ramp_epochs = ramp_epochs
        self.equals_uniform = alpha == 0
        self.hidden = hidden
        self.level = level

    def setup(self, tasks: Mapping[str, Task], encoder: EncoderInfo) -> None:
        self.first = nn.Linear(width(encoder, self.level), self.hidden)
        self.output = per_task(self.tasks, torch.zeros(self.hidden), learned=True)
        self.output_bias = per_task(self.tasks, torch.zeros(1), learned=True)
        for task in sorted(self.tasks):
            nn.init.uniform_(self.output[task], -(self.hidden**-0.5), self.hidden**-0.5)

    def discriminate(self, vectors: Tensor, tasks: Sequence[str]) -> Tensor:
        """Returns the logits (n, k) of the named tasks for normalised gradients (n, C)."""
        return F.relu(self.first(vectors)) @ stack(self.output, tasks).T + stack(self.output_bias, tasks)[:, 0]

    def strength(self, epoch: int) -> float:
        """Returns the weight of the reversed gradient in an epoch, if it grows over epochs."""
        progress = min(epoch + 1, self.ramp_epochs) / self.ramp_epochs
        return self.alpha * (2 / (1 + math.exp(-10 * progress)) - 1)

    def objective(self, step: "Step") -> Tensor:
        gradients = [levels[self.level] for levels in step.local_gradients]
        found = [gradient.to(self.first.weight.dtype) for gradient in gradients if gradient is not None]
        assert len(found) == len(gradients)
        vectors, counts = _normalized(torch.cat(found))
        labels = torch.arange(len(found), device=vectors.device).repeat_interleave(len(vectors) // len(found))
        alpha = self.strength(step.epoch) if self.ramp_epochs else self.alpha
        reversed_ = vectors.detach() - alpha * (vectors - vectors.detach())  # the value of v, minus its gradient
        local = (F.cross_entropy(self.discriminate(reversed_, step.tasks), labels, reduction="none") * counts).sum()
        total, count = step.sum_over_ranks(torch.stack([local.detach(), counts.sum()]))
        step.extras["cross_entropy"] = total / count.clamp_min(1)
        # Gradients of processes are averaged, so this process's share of the mean is multiplied by their number.
        return step.losses.sum() + step.on_host(local * (step.samples.size / count.clamp_min(1)))


def _normalized(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Turns (B, C, ...) into (n, C): one row per position, with a mean square length of 1 in each sample.

    The second result (n,) is 1 for a row that counts, and 0 for those of a sample without a gradient, which stay 0.

    The rows are not divided by their own lengths: where contributions cancel, such a length is only rounding noise.
    """
    rows = gradient[..., None].flatten(2)
    # A factor, and not an index: the host would have to wait for the number of samples that remain.
    largest = rows.detach().abs().amax(dim=(1, 2), keepdim=True)
    counts = largest > 0
    rows = rows / torch.where(counts, largest, 1.0)  # squares of tiny numbers would vanish
    square = rows.square().sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
    rows = rows / torch.where(counts, square, 1.0).sqrt()
    return rows.transpose(1, 2).flatten(0, 1), counts.flatten().to(rows.dtype).repeat_interleave(rows.shape[2])
