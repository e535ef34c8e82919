"""One forward and one backward pass of a micro-batch: where the balancer's hooks are called."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from mtlkit import contract
from mtlkit.balancer import Balancer, has_adapters
from mtlkit.engine import balancer_state
from mtlkit.engine.losses import FirstLosses, Indicators, Losses, LossMeans, Unread
from mtlkit.engine.parts import named, part
from mtlkit.engine.shards import Shards
from mtlkit.engine.shared import Shared, late_parameters
from mtlkit.engine.space import Space
from mtlkit.engine.spaces import space_of
from mtlkit.engine.tap import Coefficients, Seed, Tap
from mtlkit.gradients import Row, weighted_sum
from mtlkit.host import Seeds
from mtlkit.network import Features
from mtlkit.seeding import Turn, Turns
from mtlkit.step import Step
from mtlkit.task import no_loss


class Pass:
    """Runs one step: it sets what the balancer sees of the step and calls the hooks of the balancer in order.

    The order of calls is `tap` (in the forward pass, between encoder and decoders), `record`, `objective`, the
    backward pass of the objective, `end`, and `update_balancer` once the model has moved. The engine calls `backward`,
    which is the three in the middle. In somebody else's loop, somebody else runs the backward pass, and `end` is called
    when it is over.

    The host waits for the device twice, whatever the number of tasks: in `record` for the table of losses, and inside
    the backward pass for the Gram matrix, if anybody asks for it. All K x K work is done on the host.

    Args:
        balancer: the method.
        encoder: the part of the model that the tasks share.
        step: the object that the balancer sees.
        turns: gives the balancer's hooks random numbers of their own.
        first_losses: the values by which the losses are divided.
        observe: compute the Gram matrix for the log even where the balancer does not need it.
        shards: the parameters of the model of which this process holds only a part.
    """

    def __init__(
        self,
        balancer: Balancer,
        encoder: Shared,
        step: Step,
        *,
        turns: Turns,
        first_losses: FirstLosses | None = None,
        observe: bool = False,
        shards: Shards | None = None,
    ) -> None:
        self.step = step
        self._balancer = balancer
        self._encoder = encoder
        self._turns = turns
        self._first_losses = first_losses or FirstLosses()
        self._observe = observe or "gram" in balancer.needs
        self._shards = shards or Shards()
        self._create_graph = "create_graph" in balancer.needs
        self.aliases: dict[str, Features] = {}
        self._late: dict[str, dict[str, Tensor]] = {}
        self._space: Space
        self._losses: LossMeans
        self._device = torch.device("cpu")

    # The tap runs in the middle of a model that users may compile. torch.compile must not trace it: it calls Python
    # code of the balancer from inside the backward pass.
    @torch.compiler.disable
    @named("tap")
    def tap(self, features: Features) -> dict[str, Features]:
        """Returns the shared features as each task's decoder gets them. Their gradients meet in `combine`."""
        own, names, n = self._balancer, self._balancer.tasks, len(features)
        if torch.is_grad_enabled() and not any(level.requires_grad for level in features):
            # A frozen encoder. Its features become the leaves of the graph, so that the task gradients meet as usual.
            features = [level.detach().requires_grad_() for level in features]
        self._space = space_of(own, features, self._encoder, self.step, self._shards)
        self.step.gradients, self._device = self._space, features[0].device
        # The tap has no second derivative. A method that needs one reads the gradients before the backward pass.
        # Without the tap, autograd adds up the late gradients by itself, and the late module stays as it is.
        late = late_parameters(self._encoder)
        if self._create_graph or not torch.is_grad_enabled():
            late, aliases = {}, [level.view_as(level) for _ in names for level in features]
        else:
            aliases = list(Tap.apply(self._combine, len(names), len(late) + n, *late.values(), *self._space.inputs))
        size = len(late) + n
        for k, name in enumerate(names):
            row = aliases[k * size : (k + 1) * size]
            self._late[name], self.aliases[name] = dict(zip(late, row[: len(late)], strict=True)), row[len(late) :]
        with self._hook(Turn.ADAPTER):
            found = own.adapters(self.aliases)
            return {n: contract.check_adapted(own, n, found.get(n), a) for n, a in self.aliases.items()}

    def late(self, task: str) -> Mapping[str, Tensor]:
        """The late parameters as that task's decoder gets them, by name; nothing where they stay as they are."""
        return self._late[task]

    def record(
        self,
        losses: Losses,
        outputs: Mapping[str, Tensor],
        indicators: Indicators | None = None,
        unread: Sequence[Unread] = (),
    ) -> None:
        """Takes this process's (sum, count) of every task and computes the means over all processes.

        `indicators` are such pairs, too, for a balancer that needs them. `unread` come to the host with them.
        """
        first, number, samples = self._first_losses, self.step.number, self.step.samples
        # Methods that give each task its own features compare rows of processes, and ask whether these fit together.
        rows = sum(z.numel() // z.shape[1] for z in self._space.levels) if has_adapters(self._balancer) else None
        self._losses = LossMeans(
            losses, outputs, first, number, samples, rows=rows, indicators=indicators, unread=unread
        )
        self.step.alike = self._losses.alike
        # From here on a task without any valid label does not exist for the balancer.
        self.step.tasks, self.step.raw_losses = self._losses.tasks, self._losses.raw
        self.step.window.tasks.update(self.step.tasks)
        if self.step.tasks:
            self.step.losses = Coefficients.apply(self._receive_coefficients, self._losses.values, *self._losses.sums)
        if indicators is not None:
            self._tell("indicators", self._losses.indicators())
        if self._create_graph:
            self._space.differentiate(self._losses.means(), [self.aliases[task] for task in self.step.tasks])

    def objective(self) -> Tensor:
        """Returns the scalar whose backward pass is the step's only one."""
        # Parts that get no gradient otherwise: DDP waits for one of every parameter.
        shared = [*self._space.levels, *late_parameters(self._encoder).values()]
        anchors = self._losses.anchors + [no_loss(part)[0] for part in shared if self._create_graph]
        objective = torch.zeros(())
        if self.step.tasks:
            with self._hook(Turn.OBJECTIVE):
                objective = self._balancer.objective(self.step)
            contract.check_objective(self._balancer, objective, self.step.losses)
        receive = partial(self._receive_seed, objective.device)
        scalar: Tensor = Seed.apply(receive, objective, self._device, *anchors)
        return scalar

    @named("backward")
    def backward(self, backward: Callable[[Tensor], None]) -> None:
        """Runs the one backward pass; raises `ValueError` where a needed double backward does not exist."""
        try:
            backward(self.objective())
        except RuntimeError as error:  # torch has no error class of its own for this
            if self._create_graph and ("is not implemented" in str(error) or "differentiate twice" in str(error)):
                raise contract.no_double_backward(self._balancer, error) from error
            raise
        self.end()

    def end(self) -> None:
        """Frees what only the backward pass needed."""
        if self._create_graph:
            self.step.weights = self.step.coefficients
        # A caller may keep the step, as `Engine.fit` does. It then keeps the numbers, but not the graph with its
        # memory.
        self._space.release()
        if self._space.known_gram is not None:
            self.step.found["gram"] = self._space.known_gram
        self.aliases, self._late, self._losses.sums, self._losses.anchors = {}, {}, [], []
        self.step.losses = self.step.losses.detach()

    def update_balancer(self, optimizer: torch.optim.Optimizer | None, again: Callable[[], Losses]) -> None:
        """Moves the balancer once, after the model has moved by the gradients of the whole accumulation window.

        This pass is the last one of the window. `optimizer` moves the balancer's own parameters. `again` returns the
        losses of the same micro-batch with the model as it is now.
        """
        own, step = self._balancer, self.step
        balancer_state.complete_gradients(own, step)
        if "second_forward" in own.needs and step.tasks:
            with torch.no_grad():
                self._tell("losses_after", self._losses.after(again()))
        with self._hook(Turn.AFTER_MODEL):
            own.after_model(step)
        balancer_state.move_balancer(own, optimizer, step)
        with self._hook(Turn.AFTER_STEP):
            own.after_step(step)
        # Whoever keeps the step keeps its numbers. What methods note can be large, as a matrix for each task.
        step.window.notes.clear()

    # -- what the autograd nodes call, in this order ----------------------------------------------------------

    def _receive_seed(self, home: torch.device, seed: Tensor) -> None:
        # An objective at home on the host is differentiated without the factor; see `Seed`.
        self.step.seeds = Seeds(seed, seed if home == seed.device else torch.ones((), dtype=seed.dtype))
        self.step.window.seeds.append(self.step.seeds)

    def _receive_coefficients(self, gradient: Tensor) -> Tensor:
        """Takes the objective's derivatives by the losses. Returns the gradients with which the local sums go on.

        Every decoder gets the gradient of its own loss, as if the objective were the plain sum. `_combine` multiplies
        the encoder's gradient by the derivatives, and `DecoderGradients` afterwards those of the decoders, if it was
        asked to. With a double backward there is no tap that could do this, so the derivatives go on at once.
        """
        self.step.coefficients = gradient.detach() / self.step.seeds.at(gradient.device)
        factors = self._losses.factors * self.step.coefficients if self._create_graph else self._losses.factors
        return factors.to(self._device) * self.step.seed

    @named("tap")
    def _combine(self, rows: list[Row]) -> list[Tensor | None]:
        """Takes the K task gradients from the tap. Returns a gradient for each of the tap's inputs.

        A row starts with the late gradients. They get the weights of the others, or they are summed. The space does not
        see them: they are no gradients of features, and they have no even and odd samples.
        """
        step, space, names = self.step, self._space, self._balancer.tasks
        late = len(rows[0]) - len(space.levels)
        if not step.tasks:  # the backward pass goes on, because DDP waits for it
            return [None] * (late + len(space.inputs))
        assert step.coefficients is not None
        # The tap has a row for each task of the run, in the balancer's order; absent tasks are left out.
        rows = [rows[names.index(task)] for task in step.tasks]
        space.receive([row[late:] for row in rows], step.seed)
        with torch.no_grad():
            if self._observe:
                # The Gram matrix is equal on all processes, so they decide alike. With a check of its own gradients,
                # one process could stop while the others wait for it.
                step.finite = bool(torch.isfinite(space.gram()).all())
            combined: Tensor | Features = step.losses.new_ones(len(step.tasks))
            if step.finite:  # else the step is not made: the run stops, or the loss scaler lowers its scale
                with self._hook(Turn.COMBINE):
                    combined = self._balancer.combine(step)
            if isinstance(combined, Tensor):
                weights = contract.check_weights(self._balancer, combined, step.losses, step.tasks, "combine")
                step.weights = step.coefficients * weights
                result = space.weighted(step.weights)
            else:
                combined = contract.check_gradient(self._balancer, combined, space.form)
                if self._observe:
                    step.found["products"] = space.products(combined).to("cpu")
                result = space.given(combined)
        space.rows = []  # frees the K gradients before the encoder's backward pass begins
        factors = step.coefficients if step.weights is None else step.weights
        return [weighted_sum(part, factors) for part in zip(*(row[:late] for row in rows), strict=True)] + result

    def _tell(self, name: str, values: list[float]) -> None:
        self.step.found[name] = self.step.losses.detach().new_tensor(values)

    @contextmanager
    def _hook(self, turn: Turn) -> Iterator[None]:
        with part("balancer"), self._turns.hook(turn, self._device):
            yield
