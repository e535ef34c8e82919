"""What one step knows: losses, task gradients, their Gram matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import torch
from torch import Tensor

from mtlkit.balancer import Balancer
from mtlkit.distributed import join_over_ranks, sum_over_ranks, world_size
from mtlkit.losses import Losses, LossMeans
from mtlkit.normalization import FirstLosses
from mtlkit.space import SPACES, FeatureSpace, ParameterSpace, Space
from mtlkit.tap import Coefficients, Row, Seed, Tap, at_least_float32, gradients_of
from mtlkit.task import Encoder, Features, no_loss


class Step:
    """What one micro-batch's step knows. Equal on all processes unless the name starts with `local_`.

    Attributes:
        number, epoch: how many optimizer steps and epochs came before.
        rate: the balancer's learning rate in this step.
        tasks: the names of the tasks with at least one valid label on any process; the rows of all below.
        losses: (k,) means over all valid elements of all processes; differentiable in `objective`.
        losses_after: (k,) the same once the model has moved, in `after_model`, for `second_forward`.
        indicators: (k,) how well each task does on the batch, in [0, 1], for `indicators`.
        raw_losses: name -> the loss as a number, before it is divided by the first losses.
        coefficients: (k,) derivatives of the objective by the losses, known from the backward pass on.
        weights: (k,) factors of the task gradients in the encoder's gradient (None for elementwise methods).
        decoder_weights: (k,) the decoders' factors, where they get any; `combine` may set it (None: `weights`).
        finite: whether the task gradients are finite; if not, `combine` was not asked.
        extras: further scalars to log, by name; a balancer may add some.
    """

    losses_after: Tensor
    indicators: Tensor
    _record: LossMeans
    inputs: tuple[Tensor, dict[str, Tensor]]  # image and targets, for a second forward pass

    def __init__(
        self,
        balancer: Balancer,
        encoder: Encoder,
        *,
        number: int = 0,
        epoch: int = 0,
        rate: float = 0.0,
        accumulation: int = 1,
        first_losses: FirstLosses | None = None,
        observe: bool = False,
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.rate = rate
        self.tasks: tuple[str, ...] = ()
        self.losses = torch.empty(0)
        self.raw_losses: dict[str, float] = {}
        self.coefficients: Tensor | None = None
        self.weights: Tensor | None = None
        self.decoder_weights: Tensor | None = None
        self.finite = True
        self.extras: dict[str, Tensor] = {}
        self._balancer = balancer
        self._encoder = encoder
        self._accumulation = accumulation
        self._first_losses = first_losses or FirstLosses()
        self._observe = observe or "gram" in balancer.needs
        self._create_graph = "create_graph" in balancer.needs
        self._space: Space | None = None  # until the features are known, and after the backward pass
        self._aliases: dict[str, Features] = {}
        self._seed = torch.ones(())
        self._gram: Tensor | None = None
        self._products: Tensor | None = None  # of a gradient without weights, with the tasks' ones and itself

    @torch.compiler.disable
    def tap(self, features: Features) -> dict[str, Features]:
        """The shared features as each task's decoder gets them; their gradients come together in `combine`."""
        names, n = self._balancer.tasks, len(features)
        halves = "second_batch" in self._balancer.needs
        self._space = SPACES[self._balancer.space](features, self._encoder, halves)
        if self._create_graph or not torch.is_grad_enabled():
            aliases = [level.view_as(level) for _ in names for level in features]
        else:
            aliases = list(Tap.apply(self, len(names), n, *self._space.inputs))
        self._aliases = {name: aliases[k * n : (k + 1) * n] for k, name in enumerate(names)}
        return {name: self._balancer.adapter(name, self._aliases[name]) for name in names}

    def record(self, losses: Losses, outputs: Mapping[str, Tensor]) -> None:
        """Takes this process's (sum, count) of every task and makes global means of them."""
        self._record = LossMeans(losses, outputs, self._first_losses, self.number)
        self.tasks, self.raw_losses = self._record.tasks, self._record.raw
        if self.tasks:
            self.losses = Coefficients.apply(self, not self._create_graph, *self._record.means)

    def record_indicators(self, indicators: Mapping[str, tuple[Tensor, Tensor] | None]) -> None:
        """Takes this process's (sum, count) of every task's indicator."""
        self.indicators = self.losses.detach().new_tensor(self._record.indicators(indicators))

    def record_after(self, losses: Losses) -> None:
        """Takes the losses of the same batch once more, when the model has moved."""
        self.losses_after = self.losses.detach().new_tensor(self._record.after(losses))

    def backward(self, backward: Callable[[Tensor], None]) -> None:
        """Runs the one backward pass; raises `ValueError` where a needed double backward does not exist."""
        total = self._record.anchors + [no_loss(level)[0] for level in self.space.levels if self._create_graph]
        try:
            total += [self._balancer.objective(self)] if self.tasks else []
            backward(Seed.apply(self, sum(total[1:], total[0])))
        except RuntimeError as error:
            if self._create_graph and ("is not implemented" in str(error) or "differentiate twice" in str(error)):
                raise ValueError(
                    f"{type(self._balancer).__name__} needs a double backward that a layer of this model does not have "
                    f"({error}). Choose another encoder or decoder, or another balancer."
                ) from error
            raise
        if self._create_graph:
            self.weights = self.coefficients
        self._space, self._aliases = None, {}  # what holds the graph; the numbers stay
        self._record.means, self._record.anchors = [], []
        self.losses = self.losses.detach()
        self._gram = None if self._gram is None else self._gram.detach()

    # -- what a balancer may ask for --------------------------------------------------------------------------

    @property
    def space(self) -> Space:
        """The task gradients of the present backward pass, as the balancer's space compares them."""
        assert self._space is not None, "the features are known from the forward to the end of the backward pass only"
        return self._space

    @property
    def gram(self) -> Tensor:
        """(k, k) float64: inner products of the gradients of `losses` in the balancer's space, over all processes."""
        if self._gram is None:
            if self.space.rows:
                self._gram = self.space.gram()
            else:
                assert self._create_graph, "`step.gram` before the backward pass needs `needs = {'create_graph'}`"
                assert isinstance(self.space, FeatureSpace)
                aliases = [self._aliases[task] for task in self.tasks]
                self._gram = self.space.gram_with_graph(self._record.means, aliases)
        return self._gram

    @property
    def cross_gram(self) -> Tensor:
        """(k, k) float64: entry ij is the inner product of g_i on one half of the batch and g_j on the other."""
        assert isinstance(self.space, ParameterSpace)
        return self.space.cross_gram()

    @property
    def jacobian(self) -> Tensor:
        """(k, P): the gradients over the shared parameters, over all processes, in the space `parameters`."""
        assert isinstance(self.space, ParameterSpace)
        return self.space.jacobian

    @property
    def norms(self) -> Tensor:
        """(k,) float64: lengths of the task gradients."""
        return self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def scale(self) -> Tensor:
        """The loss scale of mixed precision: what the gradients of the balancer's parameters are too large by."""
        return self._seed * self._accumulation

    @property
    def local_gradients(self) -> list[Row]:
        """d loss_k / d features on this process's samples: a row a task, a tensor a level (None: not used)."""
        if self._create_graph:
            pairs = zip(self.tasks, self._record.means, strict=True)
            rows = [gradients_of(mean, self._aliases[task]) for task, mean in pairs]
            return [[g / world_size() for g in row] for row in rows]
        assert self.space.rows, "gradients at the features are known in `combine` only"
        unit = self.space.unit
        return [[None if g is None else at_least_float32(g) / unit for g in row] for row in self.space.rows]

    @property
    def local_features(self) -> Features:
        """The shared features of this process's samples, a tensor a level."""
        return [level.detach() for level in self.space.levels]

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        """Adds to the gradient of a parameter of the balancer's, on the same scale as the backward pass does."""
        gradient = gradient.to(parameter.dtype) * self._seed.to(parameter.dtype)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def add_change(self, state: Tensor, change: Tensor) -> None:
        """Adds to what a kept state moves by after the step: the mean over its micro-batches."""
        self.add_gradient(state, change)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over processes of something `local_`."""
        return sum_over_ranks(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of something `local_` of all processes, in order of rank; equally many on each."""
        return join_over_ranks(tensor)

    # -- inside the backward pass -----------------------------------------------------------------------------

    def _combine(self, rows: list[Row]) -> list[Tensor | None]:
        names = self._balancer.tasks
        if not self.tasks:
            return [None] * len(self.space.inputs)
        assert self.coefficients is not None
        self.space.receive([rows[names.index(task)] for task in self.tasks], self._seed)
        with torch.no_grad():
            if self._observe:
                self.finite = bool(torch.isfinite(self.gram).all())
            combined: Tensor | Features = self.losses.new_ones(len(self.tasks))
            if self.finite:
                combined = self._balancer.combine(self)
            if isinstance(combined, Tensor):
                if combined.shape != self.losses.shape:
                    raise ValueError(
                        f"{type(self._balancer).__name__} must give a weight for each of {', '.join(self.tasks)}, "
                        f"got the shape {tuple(combined.shape)}."
                    )
                self.weights = self.coefficients * combined.to(self.coefficients.dtype)
                result = self.space.weighted(self.weights)
            else:
                if self._observe:
                    self._products = self.space.products(combined)
                result = self.space.given(combined)
        self.space.rows = []  # frees the K gradients before the encoder's backward pass begins
        return result

    def scalars(self) -> dict[str, float]:
        """What the log keeps of this step, under the keys of `metrics.jsonl`."""
        found = {f"loss/{name}": loss for name, loss in self.raw_losses.items()}
        if self.weights is not None:
            found |= {f"weight/{t}": w for t, w in zip(self.tasks, self.weights.tolist(), strict=True)}
        if self._gram is not None and self.finite:
            norms = self.norms
            found |= {f"grad_norm/{t}": n for t, n in zip(self.tasks, norms.tolist(), strict=True)}
            scaled = norms.clamp_min(torch.finfo(norms.dtype).tiny)
            cosines = (self.gram / scaled / scaled[:, None]).tolist()
            for (i, a), (j, b) in combinations(enumerate(self.tasks), 2):
                found[f"cosine/{a}/{b}"] = cosines[i][j]
            if self._products is not None:
                length = self._products[-1].clamp_min(0).sqrt()
                alignment = self._products[:-1] / length.clamp_min(torch.finfo(norms.dtype).tiny) / scaled
                found |= {f"direction/{t}": c for t, c in zip(self.tasks, alignment.tolist(), strict=True)}
                found["direction_norm"] = float(length)
        return found | {f"balancer/{name}": float(value) for name, value in self.extras.items()}
