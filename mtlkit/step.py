"""What one step knows: losses, task gradients, their Gram matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import torch
from torch import Tensor

from mtlkit.balancer import Balancer
from mtlkit.distributed import sum_over_ranks, world_size
from mtlkit.normalization import FirstLosses
from mtlkit.tap import Coefficients, Seed, Tap, at_least_float32, gradients_of, gram_of, weighted_sum
from mtlkit.task import Features, no_loss


class NonFiniteError(RuntimeError):
    """A loss or a gradient is not finite: going on would ruin the model. Raised before the optimizer moves."""


class Step:
    """What one micro-batch's step knows. Equal on all processes unless the name starts with `local_`.

    Attributes:
        number: how many optimizer steps came before.
        tasks: the names of the tasks with at least one valid label on any process; the rows of all below.
        losses: (k,) means over all valid elements of all processes; differentiable in `objective`.
        raw_losses: name -> the same as a number, before it is divided by the first losses.
        coefficients: (k,) derivatives of the objective by the losses, known from the backward pass on.
        weights: (k,) factors of the task gradients in the encoder's gradient (None for elementwise methods).
        finite: whether the task gradients are finite; if not, `combine` was not asked.
        extras: further scalars to log, by name; a balancer may add some.
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        number: int = 0,
        accumulation: int = 1,
        last_layer: Tensor | None = None,
        first_losses: FirstLosses | None = None,
        observe: bool = False,
    ) -> None:
        self.number = number
        self.tasks: tuple[str, ...] = ()
        self.losses = torch.empty(0)
        self.raw_losses: dict[str, float] = {}
        self.coefficients: Tensor | None = None
        self.weights: Tensor | None = None
        self.finite = True
        self.extras: dict[str, Tensor] = {}
        self._balancer = balancer
        self._accumulation = accumulation
        self._last_layer = last_layer
        self._first_losses = first_losses or FirstLosses()
        self._observe = observe or "gram" in balancer.needs
        self._create_graph = "create_graph" in balancer.needs
        self._levels: Features = []
        self._aliases: dict[str, Features] = {}
        self._seed = torch.ones(())
        self._means: list[Tensor] = []
        self._anchors: list[Tensor] = []
        self._rows: list[list[Tensor | None]] | None = None
        self._gram: Tensor | None = None

    @torch.compiler.disable
    def tap(self, features: Features) -> dict[str, Features]:
        """The shared features as each task's decoder gets them; their gradients come together in `combine`."""
        names, n = self._balancer.tasks, len(features)
        self._levels = features
        if self._create_graph or not torch.is_grad_enabled():
            aliases = [level.view_as(level) for _ in names for level in features]
        else:
            aliases = list(Tap.apply(self, len(names), *features))
        self._aliases = {name: aliases[k * n : (k + 1) * n] for k, name in enumerate(names)}
        return {name: self._balancer.adapter(name, self._aliases[name]) for name in names}

    def record(self, losses: Mapping[str, tuple[Tensor, Tensor]], outputs: Mapping[str, Tensor]) -> None:
        """Takes this process's (sum, count) of every task and makes global means of them.

        The mean's value is global while its gradient is this process's share, times the number of processes
        because DDP averages: any function of the losses then has the gradient it would have in one process.

        Raises `NonFiniteError` naming the task, on all processes alike, and `ValueError` for a loss in a wrong form.
        """
        for name, pair in losses.items():
            if len(pair) != 2 or any(value.shape != () for value in pair):
                raise ValueError(f"The loss of task {name!r} must be two scalars (sum, count), got {pair}.")
        table = torch.stack(
            [torch.stack([total.detach().double(), count.double()]) for total, count in losses.values()]
        )
        sums = sum_over_ranks(table)
        present, means = [], []
        for name, (total, count), (_, local_count) in zip(losses, sums.tolist(), table.tolist(), strict=True):
            output, mine = outputs[name], losses[name][0]
            if local_count == 0:  # the decoder must run backwards on every process, but with no gradient
                mine = no_loss(output)[0]
            if count == 0:
                self._anchors.append(mine)
                continue
            mean = total / count
            if not abs(mean) < float("inf"):
                raise NonFiniteError(
                    f"The loss of task {name!r} is {mean} at step {self.number}; the model was left as it was before "
                    f"this step. A lower learning rate, trainer.clip_norm or a look at the data may help."
                )
            self.raw_losses[name] = mean
            scale = self._first_losses.scale(name, mean, self.number)
            local = mine * (world_size() / (count * scale))
            present.append(name)
            means.append(local + (mean / scale - local).detach())
        self.tasks = tuple(present)
        self._means = means
        if means:
            self.losses = Coefficients.apply(self, not self._create_graph, *means)

    def total(self) -> Tensor:
        """The scalar for the one backward pass."""
        total = self._anchors + [no_loss(level)[0] for level in self._levels if self._create_graph]
        if self.tasks:
            total.append(self._balancer.objective(self))
        return Seed.apply(self, sum(total[1:], total[0]))

    def backward(self, backward: Callable[[Tensor], None]) -> None:
        """Runs the one backward pass; raises `ValueError` where a needed double backward does not exist."""
        try:
            backward(self.total())
        except RuntimeError as error:
            if self._create_graph and ("is not implemented" in str(error) or "differentiate twice" in str(error)):
                raise ValueError(
                    f"{type(self._balancer).__name__} needs a double backward that a layer of this model does not have "
                    f"({error}). Choose another encoder or decoder, or another balancer."
                ) from error
            raise
        if self._create_graph:
            self.weights = self.coefficients
        self._release()

    # -- what a balancer may ask for --------------------------------------------------------------------------

    @property
    def gram(self) -> Tensor:
        """(k, k) float64: inner products of the gradients of `losses` in the balancer's space, over all processes."""
        if self._gram is None:
            self._gram = self._gram_with_graph() if self._rows is None else self._gram_in_backward()
        return self._gram

    @property
    def norms(self) -> Tensor:
        """(k,) float64: lengths of the task gradients."""
        return self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def scale(self) -> Tensor:
        """The loss scale of mixed precision: what the gradients of the balancer's parameters are too large by."""
        return self._seed * self._accumulation

    @property
    def local_gradients(self) -> list[list[Tensor | None]]:
        """d loss_k / d features on this process's samples: a row a task, a tensor a level (None: not used)."""
        assert self._rows is not None, "gradients at the features are known in `combine` only"
        unit = self._seed * world_size()
        return [[None if g is None else at_least_float32(g) / unit for g in row] for row in self._rows]

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        """Adds to the gradient of a parameter of the balancer's, on the same scale as the backward pass does."""
        gradient = gradient.to(parameter.dtype) * self._seed.to(parameter.dtype)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over processes of something `local_`."""
        return sum_over_ranks(tensor)

    # -- inside the backward pass -----------------------------------------------------------------------------

    def _combine(self, rows: list[tuple[Tensor | None, ...]]) -> list[Tensor | None]:
        names = self._balancer.tasks
        self._rows = [list(rows[names.index(task)]) for task in self.tasks]
        if not self.tasks:
            return [None] * len(self._levels)
        assert self.coefficients is not None
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
                result = [weighted_sum(level, self.weights) for level in zip(*self._rows, strict=True)]
            else:
                unit = self._seed * world_size()
                result = [level * unit for level in combined]
        self._rows = None  # frees the K gradients before the encoder's backward pass begins
        return result

    def _gram_in_backward(self) -> Tensor:
        assert self._rows is not None
        unit = self._seed.double() * world_size()
        if self._balancer.space == "features":
            return sum_over_ranks(gram_of(self._rows)) / unit**2
        gradients = []
        assert self._last_layer is not None
        for row in self._rows:
            used = [(level, g) for level, g in zip(self._levels, row, strict=True) if g is not None]
            levels, cotangents = zip(*used, strict=True)
            with torch.enable_grad():
                (g,) = torch.autograd.grad(levels, self._last_layer, cotangents, retain_graph=True, allow_unused=True)
            gradients.append(torch.zeros_like(self._last_layer) if g is None else g)
        stacked = sum_over_ranks(torch.stack([at_least_float32(g.flatten()) for g in gradients]))
        return (stacked @ stacked.T).double() / unit**2

    def _gram_with_graph(self) -> Tensor:
        assert self._create_graph, "`step.gram` before the backward pass needs `needs = {'create_graph'}`"
        world = world_size()
        if self._balancer.space == "last_layer":
            rows = [gradients_of(loss, [self._last_layer]) for loss in self._means]
            local = torch.stack([at_least_float32(row[0].flatten()) for row in rows])
            whole = local + (sum_over_ranks(local) / world - local).detach()
            return (whole @ whole.T).double()
        aliases = [self._aliases[task] for task in self.tasks]
        local = gram_of([gradients_of(loss, levels) for loss, levels in zip(self._means, aliases, strict=True)]) / world
        return local + (sum_over_ranks(local) / world - local).detach()

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
        return found | {f"balancer/{name}": float(value) for name, value in self.extras.items()}

    def _release(self) -> None:  # what holds the graph; the numbers stay
        self._levels, self._aliases, self._anchors, self._means = [], {}, [], []
        self.losses = self.losses.detach()
        self._gram = None if self._gram is None else self._gram.detach()
