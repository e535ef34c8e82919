"""What the log of a run says about the run itself."""

import datetime
import importlib.metadata
import platform

from mtlkit import distributed
from mtlkit.balancer import has_adapters
from mtlkit.config.schema import Config
from mtlkit.data.samples import Samples
from mtlkit.engine.averaged import average_in_words
from mtlkit.engine.engine import Engine, Record
from mtlkit.engine.evaluation import directions, units
from mtlkit.engine.freeze import frozen_in_words
from mtlkit.engine.lora import lora_in_words
from mtlkit.run.build import Parts
from mtlkit.run.machine import device_in_words, started_by

PACKAGES = ("mtlkit", "torch", "timm", "segmentation-models-pytorch", "accelerate", "albumentations", "numpy")


def facts(config: Config, parts: Parts, engine: Engine) -> Record:
    """Returns the first record of a run or of its continuation: what it is, and how to read its figures."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "total_steps": engine.total_steps,
        "steps_per_epoch": engine.steps_per_epoch,
        "batch_size": config.data.batch_size,
        "processes": distributed.world_size(),
        "versions": {"python": platform.python_version()} | versions,
        "higher_is_better": directions(parts.tasks),
        "units": units(parts.tasks),
        "protocol": config.protocol,
        "preset": config.preset.name if config.preset else None,
        "validation": config.data.validation,
        "selection": config.trainer.selection,
        "monitor_of": engine.monitor.name,
        "decoders": str(engine.decoder_gradients),
        "ema": config.trainer.ema,
        "device": device_in_words(engine.accelerator.device),
        "precision": config.trainer.precision,
        "computed_by": [key for key, on in _computed_by(config).items() if on],
        **started_by(),
    }


def augmented_on(training: Samples) -> Record:
    """Returns a record with the place where training images are augmented, and why, if it is not the one asked for."""
    if training.augment is None:
        return {"augment_on": None}
    record: Record = {"augment_on": training.augment_on}
    if only_here := training.only_in_loader:
        record["incident"] = (
            "data.augment_on=device: the loading processes augment all the same, because the kinds of the targets "
            f"{', '.join(only_here)} move single values only. Give such a kind `move_batch`, or `change_batch` if it "
            "has one value per pixel (docs/how_to/data.md), or set data.augment_on=loader."
        )
    return record


def _computed_by(config: Config) -> dict[str, bool]:
    """Returns the keys that change how the same numbers are computed, and whether they are on."""
    return {
        "model.checkpointing": config.model.checkpointing,
        "model.channels_last": config.model.channels_last,
        "trainer.compile": config.trainer.compile,
    }


def about_the_model(config: Config, parts: Parts, engine: Engine, taken: Record) -> Record:
    """Returns a record with sentences about the model that a reader of the figures must know."""
    frozen = frozen_in_words(parts.model, parts.balancer, config.balancer.name, engine.decoder_gradients)
    averaged = average_in_words(config.trainer.ema, engine.total_steps, has_adapters(parts.balancer))
    lora = lora_in_words(parts.model, config.model.lora)
    return taken | {"model": [*taken.get("model", ()), *lora, *frozen, *averaged]}
