"""A frozen encoder, whole or its first stages: `model.freeze`."""

from collections.abc import Iterator

from timm.models import group_parameters
from torch import nn

from mtlkit.balancer import Balancer, has_adapters
from mtlkit.engine.decoder_gradients import DecoderGradients
from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.shared import shared_parameters


def freeze(model: MultiTaskModel, stages: bool | int) -> None:
    """Freezes the encoder: whole if `stages` is true, or its stem and so many first stages.

    Frozen parameters need no gradient. Frozen modules stay in eval mode, so batch-norm statistics stand still and
    nothing is dropped there.

    Raises:
        ValueError: the encoder does not have so many stages, or does not say which of its parameters are in which.
    """
    encoder = model.encoder
    if stages is True:
        encoder.requires_grad_(False)
    elif stages is not False:
        number = group_parameters(encoder, encoder.group_matcher(coarse=True), reverse=True)
        most = max(number.values())
        if stages > most:
            has, number_text = ("1 stage", "1") if most == 1 else (f"{most} stages", f"a number from 1 to {most}")
            raise ValueError(
                f"model.freeze={stages}: this encoder has {has} behind its stem. Take {number_text}, or true for the "
                "whole encoder."
            )
        for name, parameter in encoder.named_parameters():
            if number[name] <= stages:
                parameter.requires_grad_(False)
    if stages is not False:
        keep_still(model)


def keep_still(model: MultiTaskModel) -> None:
    """Keeps every module of the encoder in eval mode that has parameters, none of which is trainable."""
    model.frozen = tuple(_frozen(model.encoder))
    model.train(model.training)  # applies it now, as nobody has to call `train` before the first step


def _frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the module, or those inside it, whose parameters are all frozen."""
    trainable = [parameter.requires_grad for parameter in module.parameters()]
    if trainable and not any(trainable):
        yield module
    else:
        for part in module.children():
            yield from _frozen(part)


def check_space(model: MultiTaskModel, balancer: Balancer, method: str) -> None:
    """Raises `ValueError` if the method compares gradients of parameters that are all frozen."""
    frozen = False
    if balancer.space == "parameters":
        frozen = not shared_parameters(model.encoder)  # those that are trainable
    elif balancer.space == "last_layer":
        frozen = not model.encoder.last_layer.get_parameter("weight").requires_grad
    if frozen:
        raise frozen_space(balancer, method)


def frozen_space(balancer: Balancer, method: str) -> ValueError:
    """Returns the error for a method that compares gradients of frozen parameters."""
    way = "balancer.space=features, or " if "features" in balancer.spaces else ""
    return ValueError(
        f"model.freeze: the balancer {method!r} (space {balancer.space!r}) compares gradients of parameters of the "
        f"encoder, but these are frozen. Take {way}another balancer, or freeze fewer stages."
    )


def frozen_in_words(model: MultiTaskModel, balancer: Balancer, method: str, decoders: DecoderGradients) -> list[str]:
    """Returns sentences about the frozen part, and what the balancer can still do. Nothing is frozen: no sentence."""
    if not model.frozen:
        return []
    own = list(model.encoder.parameters())
    frozen = sum(p.numel() for p in own if not p.requires_grad)
    lines = [f"Frozen: {frozen:,} of the encoder's {sum(p.numel() for p in own):,} parameters; they stay in eval mode."]
    if not any(p.requires_grad for p in own):
        lines.append(f"The encoder gets no gradient, so {method} {_left_to_do(balancer, decoders)}.")
    return lines


def _left_to_do(balancer: Balancer, decoders: DecoderGradients) -> str:
    acts = []
    if has_adapters(balancer):
        acts.append("adapts the features of each task")
    if decoders.given == "weighted":
        acts.append("weighs the gradients of the decoders")
    elif decoders.by_objective:
        acts.append("reaches the decoders by its objective")
    if acts:
        return f"only {' and '.join(acts)}"
    return "has no effect: each decoder learns from its own loss alone, as with any balancer"
