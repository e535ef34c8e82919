"""Activation checkpointing: `model.checkpointing`. Activations are computed a second time instead of kept."""

from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.engine.model import MultiTaskModel

KEPT = "_kept_by_mtlkit"  #: the attribute in which a module keeps its own buffers during a second computation


def checkpoint_activations(model: MultiTaskModel) -> None:
    """Lets the encoder drop its activations. The backward pass computes them again, with the same numbers.

    Dropout draws the same numbers again, as torch restores its generators. Statistics of a BatchNorm do not move a
    second time. A space that goes through the encoder K times computes the activations K times.

    Raises:
        ValueError: the encoder cannot do so.
    """
    model.encoder.set_checkpointing()
    for module in model.encoder.modules():
        if module._buffers:
            module.register_forward_pre_hook(_set_aside)
            module.register_forward_hook(_put_back, always_call=True)  # torch leaves a second computation by an error


def _set_aside(module: nn.Module, given: Any) -> None:
    # Copies, and not the old values written back at the end: autograd saved the buffers, and would refuse ones that
    # were written to. Compiled code does not come here: its compiler knows which writes belong to the first one.
    if not torch.compiler.is_compiling() and _computes_again():
        setattr(module, KEPT, dict(module._buffers))
        module._buffers.update({name: _copy(buffer) for name, buffer in module._buffers.items()})


def _put_back(module: nn.Module, given: Any, output: Any) -> None:
    if (kept := module.__dict__.pop(KEPT, None)) is not None:
        module._buffers.update(kept)


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()


def _computes_again() -> bool:
    """Returns whether a backward pass is running. A module is called within one only to compute activations again."""
    return bool(torch._C._current_graph_task_id() != -1)  # torch.utils.checkpoint asks the same
