"""Settings that were made but have no effect because of another one."""

from collections.abc import Iterator
from dataclasses import fields

from mtlkit.config.optimizers import has_momentum
from mtlkit.config.schema import Config


def unused(config: Config) -> Iterator[tuple[str, str]]:
    """Yields the keys of `trainer` that were set but have no effect because of another key, and why."""
    trainer = config.trainer
    owners = {"power": ("schedule", "poly")}
    owners |= dict.fromkeys(("step_size", "step_size_epochs", "gamma"), ("schedule", "step"))
    defaults = {f.name: f.default for f in fields(trainer)}
    for key, (owner, value) in owners.items():
        if getattr(trainer, key) != defaults[key] and getattr(trainer, owner) != value:
            yield key, f"trainer.{owner} is {getattr(trainer, owner)!r}, not {value!r}"
    if trainer.momentum != defaults["momentum"] and not has_momentum(trainer.optimizer):
        yield "momentum", f"the optimizer {trainer.optimizer} has none"
    if config.model.freeze is True:
        for key in ("encoder_lr", "layer_decay", "clip_encoder"):
            if getattr(trainer, key) is not None:
                yield key, "model.freeze is true, so the encoder does not learn"
