"""The steps of somebody else's loop, from the forward pass to the step of its optimizer."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mtlkit.balancer import Balancer
from mtlkit.engine.decoder_gradients import DecoderGradients
from mtlkit.engine.losses import NonFiniteError
from mtlkit.engine.one_pass import Pass
from mtlkit.engine.scalars import mean_scalars
from mtlkit.engine.shards import Shards, check_split, mesh_of
from mtlkit.engine.tap import Seed
from mtlkit.loop import losses as given
from mtlkit.loop.arguments import Arguments
from mtlkit.loop.following import Following, after_backward, bare_optimizer
from mtlkit.loop.heads import check_arrived, parameters_of_heads
from mtlkit.loop.look_again import Look, as_before
from mtlkit.loop.losses import Again, LossOf
from mtlkit.loop.told import LoopEncoder
from mtlkit.network import Features
from mtlkit.option_checks import check_whole_number
from mtlkit.sample_group import SampleGroup
from mtlkit.seeding import Turns
from mtlkit.step import Step, Window

OF_A_LOOP = ("_following", "_of_heads", "_recorded", "_pending", "_finished", "_window", "_steps", "_last")


@dataclass
class Forward:
    """One forward pass of the features, from there to the update of the balancer."""

    one: Pass
    features: list[Tensor]
    look: Look
    again: Again | None = None
    heads: dict[str, list[Tensor]] = field(default_factory=dict)  # the parameters of each task's head
    fresh: list[Tensor] = field(default_factory=list)  # those of absent tasks that had no gradient before
    weighing: ExitStack = field(default_factory=ExitStack)  # is closed when the backward pass is over
    begun: bool = False


class Steps:
    """Runs the engine's pass where the loop calls `backward`, and the balancer's update where its optimizer steps.

    The loop does not tell where an optimizer step begins and ends, so the backward passes between two steps of the
    optimizer are counted as one accumulation window. If the gradients of a window vanish without a step, it is given
    up: a loss scaler or the loop skipped that step.

    It is no `nn.Module`. So the balancer is no part of the loop's model, and the loop's optimizer and DDP do not see
    its parameters.

    Attributes:
        balancer: the method, with its state.
        encoder: the loop's encoder, as far as a step needs it.
        optimizer: moves the balancer's own parameters.
        number: the number of optimizer steps that are done.
        observe: compute the Gram matrix for `scalars` also where the method does not need it.
    """

    def __init__(
        self,
        balancer: Balancer,
        encoder: LoopEncoder,
        heads: Mapping[str, nn.Module] | None,
        decoder_gradients: str,
        steps_per_epoch: int | None,
        observe: bool,
        seed: int,
        samples: SampleGroup,
        arguments: Arguments,
    ) -> None:
        if steps_per_epoch is not None:
            check_whole_number("steps_per_epoch", steps_per_epoch, 1)
        self.balancer = balancer
        self.optimizer: Adam | None = None  # of the balancer's own parameters, once it is set up
        self.number = 0
        self.observe = observe
        self.encoder = encoder
        self._heads = heads
        self._gradients = DecoderGradients(decoder_gradients, balancer)
        self._steps_per_epoch = steps_per_epoch
        self._turns = Turns(seed)
        self._samples = samples
        self._arguments = arguments
        self._shards = Shards(encoder.module, [*heads.values()] if heads else [])
        self._leave_the_loop()

    def _leave_the_loop(self) -> None:
        """Forgets what belongs to a loop or to one step of it."""
        self._following = Following()
        self._of_heads: dict[str, list[nn.Parameter]] | None = None
        self._recorded = False  # whether the last forward pass had gradients
        self._pending: Forward | None = None  # the last forward pass with gradients, until its loss is known
        self._finished: list[Step] = []
        self.new_step()

    def new_step(self) -> None:
        """Begins a new optimizer step."""
        self._window = Window()
        self._steps: list[Step] = []
        self._last: Forward | None = None
        self.balancer.zero_grad()

    def follow(self, optimizer: Any) -> None:
        """Updates the balancer whenever this optimizer has stepped."""
        self._check_shards(bare_optimizer(optimizer))
        # Those that the optimizer moves. From the forward pass on, FSDP may have others in the modules.
        if self._heads is not None:
            self._of_heads = {name: list(head.parameters()) for name, head in self._heads.items()}
        self._following.follow(optimizer, self.encoder.module, self._after_step)

    def _check_shards(self, optimizer: Optimizer) -> None:
        """Raises `ValueError` if the model is split over processes in a way that the method cannot work with."""
        own = self.balancer
        if self.encoder.module is not None:
            check_split(self.encoder.module, own, self._samples)
        split = any(mesh_of(p) is not None for group in optimizer.param_groups for p in group["params"])
        if split and "create_graph" in own.needs and not self._shards.units:
            raise ValueError(
                f"{type(own).__name__} differentiates gradients once more, and FSDP would free the parameters of the "
                f"heads in between. Make the encoder and each head an FSDP unit, and pass encoder= and heads={{...}} "
                f"to mtlkit.Balanced."
            )

    # -- what the loop calls --------------------------------------------------------------------------------------

    def forward(self, levels: Features) -> dict[str, Features]:
        """Returns the levels as each task's head gets them. With gradients, a pass begins."""
        self._recorded = torch.is_grad_enabled()
        if not self._recorded:
            return self.balancer.adapt(levels)
        if not any(level.requires_grad for level in levels):
            raise ValueError(
                "The shared features need no gradient, so there is nothing to balance: the encoder is frozen, or it "
                "ran under torch.no_grad() or before a detach(). To evaluate, call balanced under torch.no_grad(), too."
            )
        if self._steps and self._following.gradients_are_gone():
            self.new_step()
        own, number = self.balancer, self.number
        epoch = None if self._steps_per_epoch is None else number // self._steps_per_epoch
        rate = own.lr * own.lr_decay**number
        step = Step(own, number=number, epoch=epoch, rate=rate, window=self._window, samples=self._samples)
        self._turns.next(number)
        one = Pass(own, self.encoder, step, turns=self._turns, observe=self.observe, shards=self._shards)
        adapted = one.tap(levels)
        self._pending = Forward(one, levels, Look.now(levels[0].device))
        return adapted

    def loss(
        self, losses: Mapping[str, LossOf], indicators: Mapping[str, float | LossOf] | None, again: Again | None
    ) -> Tensor:
        """Returns the scalar whose backward pass is the pass of the last forward; see `Balanced.loss`."""
        own = self.balancer
        pairs = given.pairs_of(losses, own.tasks)
        if not torch.is_grad_enabled():
            return given.plain_sum(pairs, self._recorded, self._samples)
        now = self._pending
        if now is None:
            raise ValueError(
                "balanced.loss(...) needs a forward pass of its own: call balanced(features) before it, once per call."
            )
        mine = {"seed": self._turns.seed, "observe": self.observe, "number": self.number}
        self._arguments.check(self._samples, now.features[0].device, **mine)
        given.check_extras(own, again, indicators)
        self._following.check(self.encoder.module, now.features)
        aliases, weighs = now.one.aliases, self._gradients.weighs
        heads = parameters_of_heads(pairs, aliases, now.features, self._of_heads, own, weighs)
        pairs, outputs = given.completed(pairs, aliases, "create_graph" in own.needs)
        self._pending, now.again, now.heads, now.features = None, again, heads, []
        told = given.indicator_pairs(indicators, own.tasks, next(iter(outputs.values())).device, self._samples)
        now.one.record(pairs, outputs, told)
        given.check_indicators(now.one.step, told)
        objective = now.one.objective()
        scalar: Tensor = Seed.apply(lambda _: self._begin(now), objective, objective.device)
        return scalar

    def scalars(self) -> dict[str, float]:
        """Returns the mean figures of the last finished optimizer step."""
        return mean_scalars(self._finished)

    # -- what happens behind `backward` and `optimizer.step` ------------------------------------------------------

    def _begin(self, now: Forward) -> None:
        """The backward pass begins."""
        if now.begun:
            raise ValueError(
                "The backward pass of this loss ran already. Call `backward` once per balanced.loss(...): all task "
                "gradients meet in one pass. For another pass, call balanced(features) and balanced.loss(...) again."
            )
        now.begun = True
        # Heads that are compiled together have all their parameters in common, and some heads share a few.
        present = {id(p) for task in now.one.step.tasks for p in now.heads[task]}
        now.fresh = [p for own in now.heads.values() for p in own if p.grad is None and id(p) not in present]
        now.weighing.enter_context(self._gradients.weighed(now.one.step, now.heads))
        # DDP and FSDP complete the gradients in calls of their own, which they may register in others. Ours is last.
        after_backward(lambda: self._end(now), rounds=3)

    def _end(self, now: Forward) -> None:
        """The backward pass is over."""
        step = now.one.step
        now.one.end()
        if self._gradients.weighs:
            weighed = [p for task in step.tasks for p in now.heads[task]]
            check_arrived(weighed)
            # Every micro-batch has its own weights, so the processes' gradients must meet before them.
            self._samples.average_local_gradients(weighed)
        now.weighing.close()
        for parameter in now.fresh:  # with a zero gradient, momentum would move a head that had no label
            parameter.grad = None
        now.heads, now.fresh = {}, []
        self._last = now
        self._steps.append(step)

    @torch.compiler.disable  # some compile the step of their optimizer, and this is a part of it
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """The optimizer has stepped."""
        last, steps = self._last, self._steps
        skipped = getattr(optimizer, "found_inf", None)  # a loss scaler sets it where the optimizer itself skips a step
        if last is None or (skipped is not None and bool(skipped)):
            return
        if not all(step.finite for step in steps):
            raise NonFiniteError(
                f"The task gradients of step {self.number} are not finite, and no loss scaler skipped the step, so the "
                f"model moved with them. Go back to a checkpoint, and lower the learning rate or look at the data."
            )
        with torch.enable_grad():
            last.one.update_balancer(self.optimizer, lambda: self._look_again(last))
        self._finished, self.number = steps, self.number + 1
        self._following.stepped()
        self.new_step()

    def _look_again(self, last: Forward) -> dict[str, tuple[Tensor, Tensor]]:
        assert last.again is not None, "`loss` asked for it"
        with as_before(last.look):
            pairs = given.pairs_of(last.again(), self.balancer.tasks)
        return {name: pairs.get(name) or given.nothing(pairs) for name in self.balancer.tasks}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OF_A_LOOP}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._leave_the_loop()  # a copy belongs to no loop until it follows an optimizer
