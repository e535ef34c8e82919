"""The length of a run: whether it is long enough for what its first steps are to do, and why it ended."""

from collections.abc import Iterator

from mtlkit.engine.engine import Engine


def check_length(engine: Engine) -> list[str]:
    """Returns sentences about settings that take the whole run, so that nothing is left for what comes after them.

    The number of steps is known only when the data are open: `trainer.max_epochs` counts passes through them. Raises
    `ValueError` if the learning rate would still grow in the last step.
    """
    steps, warmup = engine.total_steps, engine.config.warmup_steps
    if warmup >= steps:
        raise ValueError(
            f"trainer.warmup_steps: {warmup} is not less than the {steps} steps of this run (trainer.max_epochs="
            f"{engine.config.max_epochs} of {engine.steps_per_epoch} steps each)."
        )
    return list(_too_short(engine))


def _too_short(engine: Engine) -> Iterator[str]:
    steps, config = engine.total_steps, engine.config
    if config.normalize_losses and config.normalize_losses >= steps:
        yield (
            f"trainer.normalize_losses={config.normalize_losses}, and this run has {steps} steps: each loss is divided "
            "by its mean so far, and never by a fixed one."
        )
    if config.normalize_again is not None and config.normalize_again >= steps:
        yield f"trainer.normalize_again={config.normalize_again} is never reached: this run has {steps} steps."
    if (first := engine.balancer.settling_steps(engine.steps_per_epoch)) >= steps:
        name = type(engine.balancer).__name__
        yield f"{name} settles in its first {first} steps, and this run has {steps}: it shows only how that begins."
