"""The training engine. It knows tasks and balancers only by their contracts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from mtlkit import distributed
from mtlkit.balancer import Balancer
from mtlkit.config.schema import TrainerConfig
from mtlkit.data.loader import micro_batches
from mtlkit.engine import averaged, balancer_state, faster, optim, shards, shared, zero
from mtlkit.engine.clock import Clock
from mtlkit.engine.decoder_gradients import DecoderGradients
from mtlkit.engine.evaluation import LeftOut, output_sizes
from mtlkit.engine.feed import feed
from mtlkit.engine.gradient_check import GradientCheck
from mtlkit.engine.losses import FirstLosses, Losses, indicators_of, loss_of
from mtlkit.engine.model import MultiTaskModel, kept_buffers
from mtlkit.engine.monitor import Monitor
from mtlkit.engine.one_pass import Pass
from mtlkit.engine.parts import named
from mtlkit.engine.predictor import Predictor, dtype_of
from mtlkit.engine.scalars import mean_scalars
from mtlkit.network import Features
from mtlkit.observer import Observer, Observers
from mtlkit.sample_group import SampleGroup
from mtlkit.seeding import Turns
from mtlkit.step import Step, Window
from mtlkit.task import Task

Batch = dict[str, Any]
Record = dict[str, Any]
Tensors = dict[str, Tensor]
Share = Callable[[Features], Mapping[str, Features]]
Model = Callable[..., Tensors]
Forward = Callable[[], tuple[Tensors, Losses]]


class Engine:
    """Trains a multi-task model with one backward pass per step, whatever the balancer.

    Every process builds the same engine. `seed` fixes dropout and the balancer's random numbers. The model, the tasks
    and the balancer move to the accelerator's device.

    Attributes:
        step: the number of optimizer steps that are done.
        evaluation_due: whether the present model has still to be evaluated.
        monitor: knows which evaluation is the best so far.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        balancer: Balancer,
        config: TrainerConfig,
        *,
        accelerator: Accelerator,
        steps_per_epoch: int,
        seed: int = 0,
        mesh: DeviceMesh | None = None,
    ) -> None:
        launcher = "FSDP2" if accelerator.is_fsdp2 else accelerator.distributed_type.value
        shards.check_launcher(launcher, balancer)  # before anything moves
        zero.configure(accelerator, config)
        self.decoder_gradients = DecoderGradients(config.decoder_gradients, balancer, launcher)
        self.samples = SampleGroup(mesh)
        self.accelerator = accelerator
        self.config = optim.in_steps(config, steps_per_epoch)
        self.tasks = {task.name: task for task in tasks}
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = optim.total_steps(config, steps_per_epoch)
        self.observer: Observer = Observers()  # those of the main process; the others have none

        dtype = dtype_of(config.precision)
        # The balancer is not part of the wrapped model: DDP would wait for gradients of parameters that have none in
        # some steps. So its state is made equal here, and its gradients are averaged by hand.
        model.to(dtype)
        self.balancer = balancer.to(accelerator.device, dtype)
        distributed.broadcast_state(self.balancer)
        faster.set_up(model, balancer, config, accelerator)
        # Only the model's optimizer is prepared: two would share one loss scaler, and each would update its scale.
        self.balancer_optimizer = balancer_state.balancer_optimizer(balancer)
        made = optim.model_optimizer(model, config, accelerator)
        self.model, self.optimizer = shards.prepare(accelerator, model, made)
        self.gradient_check = GradientCheck(self.optimizer, type(balancer).__name__, accelerator)
        self.network: MultiTaskModel = accelerator.unwrap_model(self.model)  # for all that must not start DDP's hooks
        # Those that the optimizer moves. From the forward pass on, FSDP may have others in the modules.
        self._decoders = {name: list(decoder.parameters()) for name, decoder in self.network.decoders.items()}
        self._shards = shards.Shards(self.network.encoder, [self.network])
        shards.check_split(self.network.encoder, balancer, self.samples)
        shared.set_up_late(self.network.encoder, balancer, accelerator)
        self.averaged = averaged.Averaged(self.network, config.ema, accelerator)
        self.predictor = Predictor(self.averaged.model, self.tasks, balancer, accelerator.device, config.precision)
        self.prepare = self.predictor.inputs

        self.step, self.evaluation_due, self.clock = 0, True, Clock()
        self.monitor = Monitor(self.tasks, config.monitor, config.baseline)
        self.first_losses = FirstLosses(config.normalize_losses, config.normalize_again)
        self.left_out = LeftOut()
        self._turns = Turns(seed)
        self._window = Window()  # of the micro-batches since the last optimizer step

    def fit(
        self, batches: Iterable[Batch], evaluate: Callable[[], Record], save: Callable[[bool], None],
        stop: Callable[[int, bool], None] = lambda step, due: None
    ) -> None:  # fmt: skip
        """Trains until `total_steps`, or until `early_stopping` evaluations in a row brought no gain.

        Args:
            batches: start at the current step; each one holds this process's samples of one optimizer step.
            evaluate: returns the validation record of the present model, on all processes.
            save: writes a checkpoint; its argument says whether the model is the best so far.
            stop: gets each step and whether an evaluation is due. It may save and raise; the resumed run evaluates.
        """
        if self.evaluation_due:  # that of the untrained model, or the one before which the run was stopped
            save(self.note_evaluation(evaluate()) and self.step > 0)
        self.clock.lap(self.step)  # training begins
        if not self._finished():  # a run that is resumed may be finished already, by its steps or by early stopping
            parts = (part for batch in batches for part in micro_batches(batch, self.config.accumulation))
            steps: list[Step] = []
            for part in feed(parts, self.predictor, partial(self.clock.waiting, "data_time")):
                steps.append(self.train_step(part))
                self.left_out.add(part)
                if len(steps) < self.config.accumulation:
                    continue
                if self._logs(self.step):  # the mean times since the last record: single steps vary
                    times = self.clock.lap(self.step)
                    with self.clock.waiting("log_time"):
                        left_out = self.left_out.report() if "error" in part else {}
                        self.observer.step(self._training_record(steps) | times | left_out)
                steps = []
                due = self.evaluation_due = self._evaluates()
                with self.clock.paused():
                    stop(self.step, due)  # before the evaluation, which can take too long
                    best = due and self.note_evaluation(evaluate())
                    if due or (self.config.save_every and self.step % self.config.save_every == 0):
                        with self.clock.waiting("save_time"):
                            save(best)
                if self._finished():
                    return

    def start(self, facts: Record) -> None:
        """Tells the observers that the run begins or goes on, and some facts about it."""
        self.observer.start(self.total_steps, self.step)
        self.note(facts)

    def note(self, facts: Record) -> None:
        """Tells the observers something about the run."""
        self.observer.note({"step": self.step, "split": "info"} | facts)

    def finish(self, status: str) -> None:
        """Tells the observers that the run is over."""
        self.observer.finish({"status": status})

    def note_evaluation(self, record: Record, split: str = "val") -> bool:
        """Logs an evaluation. Returns whether it is the best so far; only the split `val` can be."""
        self.gradient_check.settle()
        record = {"step": self.step, "epoch": self.step // self.steps_per_epoch, "split": split} | record
        best = split == "val" and self.monitor.update(record)
        self.evaluation_due &= split != "val"
        self.observer.evaluation(record | self.monitor.entries if split == "val" else record)
        if split == "val" and self.monitor.remark:
            self.note({"incident": self.monitor.remark})
        return best

    def _training_record(self, steps: list[Step]) -> Record:
        head = {"step": self.step, "epoch": (self.step - 1) // self.steps_per_epoch, "split": "train"}
        return head | mean_scalars(steps) | optim.rates(self.optimizer, self.balancer, steps[-1].rate)

    def _logs(self, step: int) -> bool:
        return step == 1 or step % self.config.log_every == 0 or step == self.total_steps

    def _evaluates(self) -> bool:
        every = self.config.eval_every or (self.config.eval_every_epochs or 1) * self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def _finished(self) -> bool:
        patience = self.config.early_stopping
        return self.step >= self.total_steps or (patience is not None and self.monitor.without_gain >= patience)

    def train_step(self, batch: Batch) -> Step:
        """Runs one micro-batch. With the last one of an accumulation window, the optimizers move."""
        with self.accelerator.accumulate(*self.decoder_gradients.held_back(self.model)):  # decides when DDP sums
            step = Step(
                self.balancer,
                number=self.step,
                epoch=self.step // self.steps_per_epoch,
                rate=optim.balancer_rate(self.balancer, self.config, self.step, self.total_steps),
                window=self._window,
                samples=self.samples,
            )
            one = Pass(
                self.balancer,
                self.network.encoder,
                step,
                turns=self._turns,
                first_losses=self.first_losses,
                observe=self._logs(self.step + 1),  # the Gram matrix costs time, so the log has it only then
                shards=self._shards,
            )
            image, targets = self.prepare(batch)
            self._turns.next(self.step)
            self._turns.model(self.accelerator.device, self.samples.rank)  # the same dropout for all balancers
            outputs, losses = self._forward(partial(self.model, late=one.late), image, targets, one.tap)
            told = indicators_of(self.tasks, outputs, targets) if "indicators" in self.balancer.needs else None
            one.record(losses, outputs, told, self.gradient_check.take())

            # Before the backward pass: with DeepSpeed, the optimizer moves at its end.
            optim.set_rates(self.optimizer, self.config, self.step, self.total_steps)
            # The only backward pass. When it reaches the features, the tap hands the K task gradients to
            # `balancer.combine` and lets one gradient through to the encoder.
            with self.decoder_gradients.weighed(step, self._decoders):
                one.backward(self.accelerator.backward)

            if self.accelerator.sync_gradients:
                self._update(one, partial(self._forward, self.network, image, targets, self.balancer.adapt))
        return step

    def _forward(self, model: Model, image: Tensor, targets: Tensors, share: Share) -> tuple[Tensors, Losses]:
        outputs = model(image, share, output_sizes(self.tasks, targets))
        return outputs, {name: loss_of(task, outputs[name], targets[name]) for name, task in self.tasks.items()}

    @named("optimizer")
    def _update(self, one: Pass, again: Forward) -> None:
        """Moves model and balancer once, by the gradients of the whole accumulation window.

        `one` is its last pass. `again` runs the same micro-batch forward through the model as it is at that time.
        """
        absent = set(self.tasks) - self._window.tasks
        for parameter in (p for name in absent for p in self._decoders[name]):
            parameter.grad = None  # no label anywhere: not even momentum or weight decay may move the decoder
        if len(absent) < len(self.tasks):  # else no label at all: weight decay alone must not move the encoder
            self.gradient_check.look(optim.clip_gradients(self.accelerator, self.network, self.config), one.step)
            self.optimizer.step()
            if not self.optimizer.step_was_skipped:  # by the loss scaler: then the balancer stays where it is, too
                self.averaged.update()
                one.update_balancer(self.balancer_optimizer, partial(self._look_again, again))
        self.optimizer.zero_grad()
        self.balancer.zero_grad()
        self._window = Window()  # a new one, for a `Step` that somebody keeps still has the old one
        self.step += 1

    def _look_again(self, again: Forward) -> Losses:
        with kept_buffers(self.network):  # a second look must not move batch-norm statistics a second time
            return again()[1]
