"""The space of the shared parameters: one encoder backward pass per task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mtlkit import contract
from mtlkit.engine.parameter_gram import Plan, gram_over
from mtlkit.engine.shards import here, shard_of_sum, sum_over_shards, with_shard
from mtlkit.engine.shared import Shared, shared_parameters
from mtlkit.engine.space import FeatureSpace, Space
from mtlkit.gradients import Row, at_least_float32, inner_products, pull_back, weighted_sum
from mtlkit.network import Features


class ParameterGramSpace(FeatureSpace):
    """Compares the gradients over the shared parameters; the combined gradient is that of the features.

    It suits methods that need only the Gram matrix: they give weights, and the encoder's own backward pass makes the
    weighted gradient. No gradient over all parameters is made before.
    """

    def __init__(self, plan: Plan, levels: Features, encoder: Shared, *given: Any) -> None:
        super().__init__(levels, encoder, *given)
        self._parameters = parameters_of(encoder)
        self._plan: Plan | None = plan

    def release(self) -> None:
        super().release()
        self._parameters, self._plan = [], None

    @property
    def form(self) -> Features:
        raise ValueError(
            "balancer.space=parameters: `combine` returned a gradient in place of weights. Then the class must declare "
            "that it needs the gradients themselves: needs = frozenset({'gram', 'jacobian'})."
        )

    def _gram_of_rows(self) -> Tensor:
        rows = contract.known(self.rows, "gram", "`combine`")
        return gram_over(self.levels, rows, self._parameters, self.samples, self._plan)


class ParameterSpace(Space):
    """The gradients over the shared parameters, by one encoder backward pass per task (two where halves are needed).

    They are summed over processes before they are compared: all processes have the same parameters, unlike features, so
    inner products of the parts do not add up. The parameters themselves are inputs of the tap, which gives each one its
    gradient. So the encoder's own backward pass never runs.

    FSDP2 leaves each process a shard of a parameter. Of such a parameter, each process keeps its shard of the K sums,
    and the inner products of the shards add up.
    """

    def __init__(self, levels: Features, encoder: Shared, *given: Any) -> None:
        super().__init__(levels, encoder, *given)
        shared = parameters_of(encoder)
        # Those of which this process has only a shard come last, and so do their columns in the gradients.
        self._order = sorted(range(len(shared)), key=lambda i: isinstance(shared[i], DTensor))
        self.parameters = [shared[i] for i in self._order]
        self._split = [p for p in self.parameters if isinstance(p, DTensor)]
        self._sizes = [here(parameter).numel() for parameter in self.parameters]
        self._wholes = sum(self._sizes[: len(shared) - len(self._split)])  # the number of columns of whole parameters
        # The tap hands out the features cut off from the encoder, and passes the gradient to the parameters directly.
        self.inputs = [*(level.detach() for level in levels), *self.parameters]
        self._halves: Tensor | None = None  # (2, k, P)
        self._total: Tensor | None = None  # (k, P), without the columns of other processes' shards

    def receive(self, rows: list[Row], seed: Tensor) -> None:
        super().receive(rows, seed)
        rows = self.rows
        parts = [half_of(row, half, self.samples.rank) for half in (0, 1) for row in rows] if self.halves else rows
        total = at_least_float32(here(self.parameters[0]).detach()).new_empty(len(parts), sum(self._sizes))
        whole = self.parameters
        if self._split:  # the graph of the encoder has the whole parameters, which FSDP has freed meanwhile
            self.shards.gather()
            shared = shared_parameters(self.encoder)
            whole = [shared[i] for i in self._order]
        for i, row in enumerate(parts):
            last = i == len(parts) - 1  # after which nobody needs the encoder's graph
            found = pull_back(self.levels, row, whole, retain_graph=not last)
            for j, like in enumerate(self._split, start=len(whole) - len(self._split)):
                found[j] = shard_of_sum(like, found[j].view(like.shape)).flatten()
            torch.cat(found, out=total[i])
        # One collective for all K gradients, and no copy of them. Of the shards, the sums are there already.
        if self._split:
            total[:, : self._wholes] = self.samples.sum(total[:, : self._wholes])
        else:
            self.samples.add(total)
        self._halves = total.view(2, len(rows), -1) if self.halves else None
        self._total = total if self._halves is None else self._halves.sum(0)  # `unit` times too large, like the rows

    def release(self) -> None:
        super().release()
        self._total = self._halves = None

    @property
    def form(self) -> Features:
        return [self._whole("form")[0]]

    def jacobian(self) -> Tensor:
        assert not self._split, "`check_sharing` refused methods that read whole gradients"
        total = self._whole("jacobian")
        return total / self.unit.to(total.dtype)

    def _gram_of_rows(self) -> Tensor:
        return self._products(self._whole("gram"))

    def cross_gram(self) -> Tensor:
        self._whole("cross_gram")
        assert self._halves is not None, "`step.cross_gram` needs `needs = {'second_batch'}`"
        first, second = self._halves  # each is half of what the whole batch has, so each counts twice
        return 4 * self.true_size(self._products(first, second))

    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        total = weighted_sum(self._whole("jacobian").unbind(), weights / self.samples.size)
        assert total is not None
        return self._handed_out(total)

    def given(self, gradient: Features) -> list[Tensor | None]:
        (flat,) = gradient
        return self._handed_out(flat * self.seed.to(flat.dtype))

    def products(self, gradient: Features) -> Tensor:
        (flat,) = gradient
        mine = inner_products(self._whole("jacobian").unbind(), [flat])[:, 0] / self.unit.double()
        return torch.cat([mine, inner_products([flat])[0]])

    def _whole(self, name: str) -> Tensor:
        return contract.known(self._total, name, "`combine`")

    def _products(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Returns the inner products of the rows, over all columns of all processes."""
        n = self._wholes
        parts = [(left[:, :n], None if right is None else right[:, :n])] if n else []
        parts += [(left[:, n:], None if right is None else right[:, n:])] if self._split else []
        found = [inner_products(a.unbind(), None if b is None else b.unbind()) for a, b in parts]
        if self._split:
            found[-1] = sum_over_shards(self._split[0], found[-1])
        return torch.stack(found).sum(0)

    def _handed_out(self, flat: Tensor) -> list[Tensor | None]:
        """Returns each parameter's part. It is equal on all processes, so DDP's mean does not change it.

        Of a shard, FSDP takes no mean: the part goes to the parameter as it is.
        """
        parts = flat.split(self._sizes)
        shaped = [
            with_shard(parameter, part) if isinstance(parameter, DTensor) else part.view_as(parameter)
            for part, parameter in zip(parts, self.parameters, strict=True)
        ]
        return [*(None for _ in self.levels), *shaped]


def parameters_of(encoder: Shared) -> list[Tensor]:
    found = shared_parameters(encoder)
    if not found:
        raise ValueError("balancer.space=parameters needs an encoder with trainable parameters; this one has none.")
    return found


def half_of(row: Row, half: int, rank: int) -> Row:
    """Returns the gradients of the even (0) or odd (1) samples, counted over all processes; zeros for the others."""
    found: Row = []
    for g in row:
        if g is not None:
            number = rank * len(g) + torch.arange(len(g), device=g.device)
            g = g * (number % 2 == half).view(-1, *[1] * (g.dim() - 1))
        found.append(g)
    return found
