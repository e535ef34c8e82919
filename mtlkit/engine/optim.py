"""The optimizers of a run and their learning-rate schedule."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn
from torch.compiler import set_stance
from torch.optim import Optimizer

from mtlkit.balancer import Balancer
from mtlkit.config.optimizers import IN_TIMM, USUAL, default_options, optimizer_options
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.shards import here, mesh_of, whole
from mtlkit.engine.zero import is_deepspeed
from mtlkit.network import Encoder
from mtlkit.registry import options_of

OTHER_WAYS = {"fused", "foreach", "differentiable"}  #: options by which a user says how torch's optimizers work


def model_optimizer(model: MultiTaskModel, config: TrainerConfig, accelerator: Accelerator | None = None) -> Optimizer:
    """Returns the model's optimizer, with groups of parameters for the encoder and one for the decoders.

    On an accelerator, those of torch are fused: one operation for many parameters, which can leave out a step there.

    Raises `ValueError` if the optimizer refuses an option, or cannot work on this machine.
    """
    # Groups of one optimizer, and not several optimizers: each prepared optimizer would update the loss scale.
    groups = [
        *_encoder_groups(model.encoder, config),
        {"name": "decoders", "params": list(model.decoders.parameters()), "lr": config.lr},
    ]
    groups = [group for group in groups if any(parameter.requires_grad for parameter in group["params"])]
    for group in groups:
        group["initial_lr"] = group["lr"]  # the schedule multiplies this one, so that no rounding adds up
    with _refusing(config, "timm cannot make it here"):
        return _made(groups, config, accelerator is not None and _can_fuse(accelerator))


def check_optimizer(config: TrainerConfig, device: torch.device) -> None:
    """Takes two steps with tiny parameters, because most constructors do not look at the types of their options.

    Raises `ValueError` if the optimizer refuses an option or cannot work on this machine.
    """
    shapes = ((2,), (2, 2), (2, 2, 3, 3))  # a bias, a linear layer, a convolution: some treat each in its own way
    parameters = [nn.Parameter(torch.ones(shape, device=device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer of the run says it again
        with _refusing(config, "timm cannot make it here"):
            optimizer = _made([{"params": parameters}], config)
        with _refusing(config, "it cannot take a step"), set_stance("force_eager"):  # some compile, which takes minutes
            for _ in range(2):  # the first one makes the state, the second one uses it
                optimizer.step()


def _can_fuse(accelerator: Accelerator) -> bool:
    # Accelerate sees no skipped step of a fused optimizer: with a loss scaler, that one leaves it out by itself.
    split = accelerator.distributed_type.value in ("FSDP", "DEEPSPEED")
    return accelerator.device.type != "cpu" and accelerator.scaler is None and not split


def _made(groups: list[dict[str, Any]], config: TrainerConfig, fused: bool = False) -> Optimizer:
    name = IN_TIMM.get(config.optimizer, config.optimizer)
    options = optimizer_options(config)
    if fused and config.optimizer in USUAL and not OTHER_WAYS & options.keys():
        options["fused"] = True
    return create_optimizer_v2(groups, name, config.lr, config.weight_decay, config.momentum, **options)


@contextmanager
def _refusing(config: TrainerConfig, what: str) -> Iterator[None]:
    """Turns every error into a `ValueError`: which ones a wrong option causes depends on the optimizer."""
    try:
        yield
    except Exception as error:
        options = optimizer_options(config)
        usual = ", ".join(f"{key}={value}" for key, value in default_options(config).items() if key in options)
        raise ValueError(
            f"trainer.optimizer={config.optimizer} with trainer.optimizer_options={options}: {what}. "
            f"{type(error).__name__}: {error}{f' (The defaults are {usual}.)' if usual else ''}"
        ) from error


def _encoder_groups(encoder: Encoder, config: TrainerConfig) -> list[dict[str, Any]]:
    """Returns one group of parameters, or with `layer_decay` one for each layer, the first layer first."""
    rate = config.encoder_lr or config.lr
    if config.layer_decay is None:
        return [{"name": "encoder", "params": list(encoder.parameters()), "lr": rate}]
    # Weight decay is for all parameters, as without `layer_decay`.
    found = param_groups_layer_decay(
        encoder, config.weight_decay, weight_decay_exclude_1d=False, layer_decay=config.layer_decay
    )
    found = sorted(found, key=lambda group: group["lr_scale"])
    return [
        {"name": f"encoder_{number}", "params": group["params"], "lr": rate * group["lr_scale"]}
        for number, group in enumerate(found)
    ]


def clip_gradients(accelerator: Accelerator, model: MultiTaskModel, config: TrainerConfig) -> Tensor:
    """Clips the encoder's gradient, the whole one, or nothing.

    Returns the length of the whole gradient: before `clip_norm` scales it down, after `clip_encoder` does. If any
    gradient is not finite, the length is not finite either.
    """
    if is_deepspeed(accelerator):  # it has clipped and moved already, and freed the gradients
        return torch.as_tensor(accelerator.clip_grad_norm_((), 0.0))
    if config.clip_encoder is not None:
        _clip(accelerator, [p for p in model.encoder.parameters() if p.grad is not None], config.clip_encoder)
    parameters = [p for p in model.parameters() if p.grad is not None]
    if config.clip_norm is not None:
        return _clip(accelerator, parameters, config.clip_norm)
    return total_norm([p.grad for p in parameters if p.grad is not None])


def _clip(accelerator: Accelerator, parameters: Sequence[Tensor], longest: float) -> Tensor:
    """Makes the gradient of these parameters at most `longest`; returns its length before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if len({mesh_of(gradient) for gradient in gradients}) < 2:
        # The accelerator clips, for it must divide by the loss scale first, and under FSDP add up the shards.
        return accelerator.clip_grad_norm_(parameters, longest)
    accelerator.unscale_gradients()
    norm = total_norm(gradients)
    factor = (longest / (norm + 1e-6)).clamp(max=1.0)  # as torch does it
    for gradient in gradients:
        here(gradient).mul_(factor)
    return norm


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the length of all gradients together, also of shards: the same number on all processes.

    >>> float(total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]))
    5.0
    """
    # Torch takes the length of shards on one mesh only. With tensor parallelism, some are split over two dimensions.
    norms = []
    for mesh in dict.fromkeys(mesh_of(gradient) for gradient in gradients):
        own = [gradient for gradient in gradients if mesh_of(gradient) == mesh]
        # Left to itself (None), torch takes one operation per gradient on a CPU, and one for all on a GPU.
        plain = all(type(gradient) is Tensor and gradient.device.type == "cpu" for gradient in own)
        norm = nn.utils.get_total_norm(own, foreach=plain or None)
        norms.append(whole(norm))
    return torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]


def in_steps(config: TrainerConfig, steps_per_epoch: int) -> TrainerConfig:
    """Returns the same schedule with the lengths of its intervals in steps."""
    if config.step_size_epochs is None:
        return config
    return replace(config, step_size=config.step_size_epochs * steps_per_epoch)


def rate_factor(config: TrainerConfig, step: int, total: int) -> float:
    """Returns the factor of the learning rates at optimizer step `step` of `total`, for any number of processes.

    It grows linearly over `warmup_steps`. After that, let p be the share of the remaining steps that is done:
    `constant` 1; `cosine` (1 + cos(pi p)) / 2; `poly` (1 - p)^power; `step` gamma^floor(step / step_size).

    >>> config = TrainerConfig(max_steps=100, schedule="cosine", warmup_steps=10)
    >>> [round(rate_factor(config, step, 100), 3) for step in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps  # step + 1, or the first step would move nothing
    progress = (step - config.warmup_steps) / max(total - config.warmup_steps, 1)
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if config.schedule == "poly":
        return (1 - progress) ** config.power
    if config.schedule == "step":
        assert config.step_size is not None
        return config.gamma ** (step // config.step_size)
    return 1.0


def set_rates(optimizer: Optimizer, config: TrainerConfig, step: int, total: int) -> None:
    """Sets the learning rates of optimizer step `step` of `total`."""
    factor = rate_factor(config, step, total)
    for group in optimizer.param_groups:  # by hand: Accelerate's scheduler moves once per process
        group["lr"] = group["initial_lr"] * factor


def rates(optimizer: Optimizer, balancer: Balancer, own: float) -> dict[str, float]:
    """Returns the learning rates of a step for the log; `own` is that of the balancer's parameters, if it has one."""
    found = {f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}
    return found | ({"lr/balancer": own} if "lr" in options_of(type(balancer)) else {})


def balancer_rate(balancer: Balancer, config: TrainerConfig, step: int, total: int) -> float:
    """Returns the learning rate of the balancer's own parameters at optimizer step `step` of `total`."""
    factor = rate_factor(config, step, total) if config.balancer_schedule == "follow" else 1.0
    return balancer.lr * balancer.lr_decay**step * factor


def total_steps(config: TrainerConfig, steps_per_epoch: int) -> int:
    """Returns the step at which training ends: `max_steps` or the end of `max_epochs`, whichever comes first."""
    ends = (config.max_steps, None if config.max_epochs is None else config.max_epochs * steps_per_epoch)
    return min(end for end in ends if end is not None)
