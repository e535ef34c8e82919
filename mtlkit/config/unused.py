"""Keys that were set and have no effect, because of another key."""

from collections.abc import Iterator
from dataclasses import fields

from mtlkit.config.schema import TrainerConfig


def unused(trainer: TrainerConfig) -> Iterator[tuple[str, str]]:
    """Yields the keys of `trainer` that were set but have no effect because of another key, and why."""
    owners = {"momentum": ("optimizer", "sgd"), "power": ("schedule", "poly")}
    owners |= dict.fromkeys(("step_size", "step_size_epochs", "gamma"), ("schedule", "step"))
    defaults = {f.name: f.default for f in fields(trainer)}
    for key, (owner, value) in owners.items():
        if getattr(trainer, key) != defaults[key] and getattr(trainer, owner) != value:
            yield key, f"trainer.{owner} is {getattr(trainer, owner)!r}, not {value!r}"
