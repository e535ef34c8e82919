"""Balancing in anybody's training loop: the step of the engine, in three lines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.engine import balancer_state
from mtlkit.loop import state
from mtlkit.loop.arguments import Arguments
from mtlkit.loop.heads import checked_heads
from mtlkit.loop.levels import check_channels, to_levels
from mtlkit.loop.losses import Again, LossOf
from mtlkit.loop.steps import Steps
from mtlkit.loop.told import Told, check_own_options, make_encoder
from mtlkit.sample_group import SampleGroup
from mtlkit.seeding import seed_of, seeded
from mtlkit.task import Task

CPU = torch.device("cpu")


class Balanced(nn.Module):
    """Brings any balancer into any training loop, by one backward pass.

    It stands between encoder and heads, makes one scalar of the tasks' losses, and moves its own state when the
    optimizer steps. The update rule is the method's, and every number is that of mtlkit's own engine: both run the same
    code.

        balanced = mtlkit.Balanced("rotograd", tasks=("depth", "normals"), features=512)
        balanced.follow(optimizer)

        for image, target in loader:
            z = balanced(encoder(image))                  # {"depth": ..., "normals": ...}, of the form of the features
            losses = {name: loss_of[name](head[name](z[name]), target[name]) for name in z}
            balanced.loss(losses).backward()
            optimizer.step()
            optimizer.zero_grad()

    The scalar of `loss` is an ordinary one. Whoever calls `backward` on it, once, gets the balanced gradients:
    Accelerate, Lightning, a `GradScaler`. Several of them before the optimizer steps are gradient accumulation, whether
    or not the loop divides them by their number. A step that a scaler skips moves nothing. Under `torch.no_grad()`, the
    features pass through the method's adapters and nothing is recorded.

    The method's state is no part of `parameters()`, so that no optimizer of the loop and no DDP touches it. It is in
    `state_dict()`, goes with `to(device)`, and never becomes less precise than float32. Under several processes, they
    all call `loss` equally often, and gradients are averaged over processes, as DDP does. A loss as a pair (sum over
    the valid elements, their number) is then exact for any number of valid elements on each process.

    Args:
        method: the name of a balancer; see `mtlkit list balancers`.
        tasks: the names of the tasks, or their kinds by name, such as `{"depth": "regression", "parts":
            "classification"}`. Only some methods ask for the kind.
        encoder: the shared network, for methods that compare gradients over its parameters or its last layer.
        features: the number of channels of the shared features, or one per level, in a list or by name. Without it, a
            method with state for each channel is set up, and its loaded state checked, in the first forward pass.
        last_layer: the encoder's last layer or its name, for the space `last_layer`.
        heads: the module of each task behind the features. Without it, `loss` finds the parameters of each head,
            unless several heads are compiled together or are sharded.
        steps_per_epoch: the number of optimizer steps in an epoch, for methods that count epochs.
        decoder_gradients: what the heads get. `plain`: the gradient of their own loss; `weighted`: this gradient times
            the task's weight; `published`: as the method is published.
        observe: compute the Gram matrix for `scalars()` also where the method does not need it; an attribute, too.
        seed: for the method's own random numbers; the same on all processes.
        mesh: where samples differ, such as `mesh["dp"]` with tensor parallelism (None: between all processes).
        options: those of the method, such as `space` and `lr`.

    Raises:
        LookupError: there is no such method.
        ValueError: an option is wrong, or the method needs what was not passed. The message says what to pass.

    >>> encoder, heads = nn.Linear(3, 4), nn.ModuleDict({"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    >>> optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
    >>> balanced = Balanced("mgda", tasks=("a", "b"))
    >>> balanced.follow(optimizer)
    >>> z = balanced(encoder(torch.rand(8, 3)))
    >>> balanced.loss({name: heads[name](z[name]).square().mean() for name in z}).backward()
    >>> optimizer.step()
    >>> balanced.number, sorted(balanced.scalars())
    (1, ['cosine/a/b', 'grad_norm/a', 'grad_norm/b', 'loss/a', 'loss/b', 'weight/a', 'weight/b'])
    """

    def __init__(
        self,
        method: str,
        tasks: Sequence[str] | Mapping[str, str | Task],
        *,
        encoder: nn.Module | None = None,
        features: int | Sequence[int] | Mapping[str, int] | None = None,
        last_layer: str | nn.Module | None = None,
        heads: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        steps_per_epoch: int | None = None,
        decoder_gradients: str = "published",
        observe: bool = False,
        seed: int = 0,
        mesh: DeviceMesh | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_own_options(method, options, Balanced)
        self._told = Told(method, tasks, features, encoder)
        with seeded(seed_of(seed, 0), CPU):  # the loop's own random numbers stay as they are
            balancer = BALANCERS.build(method, tasks=self._told.names, **options)
        shared = make_encoder(method, balancer.space, encoder, last_layer)
        own_heads = checked_heads(heads, balancer.tasks)
        self.method, self._seed = method, seed
        self._place = (CPU, torch.float32)
        self._loaded: dict[str, Tensor] = {}  # a state that waits for the method to be set up
        said = Arguments(tasks, method, decoder_gradients, steps_per_epoch, options)
        self._steps = Steps(
            balancer, shared, own_heads, decoder_gradients, steps_per_epoch, observe, seed, SampleGroup(mesh), said
        )
        self._ready = self._set_up(None)

    @property
    def balancer(self) -> Balancer:
        """The method, with its state."""
        return self._steps.balancer

    @property
    def number(self) -> int:
        """The number of optimizer steps that are done."""
        return self._steps.number

    @property
    def observe(self) -> bool:
        """Whether `scalars()` has the Gram matrix also where the method does not need it. A loop may set it."""
        return self._steps.observe

    @observe.setter
    def observe(self, value: bool) -> None:
        self._steps.observe = value

    def follow(self, optimizer: Any) -> None:
        """Moves the method's state from now on when this optimizer steps.

        It is the torch optimizer that holds the encoder, or a wrapper of Accelerate, Lightning or Fabric around it. A
        second call replaces the first. Copies of the module follow nothing.

        Raises:
            ValueError: it is no optimizer, or it does not hold the encoder.
        """
        self._steps.follow(optimizer)

    # torch.compile must not trace these: the backward pass calls Python code of the balancer.
    @torch.compiler.disable
    def forward(self, features: Any) -> dict[str, Any]:
        """Returns the features as each task's head gets them, by task, in the form in which they were given.

        Args:
            features: a tensor, or a list or a dictionary of tensors, one per level: vectors (B, C), maps (B, C, H, W),
                or tokens (B, N, C) with the channels last.

        Raises:
            ValueError: the features have another form, another number of channels than was told, or no gradient.
        """
        named, rebuild = to_levels(features)
        levels = [*named.values()]
        self._ready = self._ready or self._set_up(named)
        if self._told.channels is not None:
            check_channels(self._told.channels, named)
        self._move(levels[0].device, torch.float64 if levels[0].dtype == torch.float64 else self._place[1])
        return {name: rebuild(own) for name, own in self._steps.forward(levels).items()}

    @torch.compiler.disable
    def loss(
        self,
        losses: Mapping[str, LossOf],
        *,
        indicators: Mapping[str, float | LossOf] | None = None,
        again: Again | None = None,
    ) -> Tensor:
        """Returns the scalar to call `backward` on, once.

        Args:
            losses: for each task with labels in this batch its mean loss, or the pair (sum over the valid elements,
                their number). A task that is left out takes no part in the step.
            indicators: how well each task does on the batch, in [0, 1], for methods that need it (`dtp`). A task that
                is left out gets exp(-loss).
            again: computes the losses of the same batch once more, for methods that look back after the step (`famo`).
                It is called when the optimizer has stepped, without gradients and under the same autocast. Statistics
                of batch norms stay as they are.

        Under `torch.no_grad()`, it returns the sum of the mean losses and records nothing.

        Raises:
            ValueError: a name, shape, device or gradient is wrong; the message names the task. Or, in the first call,
                the processes have different arguments (all raise it).
            NonFiniteError: a loss is not finite. All processes raise it.
        """
        return self._steps.loss(losses, indicators, again)

    def scalars(self) -> dict[str, float]:
        """Returns the figures of the last finished optimizer step, under the keys of `metrics.jsonl`.

        They are means over its micro-batches: losses, weights, lengths and cosines of task gradients, the method's own.
        """
        return self._steps.scalars()

    def _set_up(self, levels: Mapping[Any, Tensor] | None) -> bool:
        """Sets the method up as soon as it knows what it asks for: now, or in the first forward pass."""
        own = self._steps
        with seeded(seed_of(self._seed, 1), CPU):
            if not self._told.set_up(own.balancer, own.encoder, levels):
                return False
        own.optimizer = balancer_state.balancer_optimizer(own.balancer)
        state.move(own.balancer, own.optimizer, *self._place)
        self._ready, loaded, self._loaded = True, self._loaded, {}
        if loaded:
            self.load_state_dict(loaded)
        return True

    # -- state: torch's own hooks ---------------------------------------------------------------------------------

    def _move(self, device: torch.device, dtype: torch.dtype) -> None:
        if self._place != (device, dtype):
            state.move(self._steps.balancer, self._steps.optimizer, device, dtype)
            self._place = (device, dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Balanced":
        self._move(*state.moved_by(fn, *self._place))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        found = self._loaded or state.collected(self._steps.balancer, self._steps.optimizer, self.number)
        destination.update({prefix + name: value for name, value in found.items()})

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if not self._ready:
            self._loaded = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
            return
        own, lists = self._steps, (missing_keys, unexpected_keys, error_msgs)
        number = state.restore(own.balancer, own.optimizer, state_dict, prefix, *lists)
        own.number = own.number if number is None else number
        own.new_step()

    def extra_repr(self) -> str:
        return f"{self.method}, tasks={self.balancer.tasks}, space={self.balancer.space}"
