"""A run: training as a configuration describes it, and the folder that it leaves."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtlkit import checkpoint, distributed
from mtlkit.build import (
    Parts,
    build_dataset,
    build_order,
    build_parts,
    build_samples,
    make_accelerator,
    make_deterministic,
)
from mtlkit.config import compose
from mtlkit.data.dataset import Dataset
from mtlkit.data.loader import Samples, eval_loader, train_loader
from mtlkit.data.summary import look_at, spread, summarise
from mtlkit.engine import Engine, Record
from mtlkit.evaluation import directions, evaluate, evaluate_constants, output_sizes
from mtlkit.log import JsonLines, Observer, Observers, write_whole
from mtlkit.report import save_pictures, write_report
from mtlkit.resume import resumed
from mtlkit.schema import Config

Targets = dict[str, Tensor]
LOOK_SAMPLES, LOOK_PIXELS = 1000, 20_000_000  #: at most so many training samples, and pixels in them, are looked at
#: for the summary of the data and the constant predictions
PICTURES = 4  #: so many validation samples, evenly spread, are drawn
PACKAGES = ("mtlkit", "torch", "timm", "segmentation-models-pytorch", "accelerate", "albumentations", "numpy")


class Experiment:
    """A run that a configuration describes.

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
        """From an experiment's YAML file and overrides as on the command line."""
        return cls(compose(experiment, overrides), overrides)

    def run(self, resume: bool = False, observers: Iterable[Observer] = ()) -> Path:
        """Trains, writes the run's folder and returns it. All processes call it.

        Args:
            resume: go on with the run in `output_dir` from its last checkpoint and with its configuration, of which
                only the keys of `mtlkit.resume.MAY_CHANGE` can differ.
            observers: further watchers, beside the log.

        Raises:
            FileExistsError: the folder holds a run, and `resume` is not set.
            NonFiniteError: a loss or gradient is not finite; the checkpoints are intact.
        """
        if resume:
            self.config = resumed(self.config, self._words)
        config = self.config
        accelerator = make_accelerator(config.trainer)
        self._check_folder(resume)
        make_deterministic(config)
        with distributed.main_first():  # it may fill a cache that the others then find
            training, validation = (
                build_samples(config, build_dataset(config, split), augment=split == "train")
                for split in ("train", config.data.validation)
            )
        dataset, size = training.dataset, training.image_size
        parts = build_parts(config, dataset.targets, size, notes=dataset.notes)
        order = build_order(config, dataset)
        rank, world = distributed.rank(), distributed.world_size()
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
        begun = resume and checkpoint.exists(self.folder)  # a run may have died before its first checkpoint
        if begun:
            checkpoint.load(engine, checkpoint.find(self.folder, "last"))
        batches = train_loader(
            training, order, accumulation=config.trainer.accumulation, start_step=engine.step, **shared
        )
        checks = eval_loader(validation, config.data.eval_batch_size or config.data.batch_size, **shared)

        if accelerator.is_main_process:
            log = self.folder / "metrics.jsonl"
            self._write_description(dataset, size)  # on a resume as well: its length may be another
            if resume and not begun:
                log.unlink(missing_ok=True)
            engine.observer = Observers([JsonLines(log, engine.step if begun else None), *observers])
        status = "stopped"
        try:
            engine.start(self._facts(parts, engine))
            if not begun:
                looked_at = some_targets(training)
                engine.note({"data": self._data_facts(training, validation, looked_at)})
                constants = constant_predictions(parts, looked_at)
                engine.note_evaluation(
                    evaluate_constants(checks, parts.tasks, engine.prepare, constants, engine.accelerator.device),
                    "val_constant",
                )
            engine.fit(batches, lambda: evaluate_engine(engine, checks), self._saver(engine))
            status = "finished"
        finally:
            engine.finish(status)
        results = checkpoint.find(self.folder, checkpoint.selected(config.trainer))
        checkpoint.load_weights(engine.network, engine.balancer, results)
        if accelerator.is_main_process:
            save_pictures(self.folder, draw(engine, validation))
            write_report(self.folder)
        accelerator.wait_for_everyone()
        return self.folder

    def _saver(self, engine: Engine) -> Callable[[bool], None]:
        def save(best: bool) -> None:
            if best:
                checkpoint.save(engine, self.folder / "checkpoints" / "best")
            checkpoint.save(engine, self.folder / "checkpoints" / "last")

        return save

    def _check_folder(self, resume: bool) -> None:
        """Refuses a folder that must not or cannot be written, before any work."""
        exists = (self.folder / "config.yaml").exists()
        distributed.gather(None)  # no process may look after the main one began to write
        if exists and not resume:
            raise FileExistsError(
                f"{self.folder} holds a run. Go on with it by --resume, or choose another output_dir."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"output_dir={self.folder} cannot be made: {error}") from error
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(f"output_dir={self.folder} cannot be written.")

    def _write_description(self, dataset: Dataset, size: tuple[int, int]) -> None:
        targets = {name: {"type": target.type, "classes": target.classes} for name, target in dataset.targets.items()}
        write_whole(self.folder / "data.json", json.dumps({"size": size, "targets": targets}, indent=1).encode())
        self.config.save(self.folder / "config.yaml")

    def _facts(self, parts: Parts, engine: Engine) -> Record:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        return {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "total_steps": engine.total_steps,
            "processes": distributed.world_size(),
            "versions": {"python": platform.python_version()} | versions,
            "higher_is_better": directions(parts.tasks),
            "protocol": self.config.protocol,
            "validation": self.config.data.validation,
            "selection": self.config.trainer.selection,
            "decoders": str(engine.decoder_gradients),
        }

    def _data_facts(self, training: Samples, validation: Samples, looked_at: Sequence[Targets]) -> Record:
        dataset = training.dataset
        return {
            "notes": list(dataset.notes),
            "licence": dataset.licence,
            "samples": {"train": len(training), self.config.data.validation: len(validation)},
            "size": training.image_size,
            "looked_at": len(looked_at),
            "targets": summarise(dataset.targets, looked_at),
        }


def evaluate_engine(engine: Engine, batches: Iterable[object]) -> Record:
    """Losses and metrics of the engine's present model."""
    distributed.average_buffers(engine.network)
    engine.network.eval()
    record = evaluate(
        batches,
        engine.tasks,
        engine.prepare,
        lambda image, targets: forward(engine, image, targets),
        engine.accelerator.device,
    )
    engine.network.train()
    return record


def forward(engine: Engine, image: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """The outputs without a tap."""
    return engine.network(image, engine.balancer.adapt, output_sizes(targets))


def some_targets(samples: Samples) -> list[Targets]:
    """The targets of some samples, evenly spread, as many as `LOOK_SAMPLES` and `LOOK_PIXELS` allow."""
    width, height = samples.image_size
    count = max(16, min(LOOK_SAMPLES, LOOK_PIXELS // (width * height)))
    return list(look_at(samples, spread(len(samples), count), errors=[]))  # evaluation and training report the errors


def constant_predictions(parts: Parts, looked_at: Sequence[Targets]) -> dict[str, Tensor]:
    """Every task's best constant prediction for these training samples; none for a task that none of them has."""
    return {
        name: task.constant(torch.stack([targets[name] for targets in looked_at if name in targets]))
        for name, task in parts.tasks.items()
        if any(name in targets for targets in looked_at)
    }


@torch.no_grad()
def draw(engine: Engine, samples: Samples) -> list[list[tuple[str, np.ndarray]]]:
    """Image, target and prediction of a few validation samples, as pictures."""
    engine.network.eval()
    rows = []
    for index in spread(len(samples), PICTURES):
        sample = samples[0, index]
        image, targets = engine.prepare({"image": sample["image"][None], "targets": _batched(sample["targets"])})
        outputs = forward(engine, image, targets)
        row: list[tuple[str, np.ndarray]] = [("image", (sample["image"].permute(1, 2, 0) * 255).byte().numpy())]
        for name, task in engine.tasks.items():
            row.append((f"{name}_target", task.picture(targets[name][0].cpu())))
            row.append((f"{name}_prediction", task.picture(task.predict(outputs[name])[0].cpu())))
        rows.append(row)
    return rows


def _batched(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: target[None] for name, target in targets.items()}
