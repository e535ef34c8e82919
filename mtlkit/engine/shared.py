"""What the tasks share: the parameters up to the features, and behind these those of the encoder's late module."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.func import functional_call

from mtlkit.balancer import Balancer
from mtlkit.contract import described
from mtlkit.network import Decoder, Encoder

if TYPE_CHECKING:  # importing it takes seconds
    from accelerate import Accelerator


class Shared(Protocol):
    """What a step needs to know of an encoder. An `Encoder` is one."""

    @property
    def late(self) -> nn.Module | None: ...

    @property
    def last_layer(self) -> nn.Module: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def shared_parameters(encoder: Shared) -> list[Tensor]:
    """What the tasks share up to the features, in the order of `Step.jacobian`'s columns; no late parameters."""
    late = {id(parameter) for parameter in late_parameters(encoder).values()}
    return [p for p in encoder.parameters() if p.requires_grad and id(p) not in late]


def late_parameters(encoder: Shared) -> dict[str, Tensor]:
    """The trainable parameters of the encoder's late module by name; nothing where there is no such module."""
    if encoder.late is None:
        return {}
    return {name: parameter for name, parameter in encoder.late.named_parameters() if parameter.requires_grad}


def check_late(encoder: Encoder, decoders: Mapping[str, Decoder]) -> None:
    """Raises `ValueError` where an encoder's late module and the decoders do not fit together."""
    late, name = encoder.late, type(encoder).__name__
    if late is not None and not isinstance(late, nn.Module):
        raise ValueError(f"{name}.late must be a module or None, got {described(late)}.")
    using = [task for task, decoder in decoders.items() if decoder.late]
    if using and late is None:
        raise ValueError(
            f"The decoder {type(decoders[using[0]]).__name__} of task {using[0]!r} is called with the late module of "
            f"the encoder, but {name} has none. Take an encoder that sets `self.late`, or another decoder."
        )
    if late is not None and not using:
        raise ValueError(
            f"{name} shares a late module behind its features, but none of the decoders "
            f"{', '.join(sorted({type(decoder).__name__ for decoder in decoders.values()}))} is called with it, so "
            "that it would learn nothing. Take a decoder that declares `late = True`, or another encoder."
        )


class _Pair(nn.Module):
    """A decoder and the late module that it is called with: `functional_call` takes one module."""

    def __init__(self, decoder: nn.Module, late: nn.Module) -> None:
        super().__init__()
        self.decoder, self.late = decoder, late

    def forward(self, *given: Any) -> Tensor:
        return self.decoder(*given, self.late)


def call_with_late(decoder: nn.Module, given: Sequence[Any], late: nn.Module, own: Mapping[str, Tensor]) -> Tensor:
    """The output of a decoder that is called with the late module.

    While it runs, the module has the parameters `own` in place of its own ones. Buffers are always the module's: every
    call moves the statistics of its batch norms, one task after the other.
    """
    named = {f"late.{name}": tensor for name, tensor in own.items()}
    output: Tensor = functional_call(_Pair(decoder, late), named, tuple(given)) if own else decoder(*given, late)
    return output


def set_up_late(encoder: Encoder, balancer: Balancer, accelerator: "Accelerator") -> None:
    """Makes a prepared encoder's late module usable by the decoders.

    FSDP2 frees an encoder's whole parameters at the end of its forward pass. The decoders need those of the late
    module afterwards, so the units that hold them keep them until the backward pass is over.

    Raises:
        ValueError: the balancer or the launcher cannot work with late parameters; the message says why.
    """
    late = encoder.late
    if late is None:
        return
    who = f"{type(balancer).__name__} with the late parameters of {type(encoder).__name__}"
    if balancer.space == "last_layer":
        weight = encoder.last_layer.get_parameter("weight")
        if any(weight is parameter for parameter in late.parameters()):
            raise ValueError(
                f"{who}: balancer.space=last_layer needs a layer before the features, but the encoder's last layer "
                f"is a part of its late module. Take another space ({', '.join(balancer.spaces)}) or another encoder."
            )
    kind = accelerator.distributed_type.value
    if kind == "DEEPSPEED" or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise ValueError(
            f"{who}: the decoders need these parameters whole, behind the encoder, and {kind} (version 1 of FSDP) "
            f"may have freed them by then. Launch with DDP (--multi_gpu) or with fsdp_version: 2."
        )
    for name, part in late.named_modules():
        if isinstance(part, FSDPModule):
            raise ValueError(
                f"{who}: FSDP wraps {name or 'the late module'} as a unit of its own, so that its parameters are not "
                f"whole where each decoder gets its alias. Wrap the encoder or the model as a unit, and no part of "
                f"{type(encoder).__name__}.late."
            )
    for part in encoder.modules():
        if isinstance(part, FSDPModule) and any(inner is late for inner in part.modules()):
            part.set_reshard_after_forward(False, recurse=False)
