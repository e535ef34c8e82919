"""The exponential moving average of the model's weights: `trainer.ema`."""

from accelerate import Accelerator
from timm.utils import ModelEmaV3

from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.shards import is_split


class Averaged:
    """Keeps the average of a model's weights, which moves after every optimizer step: a <- decay a + (1 - decay) w.

    It starts as the model's weights. It is timm's `ModelEmaV3` with its defaults: batch-norm statistics are averaged
    like weights, and counters are copied.

    Args:
        model: the bare model, not its wrapper of DDP. All processes have the same weights, so they have the same
            average.
        decay: between 0 and 1, or None: there is no average.
        accelerator: the launcher of the processes.

    Raises:
        ValueError: the launcher splits the weights over the processes.

    Attributes:
        model: the model to evaluate and to save as the result: the average, or the model itself.
    """

    def __init__(self, model: MultiTaskModel, decay: float | None, accelerator: Accelerator) -> None:
        launcher = accelerator.distributed_type.value
        if decay is not None and (launcher in ("FSDP", "DEEPSPEED") or is_split(model)):
            raise ValueError(
                f"trainer.ema: {launcher if launcher == 'DEEPSPEED' else 'FSDP'} splits the weights over the "
                "processes, and their average needs whole ones. "
                "Set trainer.ema=null, or launch with plain data parallelism (--multi_gpu)."
            )
        self._trained = model
        self._average = None if decay is None else ModelEmaV3(model, decay)
        self.model: MultiTaskModel = model if self._average is None else self._average.module

    def update(self) -> None:
        """Moves the average, after the model has moved."""
        if self._average is not None:
            self._average.update(self._trained)


def average_in_words(decay: float | None, total_steps: int, adapts: bool) -> list[str]:
    """Returns sentences about the average for the log. Without an average there is none.

    `adapts` says whether the balancer adapts features, which no average is taken of.
    """
    if decay is None:
        return []
    lines = [
        f"Evaluations, pictures and model.safetensors have the average of the weights (trainer.ema={decay:g}); the "
        "losses of training are those of the weights themselves."
    ]
    share = decay**total_steps
    if share > 0.01:
        lines.append(
            f"After {total_steps} steps, {share:.0%} of the average are still the weights of the start. A smaller "
            "trainer.ema follows faster."
        )
    if adapts:
        lines.append("The balancer's adapters are not averaged: the averaged model gets the latest ones.")
    return lines
