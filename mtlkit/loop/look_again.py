"""A second look at the same batch, in the circumstances of the first."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@dataclass(frozen=True)
class Look:
    """The autocast that a forward pass ran under."""

    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> "Look":
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))


@contextmanager
def as_before(look: Look) -> Iterator[None]:
    """Runs the block without gradients, under the autocast of `look`.

    At its end, the buffers of every module that ran in it are as they were: a second look must not move batch-norm
    statistics a second time. Nobody tells us the loop's modules, so each is noticed when it is called. Compiled modules
    run uncompiled here.
    """
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, _: Any) -> None:
        for buffer in module.buffers():
            if id(buffer) not in kept:
                kept[id(buffer)] = (buffer, buffer.clone())

    handle = register_module_forward_pre_hook(keep)
    try:
        with torch.no_grad(), torch.autocast(look.device, dtype=look.dtype, enabled=look.enabled), _uncompiled():
            yield
    finally:
        handle.remove()
        with torch.no_grad():
            for buffer, value in kept.values():
                buffer.copy_(value)


@contextmanager
def _uncompiled() -> Iterator[None]:
    # torch.compile would make the hook a part of the code, and as it is a new one each time, compile anew in each step.
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # It says that the hook is called twice for a compiled module. Here this changes nothing.
        warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are global hooks")
        yield
