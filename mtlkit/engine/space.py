"""The spaces in which task gradients are compared: the shared features and the encoder's last layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtlkit import contract
from mtlkit.engine.parameter_gram import gram_over, gram_with_graph
from mtlkit.engine.shards import Shards
from mtlkit.engine.shared import Shared
from mtlkit.gradients import Row, at_least_float32, gradients_of, gram_of, weighted_sum
from mtlkit.network import Features
from mtlkit.sample_group import SampleGroup, of_all_ranks
from mtlkit.task_gradients import TaskGradients


class Space(TaskGradients):
    """Holds the K task gradients of one backward pass. A balancer reads them here, and here they become one gradient.

    The gradients become known in one of two ways. `receive` takes them when they arrive at the tap. For a method that
    differentiates them once more, `differentiate` says how to compute them before the backward pass. `release` frees
    both; the Gram matrix stays.

    Attributes:
        levels: the shared features, one tensor per level.
        inputs: the inputs of the tap. It gives out aliases of the first ones, one per level, and returns a gradient for
            each input.
        rows: the gradients at the features as they arrive, one row per present task; `unit` times too large.
        seed: the factor that the backward pass started with. A gradient arrives `seed` times too large.
        unit: the same, times the number of processes: each process's losses carry that factor, as DDP averages.
        samples: the processes over which samples differ.
        shards: the parameters of which this process holds only a part.
        on_host: copies a value to the host, with its graph.
        known_gram: the Gram matrix, on the host, if it was computed already.
    """

    def __init__(
        self,
        levels: Features,
        encoder: Shared,
        halves: bool,
        samples: SampleGroup,
        shards: Shards,
        on_host: Callable[[Tensor], Tensor],
    ) -> None:
        self.levels = levels
        self.encoder = encoder
        self.halves = halves
        self.samples = samples
        self.shards = shards
        self.on_host = on_host
        self.inputs: list[Tensor] = levels
        self.rows: list[Row] = []
        self.seed = self.unit = torch.ones(())
        self._graph: list[tuple[Tensor, Features]] = []  # each present task's mean loss and its own features
        self.known_gram: Tensor | None = None

    def receive(self, rows: list[Row], seed: Tensor) -> None:
        """Takes the gradients at the features; `seed` is the factor that the backward pass started with."""
        # Behind a level of frozen layers there is nothing that learns, so its gradients count for nothing.
        frozen = [not level.requires_grad for level in self.levels]
        rows = [[None if still else g for g, still in zip(row, frozen, strict=True)] for row in rows]
        self.rows, self.seed, self.unit = rows, seed, seed * self.samples.size

    # A method with a double backward reads the gradients before the backward pass, so there is no tap to receive them.
    def differentiate(self, means: Sequence[Tensor], aliases: Sequence[Features]) -> None:
        """Makes the gradients the derivatives of the mean losses by each task's own features."""
        self._graph = list(zip(means, aliases, strict=True))

    def release(self) -> None:
        """Frees the gradients and the graph, which hold much memory."""
        self.levels, self.inputs, self.rows, self._graph = [], [], [], []
        self.known_gram = None if self.known_gram is None else self.known_gram.detach()

    def gram(self) -> Tensor:
        if self.known_gram is None:
            if self._graph:
                self.known_gram = self.on_host(self._gram_with_graph(self._graph))
            else:
                self.known_gram = self.true_size(self._gram_of_rows())
        return self.known_gram

    def true_size(self, products: Tensor) -> Tensor:
        """Returns inner products of gradients that arrived on the host, without the factor `unit` of each gradient.

        This is the one place where the host waits for the device inside the backward pass.
        """
        found = torch.cat([products.flatten(), self.unit.double().view(1)]).to("cpu")
        return found[:-1].view_as(products) / found[-1] ** 2

    def local_gradients(self) -> list[Row]:
        if self._graph:
            with self.shards.kept():
                rows = [gradients_of(mean, aliases) for mean, aliases in self._graph]
            return [[g / self.samples.size for g in row] for row in rows]
        arrived = contract.known(self.rows, "local_gradients", "`combine`")
        return [[None if g is None else at_least_float32(g) / self.unit for g in row] for row in arrived]

    def local_features(self) -> Features:
        return [level.detach() for level in contract.known(self.levels, "local_features", "`combine`")]

    def reaches(self, level: int) -> bool:
        arrived = contract.known(self.rows, "reaches", "`combine`")
        return any(row[level] is not None for row in arrived)

    def cross_gram(self) -> Tensor:
        raise AssertionError("`Step` asks the space `parameters` only")

    def jacobian(self) -> Tensor:
        raise AssertionError("`Step` asks the space `parameters` only")

    @property
    def form(self) -> Features:
        """Tensors of the shapes of a gradient that a balancer may give."""
        return self.levels

    @abstractmethod
    def _gram_of_rows(self) -> Tensor:
        """Returns the Gram matrix of the gradients that arrived: on the device, and `unit` squared too large."""

    def _gram_with_graph(self, graph: Sequence[tuple[Tensor, Features]]) -> Tensor:
        """Returns the Gram matrix before the backward pass, with a graph, so that it can be differentiated."""
        raise AssertionError("no method with a double backward works in the space `parameters`")

    @abstractmethod
    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        """Returns the gradient for each input, for these weights of the tasks."""

    @abstractmethod
    def given(self, gradient: Features) -> list[Tensor | None]:
        """Returns the gradient for each input, for a gradient that the balancer computed itself."""

    @abstractmethod
    def products(self, gradient: Features) -> Tensor:
        """Returns its (k + 1,) inner products with the tasks' gradients and with itself, over all processes."""


class FeatureSpace(Space):
    """The gradients at the features. Each process has other samples, so the Gram matrices of the processes add up."""

    def _gram_of_rows(self) -> Tensor:
        return self.samples.sum(gram_of(contract.known(self.rows, "gram", "`combine`")))

    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        # The rows keep their factor `unit`: the encoder's own backward pass, DDP and the loss scaler expect it.
        return [weighted_sum(level, weights) for level in zip(*self.rows, strict=True)]

    def given(self, gradient: Features) -> list[Tensor | None]:
        # The balancer worked with gradients of the true size, so the factor is put back.
        return [level * self.unit for level in gradient]

    def products(self, gradient: Features) -> Tensor:
        found = self.samples.sum(gram_of([*self.rows, gradient])[-1])
        return torch.cat([found[:-1] / self.unit.double(), found[-1:]])

    def _gram_with_graph(self, graph: Sequence[tuple[Tensor, Features]]) -> Tensor:
        with self.shards.kept():
            local = [gradients_of(mean, levels) for mean, levels in graph]
        mine = gram_of(local) / self.samples.size
        # Its value is that of all processes, but its derivative is this process's part: DDP adds up the parts.
        return of_all_ranks(self.samples.sum(mine) / self.samples.size, mine)


class LastLayerSpace(FeatureSpace):
    """Compares the gradients of the last layer's weights; the combined gradient is that of the features."""

    def _gram_of_rows(self) -> Tensor:
        arrived = contract.known(self.rows, "gram", "`combine`")
        self.shards.gather()
        return gram_over(self.levels, arrived, [self._weight], self.samples)

    def _gram_with_graph(self, graph: Sequence[tuple[Tensor, Features]]) -> Tensor:
        self.shards.gather()
        weight, means = self._weight, [mean for mean, _ in graph]
        with self.shards.kept():
            return gram_with_graph(means, weight, self.samples)

    @property
    def _weight(self) -> Tensor:
        return self.encoder.last_layer.get_parameter("weight")
