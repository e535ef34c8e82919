"""Runs an experiment: trains a model as its configuration says and writes a folder."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from mtlkit import distributed
from mtlkit.balancer import Balancer, has_adapters
from mtlkit.config.composition import compose
from mtlkit.config.presets import unlike_published
from mtlkit.config.schema import Config
from mtlkit.data.loader import eval_loader, train_loader
from mtlkit.data.samples import Samples
from mtlkit.engine.engine import Engine
from mtlkit.engine.evaluation import evaluate_constants
from mtlkit.engine.optim import check_optimizer
from mtlkit.log import JsonLines
from mtlkit.observer import OBSERVERS, Observer, Observers
from mtlkit.run import checkpoint
from mtlkit.run.build import (
    build_balancer,
    build_dataset,
    build_order,
    build_parts,
    build_samples,
    make_accelerator,
    make_deterministic,
)
from mtlkit.run.claim import claimed
from mtlkit.run.cost import about_the_cost
from mtlkit.run.description import Description
from mtlkit.run.ending import ended, why_it_ended
from mtlkit.run.evaluating import evaluate_engine
from mtlkit.run.facts import about_the_model, augmented_on, facts
from mtlkit.run.first_look import FirstLook
from mtlkit.run.init_from import take_weights
from mtlkit.run.launcher import about_the_launcher
from mtlkit.run.length import check_length
from mtlkit.run.memory import PeakMemory
from mtlkit.run.profile import Profile
from mtlkit.run.same import check_same_data, check_same_run
from mtlkit.run.saving import Saver, drop_previous, put_in_place
from mtlkit.run.showing import show
from mtlkit.run.start import Start, open_run
from mtlkit.run.stop import in_training
from mtlkit.run.trackers import start_trackers
from mtlkit.run.trial_pass import check_halves, check_normalisation
from mtlkit.run_folder import CONFIG, LOG


class Experiment:
    """One training run, described by a configuration.

    >>> experiment = Experiment.compose("scenes", ["balancer=rotograd", "trainer.max_steps=10"])
    >>> experiment.config.balancer.name
    'rotograd'
    """

    def __init__(self, config: Config, words: Sequence[str] | None = None) -> None:
        self.config = config
        self.folder = Path(config.output_dir)
        self._words = words

    @classmethod
    def compose(cls, experiment: str, overrides: Sequence[str] = ()) -> "Experiment":
        """Builds it from an experiment's YAML file and overrides, written as on the command line."""
        return cls(compose(experiment, overrides), overrides)

    def run(self, resume: bool | str = False, observers: Iterable[Observer] = ()) -> Path:
        """Trains, writes the run's folder and returns it. All processes call it.

        Args:
            resume: continue the run in `output_dir` from its last checkpoint, or from the one of this name (`last`,
                `previous`, `best`), and with its configuration. Only the keys of `mtlkit.run.resume.MAY_CHANGE` can
                differ. What the folder holds of later steps than the checkpoint's is dropped.
            observers: objects that also receive the records of the log.

        Raises:
            FileExistsError: another run uses the folder, or it holds a run with a finished step and `resume` is not
                set.
            FileNotFoundError: there is no run to resume, or a part of it is missing.
            ValueError: a setting differs that would make it another run, the processes have different settings, code
                or data, or the checkpoint is damaged. The message names the file, and offers another checkpoint.
            NonFiniteError: a loss or a gradient is not finite. The checkpoints are intact.
            Stopped: a signal asked the run to end. It goes on by `resume`.
        """
        distributed.start()  # before the claim, which only the main process takes
        check_same_run(self.config, resume)
        with claimed(self.folder):
            # One process reads the folder and all go by its answer: two that look at different times could disagree.
            start = distributed.main_decides(lambda: open_run(self.config, self._words, resume))
            self.config = start.config  # that of the folder, if the run goes on
            self._run(start, tuple(observers) if distributed.rank() == 0 else ())
        return self.folder

    def _run(self, start: Start, observers: Sequence[Observer]) -> None:
        config, phase = self.config, Observers(observers).phase
        # This order matters. The device comes first, then the seeds, and then the parts that draw their start values.
        accelerator = make_accelerator(config.trainer, self.folder / "trackers")
        memory = PeakMemory(accelerator.device)
        make_deterministic(config)
        # Both only to find a wrong option before the data sets are opened, which can take long.
        build_balancer(config)
        check_optimizer(config.trainer, accelerator.device)
        phase("Opening the data")
        with distributed.main_first():  # the main process may fill a cache, which the other processes then use
            training, validation = (
                build_samples(config, build_dataset(config, split), augment=split == "train")
                for split in ("train", config.data.validation)
            )
        check_same_data(training, validation)
        dataset, size = training.dataset, training.image_size
        phase("Building the model")
        parts = build_parts(config, dataset.targets, size, notes=dataset.notes, channels=training.channels)
        order = build_order(config, dataset)
        rank, world = distributed.rank(), distributed.world_size()
        # Before the engine wraps the model: a trial pass through DDP would wait for gradients.
        check_normalisation(
            parts,
            config,
            size,
            device=accelerator.device,
            processes=world,
            batch_size=order.smallest,
            channels=training.channels,
        )
        check_halves(parts.balancer, config, order.smallest)
        costly = list(about_the_cost(parts, config, size, training.channels, world))
        taken = take_weights(parts, config, start.weights, dataset.targets) if start.weights else {}
        shared = {"workers": config.data.workers, "rank": rank, "world": world}
        engine = Engine(
            parts.model,
            list(parts.tasks.values()),
            parts.balancer,
            config.trainer,
            accelerator=accelerator,
            steps_per_epoch=order.steps_per_epoch,
            seed=config.seed,
        )
        too_short = check_length(engine)
        if start.source:
            phase(f"Loading the checkpoint {start.source.name!r}")
        # The engine is built as for a new run and then gets the saved state, so both start through the same code.
        best_lost = self._go_on(engine, start)
        # Only now: the checkpoint says at which step the batches go on.
        batches = train_loader(
            training, order, accumulation=config.trainer.accumulation, start_step=engine.step, **shared
        )
        checks = eval_loader(validation, config.data.eval_batch_size or config.data.batch_size, **shared)

        def prepare() -> None:
            self._write_description(training, parts.balancer)  # also on a resume: the run's length may have changed
            if start.source:
                put_in_place(start.source)  # before the log forgets later steps than its own
            engine.observer = Observers([*self._own_observers(engine, start), *observers])

        distributed.main_decides(prepare)  # a tracker that cannot start must not leave the other processes waiting
        with ended(engine) as end, Saver(engine, self.folder) as save:
            engine.start(facts(config, parts, engine) | augmented_on(training))
            # Found before there was a log.
            for incident in (*start.incidents, *about_the_launcher(accelerator), *too_short, *costly):
                engine.note({"incident": incident})
            if best_lost:
                engine.note({"best_lost": True, "incident": start.best_gone})
            if not start.source:
                engine.note(about_the_model(config, parts, engine, taken))
                if remark := unlike_published(config):
                    engine.note({"incident": remark})
                phase("Looking at the data")
                look = FirstLook(training, validation, config.data.validation)
                engine.note(look.record())
                constants = look.constants(parts.tasks)
                engine.note_evaluation(evaluate_constants(checks, engine.predictor, constants), "val_constant")
            with in_training(save.now) as stop:
                with Profile(engine, self.folder) as profile:
                    evaluate = partial(evaluate_engine, engine, checks, phase)
                    engine.fit(profile.batches(batches), evaluate, save, profile.stop(stop))
                save.wait()
                # The pictures and the model after `run` are those of the checkpoint that the results are taken from.
                phase("Drawing the pictures and the report")
                distributed.main_decides(lambda: self._load_results(engine))
                finished: dict[str, object] = {"status": "finished", "why": why_it_ended(engine)}
                finished |= {"seconds": engine.clock.seconds}
                finished |= {"peak_memory": memory.bytes(), "memory_of": memory.of}
                end["status"] = "finished"  # a report that cannot be drawn does not make a finished run a stopped one
                try:
                    distributed.main_decides(lambda: show(engine, validation, checks, self.folder, finished))
                finally:
                    engine.note(finished)  # last: a run that is killed before goes on, and gets its report

    def _go_on(self, engine: Engine, start: Start) -> bool:
        """Gives the engine the state of the run, if it goes on. Returns whether its best evaluation does not count."""
        if start.source is None:
            return False
        checkpoint.load_checkpoint(engine, start.source)
        if engine.step > engine.total_steps:
            raise ValueError(
                f"{self.folder} is at step {engine.step} already, and would end at step {engine.total_steps} by "
                "trainer.max_steps and trainer.max_epochs. A resumed run cannot become shorter: leave them as they "
                "are, or set them higher."
            )
        if engine.monitor.best is None or not start.best_gone:
            return False
        engine.monitor.forget()  # or no later model would be saved as `best` before it beats one that is gone
        return True

    def _own_observers(self, engine: Engine, start: Start) -> list[Observer]:
        own = [OBSERVERS.build(name, self.config) for name in self.config.trainer.observers]
        # The trackers come first: an incident about one that fails in `finish` must still find the log open.
        # Log and trackers drop records after the checkpoint, for these steps are made again.
        begun = engine.step if start.source else None
        trackers = start_trackers(engine.accelerator, self.config, lambda text: engine.note({"incident": text}), begun)
        log = JsonLines(self.folder / LOG, begun)
        return [*trackers, log, *own]

    def _load_results(self, engine: Engine) -> None:
        """Loads the weights that belong to the results. Writes a note to the log if they are not the requested ones."""
        folder, remark = checkpoint.of_results(self.folder, self.config.trainer)
        if remark:
            engine.note({"incident": remark})
        checkpoint.load_weights(engine.averaged.model, engine.balancer, folder)
        drop_previous(self.folder)

    def _write_description(self, training: Samples, balancer: Balancer) -> None:
        dataset = training.dataset
        description = Description(
            training.image_size,
            dict(dataset.targets),
            resizing=dataset.resizing,
            adapters=has_adapters(balancer),
            channels=training.channels,
            bounds=dataset.bounds,
        )
        description.check_outputs(self.folder, self.config.task)
        description.save(self.folder)
        self.config.save(self.folder / CONFIG)
