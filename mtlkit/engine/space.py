"""The spaces in which task gradients are compared: the shared features, the encoder's last layer, its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from mtlkit.distributed import add_over_ranks, rank, sum_over_ranks, world_size
from mtlkit.gradients import Row, at_least_float32, gradients_of, gram_of, inner_products, weighted_sum
from mtlkit.network import Encoder, Features


def shared_parameters(encoder: Encoder) -> list[Tensor]:
    """What the tasks share, in the order of `Step.jacobian`'s columns."""
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


class Space(ABC):
    """The K task gradients of one backward pass, as a balancer sees them.

    Attributes:
        levels: the shared features, one tensor per level.
        inputs: what the tap stands on: it hands out aliases of the first ones, one tensor per level, and returns a
            gradient for each of them.
        rows: the gradients at the features as they arrive, one row per present task; `unit` times too large.
    """

    def __init__(self, levels: Features, encoder: Encoder, halves: bool) -> None:
        self.levels = levels
        self.encoder = encoder
        self.halves = halves
        self.inputs: list[Tensor] = levels
        self.rows: list[Row] = []
        self.seed = self.unit = torch.ones(())

    def receive(self, rows: list[Row], seed: Tensor) -> None:
        """Takes the gradients at the features; `seed` is the factor that the backward pass started with."""
        self.rows, self.seed, self.unit = rows, seed, seed * world_size()

    @property
    def form(self) -> Features:
        """Tensors of the shapes of a gradient that a balancer may give."""
        return self.levels

    @abstractmethod
    def gram(self) -> Tensor:
        """(k, k) float64: the inner products over all processes."""

    @abstractmethod
    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        """The gradient for each input that these weights of the tasks make."""

    @abstractmethod
    def given(self, gradient: Features) -> list[Tensor | None]:
        """The gradient for each input that the balancer worked out itself."""

    @abstractmethod
    def products(self, gradient: Features) -> Tensor:
        """(k + 1,) inner products of such a gradient with the tasks' ones and with itself, over all processes."""


class FeatureSpace(Space):
    """The gradients at the features. Samples differ between processes, so the Gram matrices of all processes add up."""

    def gram(self) -> Tensor:
        return sum_over_ranks(gram_of(self.rows)) / self.unit.double() ** 2

    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        return [weighted_sum(level, weights) for level in zip(*self.rows, strict=True)]

    def given(self, gradient: Features) -> list[Tensor | None]:
        return [level * self.unit for level in gradient]

    def products(self, gradient: Features) -> Tensor:
        found = sum_over_ranks(gram_of([*self.rows, gradient])[-1])
        return torch.cat([found[:-1] / self.unit.double(), found[-1:]])

    def gram_with_graph(self, means: Sequence[Tensor], aliases: Sequence[Features]) -> Tensor:
        """The same before the backward pass, differentiable."""
        local = [gradients_of(mean, levels) for mean, levels in zip(means, aliases, strict=True)]
        mine = gram_of(local) / world_size()
        return mine + (sum_over_ranks(mine) / world_size() - mine).detach()


class LastLayerSpace(FeatureSpace):
    """Compares the gradients of the last layer's weights; the combined gradient is that of the features."""

    def gram(self) -> Tensor:
        weight = self._weight
        rows = torch.stack([torch.cat(pull_back(self.levels, row, [weight])) for row in self.rows])
        return inner_products(add_over_ranks(rows).unbind()) / self.unit.double() ** 2

    def gram_with_graph(self, means: Sequence[Tensor], aliases: Sequence[Features]) -> Tensor:
        local = torch.stack([at_least_float32(gradients_of(mean, [self._weight])[0].flatten()) for mean in means])
        whole = local + (sum_over_ranks(local) / world_size() - local).detach()
        return inner_products(whole.unbind())

    @property
    def _weight(self) -> Tensor:
        return self.encoder.last_layer.get_parameter("weight")


class ParameterSpace(Space):
    """The gradients over the shared parameters, by one encoder backward pass per task (two where halves are needed).

    They are summed over processes before anything is compared: gradients of parameters, unlike those of features,
    overlap between processes. The tap stands on the parameters themselves and gives each its gradient, so the
    encoder's own backward pass never runs.

    """

    def __init__(self, levels: Features, encoder: Encoder, halves: bool) -> None:
        super().__init__(levels, encoder, halves)
        self.parameters = shared_parameters(encoder)
        if not self.parameters:
            raise ValueError("balancer.space=parameters needs an encoder with trainable parameters; this one has none.")
        self.inputs = [*(level.detach() for level in levels), *self.parameters]

    def receive(self, rows: list[Row], seed: Tensor) -> None:
        super().receive(rows, seed)
        parts = [half_of(row, half) for half in (0, 1) for row in rows] if self.halves else rows
        size = sum(parameter.numel() for parameter in self.parameters)
        total = at_least_float32(self.parameters[0].detach()).new_empty(len(parts), size)
        for i, row in enumerate(parts):
            last = i == len(parts) - 1
            torch.cat(pull_back(self.levels, row, self.parameters, retain_graph=not last), out=total[i])
        add_over_ranks(total)
        self._halves = total.view(2, len(rows), size) if self.halves else None
        self._total = total if self._halves is None else self._halves.sum(0)  # `unit` times too large, like the rows

    @property
    def form(self) -> Features:
        return [self._total[0]]

    @property
    def jacobian(self) -> Tensor:
        """(k, P): the gradients of the tasks' losses, over all processes."""
        return self._total / self.unit.to(self._total.dtype)

    def gram(self) -> Tensor:
        return inner_products(self._total.unbind()) / self.unit.double() ** 2

    def cross_gram(self) -> Tensor:
        """(k, k) float64: <g_i on the even samples, g_j on the odd ones>."""
        assert self._halves is not None, "`step.cross_gram` needs `needs = {'second_batch'}`"
        first, second = self._halves  # each estimates one half of the whole gradient
        return 4 * inner_products(first.unbind(), second.unbind()) / self.unit.double() ** 2

    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        total = weighted_sum(self._total.unbind(), weights / world_size())
        assert total is not None
        return self._handed_out(total)

    def given(self, gradient: Features) -> list[Tensor | None]:
        (flat,) = gradient
        return self._handed_out(flat * self.seed.to(flat.dtype))

    def products(self, gradient: Features) -> Tensor:
        (flat,) = gradient
        mine = inner_products(self._total.unbind(), [flat])[:, 0] / self.unit.double()
        return torch.cat([mine, inner_products([flat])[0]])

    def _handed_out(self, flat: Tensor) -> list[Tensor | None]:
        """Each parameter's part: equal on all processes, so their mean is the same."""
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        shaped = [part.view_as(parameter) for part, parameter in zip(parts, self.parameters, strict=True)]
        return [*(None for _ in self.levels), *shaped]


SPACES: dict[str, type[Space]] = {
    "features": FeatureSpace,
    "last_layer": LastLayerSpace,
    "parameters": ParameterSpace,
}


def pull_back(levels: Features, row: Row, inputs: Sequence[Tensor], *, retain_graph: bool = True) -> list[Tensor]:
    """A task's gradient at the features carried back to `inputs`, flattened; zeros where it does not reach."""
    used = [i for i, g in enumerate(row) if g is not None]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if used:
        outputs, cotangents = [levels[i] for i in used], [row[i] for i in used]
        with torch.enable_grad():
            found = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=retain_graph, allow_unused=True)
    return [
        at_least_float32(torch.zeros_like(x) if g is None else g).flatten() for g, x in zip(found, inputs, strict=True)
    ]


def half_of(row: Row, half: int) -> Row:
    """The gradients of the even (0) or odd (1) samples, counted over all processes; zeros for the others."""
    found: Row = []
    for g in row:
        if g is not None:
            number = rank() * len(g) + torch.arange(len(g), device=g.device)
            g = g * (number % 2 == half).view(-1, *[1] * (g.dim() - 1))
        found.append(g)
    return found
