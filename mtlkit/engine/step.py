"""What one step knows: losses, task gradients, their Gram matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mtlkit import contract
from mtlkit.balancer import Balancer
from mtlkit.distributed import join_over_ranks, sum_over_ranks, world_size
from mtlkit.engine.losses import FirstLosses, Losses, LossMeans
from mtlkit.engine.scalars import gradient_scalars
from mtlkit.engine.space import SPACES, FeatureSpace, ParameterSpace, Space
from mtlkit.engine.tap import Coefficients, Seed, Tap
from mtlkit.gradients import Row, at_least_float32, gradients_of
from mtlkit.network import Encoder, Features
from mtlkit.task import no_loss


class Step:
    """What one micro-batch's step knows. Equal on all processes unless the name starts with `local_`.

    Attributes:
        number, epoch: how many optimizer steps and epochs came before.
        rate: the balancer's learning rate in this step.
        tasks: the names of the tasks with at least one valid label on any process; the rows of all below.
        losses: (k,) means over all valid elements of all processes; differentiable in `objective`.
        raw_losses: name -> the loss as a number, before it is divided by the first losses.
        coefficients: (k,) derivatives of the objective by the losses, known from the backward pass on.
        weights: (k,) factors of the task gradients in the encoder's gradient (None for elementwise methods).
        decoder_weights: (k,) the decoders' factors, where they get any; `combine` may set it (None: `weights`).
        finite: whether the task gradients are finite; if not, `combine` was not asked.
        extras: further scalars to log, by name; a balancer may add some.
    """

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
        self._later: dict[str, Tensor] = {}  # what is recorded for a need
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
        own = self._balancer
        return {n: contract.check_adapted(own, n, own.adapter(n, a), a) for n, a in self._aliases.items()}

    def record(self, losses: Losses, outputs: Mapping[str, Tensor]) -> None:
        """Takes this process's (sum, count) of every task and makes global means of them."""
        self._record = LossMeans(losses, outputs, self._first_losses, self.number)
        self.tasks, self.raw_losses = self._record.tasks, self._record.raw
        if self.tasks:
            self.losses = Coefficients.apply(self, not self._create_graph, *self._record.means)

    def record_indicators(self, indicators: Mapping[str, tuple[Tensor, Tensor] | None]) -> None:
        """Takes this process's (sum, count) of every task's indicator."""
        self._later["indicators"] = self.losses.detach().new_tensor(self._record.indicators(indicators))

    def record_after(self, losses: Losses) -> None:
        """Takes the losses of the same batch once more, when the model has moved."""
        self._later["losses_after"] = self.losses.detach().new_tensor(self._record.after(losses))

    def backward(self, backward: Callable[[Tensor], None]) -> None:
        """Runs the one backward pass; raises `ValueError` where a needed double backward does not exist."""
        total = self._record.anchors + [no_loss(level)[0] for level in self.space.levels if self._create_graph]
        try:
            if self.tasks:
                total.append(contract.check_objective(self._balancer, self._balancer.objective(self), self.losses))
            backward(Seed.apply(self, sum(total[1:], total[0])))
        except RuntimeError as error:
            if self._create_graph and ("is not implemented" in str(error) or "differentiate twice" in str(error)):
                raise contract.no_double_backward(self._balancer, error) from error
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
        return contract.known(self._space, "space", "`combine`")

    @property
    def gram(self) -> Tensor:
        """(k, k) float64: inner products of the gradients of `losses` in the balancer's space, over all processes."""
        contract.check_declared(self._balancer, "gram", "gram", "create_graph")
        return self._inner_products()

    @property
    def cross_gram(self) -> Tensor:
        """(k, k) float64: entry ij is the inner product of g_i on one half of the batch and g_j on the other."""
        contract.check_declared(self._balancer, "cross_gram", "second_batch")
        return self._over_parameters("cross_gram").cross_gram()

    @property
    def jacobian(self) -> Tensor:
        """(k, P): the gradients over the shared parameters, over all processes, in the space `parameters`."""
        return self._over_parameters("jacobian").jacobian

    @property
    def losses_after(self) -> Tensor:
        """(k,) the losses of the same batch once the model has moved: in `after_model`, for `second_forward`."""
        contract.check_declared(self._balancer, "losses_after", "second_forward")
        return contract.known(self._later.get("losses_after"), "losses_after", "`after_model`")

    @property
    def indicators(self) -> Tensor:
        """(k,) how well each task does on the batch, in [0, 1], for `indicators`."""
        contract.check_declared(self._balancer, "indicators", "indicators")
        return contract.known(self._later.get("indicators"), "indicators", "`objective`")

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
        """d loss_k / d features on this process's samples: one row per task, one tensor per level (None: not used)."""
        if self._create_graph:
            pairs = zip(self.tasks, self._record.means, strict=True)
            rows = [gradients_of(mean, self._aliases[task]) for task, mean in pairs]
            return [[g / world_size() for g in row] for row in rows]
        arrived, unit = contract.known(self.space.rows, "local_gradients", "`combine`"), self.space.unit
        return [[None if g is None else at_least_float32(g) / unit for g in row] for row in arrived]

    @property
    def local_features(self) -> Features:
        """The shared features of this process's samples, one tensor per level."""
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

    def _inner_products(self) -> Tensor:
        if self._gram is None and self._create_graph and not self.space.rows:
            assert isinstance(self.space, FeatureSpace)
            aliases = [self._aliases[task] for task in self.tasks]
            self._gram = self.space.gram_with_graph(self._record.means, aliases)
        elif self._gram is None:
            contract.known(self.space.rows, "gram", "`combine`")
            self._gram = self.space.gram()
        return self._gram

    def _over_parameters(self, name: str) -> ParameterSpace:
        contract.check_space(self._balancer, name, "parameters")
        contract.known(self.space.rows, name, "`combine`")
        assert isinstance(self.space, ParameterSpace)
        return self.space

    def _combine(self, rows: list[Row]) -> list[Tensor | None]:
        names = self._balancer.tasks
        if not self.tasks:
            return [None] * len(self.space.inputs)
        assert self.coefficients is not None
        self.space.receive([rows[names.index(task)] for task in self.tasks], self._seed)
        with torch.no_grad():
            if self._observe:
                self.finite = bool(torch.isfinite(self._inner_products()).all())
            combined: Tensor | Features = self.losses.new_ones(len(self.tasks))
            if self.finite:
                combined = self._balancer.combine(self)
            if isinstance(combined, Tensor):
                weights = contract.check_weights(self._balancer, combined, self.losses, self.tasks, "combine")
                self.weights = self.coefficients * weights
                result = self.space.weighted(self.weights)
            else:
                combined = contract.check_gradient(self._balancer, combined, self.space.form)
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
            found |= gradient_scalars(self.tasks, self._gram, self._products)
        return found | {f"balancer/{name}": float(value) for name, value in self.extras.items()}
