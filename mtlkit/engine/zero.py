"""DeepSpeed's ZeRO, which has a configuration of its own beside ours."""

from accelerate import Accelerator

from mtlkit.config.schema import TrainerConfig


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Returns whether DeepSpeed runs the backward pass, which then includes the step of the optimizer."""
    return bool(accelerator.distributed_type.value == "DEEPSPEED")


def configure(accelerator: Accelerator, config: TrainerConfig) -> None:
    """Puts our settings into DeepSpeed's configuration, if DeepSpeed is on. Nothing is prepared yet.

    Raises:
        ValueError: the two configurations contradict each other, or DeepSpeed cannot do what ours says.
    """
    if not is_deepspeed(accelerator):
        return
    if config.clip_encoder is not None:
        raise ValueError(
            "trainer.clip_encoder: DEEPSPEED keeps the gradients to itself and clips only all of them together. Set "
            "trainer.clip_encoder=null, or launch with DDP or FSDP."
        )
    if config.precision in ("bf16", "fp16"):
        raise ValueError(
            f"trainer.precision={config.precision}: DEEPSPEED would convert the parameters themselves, and evaluations "
            f"and checkpoints need them in float32. Set trainer.precision=fp32, or launch with DDP or FSDP."
        )
    theirs = accelerator.deepspeed_plugin.deepspeed_config
    wanted, found = config.clip_norm or 0.0, theirs.get("gradient_clipping", "auto")
    if found not in ("auto", wanted):  # Accelerate would ignore ours without a word
        raise ValueError(
            f"trainer.clip_norm={config.clip_norm}, but DeepSpeed's configuration has gradient_clipping: {found}, and "
            f"only one of them can hold. Leave gradient_clipping out there, or set trainer.clip_norm={found or 'null'}."
        )
    theirs["gradient_clipping"] = wanted  # without it, Accelerate and DeepSpeed clip at 1
    if theirs.get("train_micro_batch_size_per_gpu", "auto") == "auto":
        theirs["train_micro_batch_size_per_gpu"] = 1  # only for DeepSpeed's log; Accelerate asks a loader, or refuses
