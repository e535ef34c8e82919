"""What a launcher asked for, and what Accelerate made of it."""

import os

from accelerate import Accelerator
from accelerate.utils import str_to_bool

from mtlkit.engine.zero import is_deepspeed

#: What a configuration of Accelerate can ask for: the name, the variable that asks, and the kind that it becomes.
REQUESTS = (
    ("FSDP", "ACCELERATE_USE_FSDP", "FSDP"),
    ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED", "DEEPSPEED"),
    ("Megatron-LM", "ACCELERATE_USE_MEGATRON_LM", "MEGATRON_LM"),
)


def about_the_launcher(accelerator: Accelerator) -> list[str]:
    """Returns sentences about ways to split a model: those that the launcher asked for and does not get, and limits.

    Accelerate splits models only over several processes with GPUs. Elsewhere it trains in another way, without a word.
    """
    kind = accelerator.distributed_type.value
    limits = ["Under DeepSpeed, this run cannot be resumed: checkpoints have no state of the optimizer."]
    return limits * is_deepspeed(accelerator) + [
        f"The launcher asks for {name}, but Accelerate ignores it here and trains with "
        f"{'one process' if accelerator.num_processes == 1 else f'plain data parallelism ({kind})'}: it splits a model "
        f"only over several processes with GPUs. The results are the same; the memory is not."
        for name, variable, becomes in REQUESTS
        if str_to_bool(os.environ.get(variable, "false")) and kind != becomes
    ]
