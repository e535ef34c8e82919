"""Builds timm models and loads their weights. Error messages say what is wrong.

timm takes seconds to import. So a function that needs it imports it, and a list of encoders does not need it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

# The errors of timm and torch for an option, an image size or a weight file that does not fit an architecture.
_REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError, LookupError, AttributeError)


def refused_as(message: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Returns the result of the call. An error of timm or torch becomes a `ValueError` that starts with `message`."""
    try:
        return call(*args, **options)
    except _REFUSALS as error:
        raise ValueError(f"{message}: {type(error).__name__}: {str(error).strip()[:500]}") from error


def load_pretrained(architecture: str, pretrained: bool | str | Path, options: dict[str, Any]) -> Any:
    """Builds the timm model, loads its weights and checks them."""
    import timm

    if isinstance(pretrained, bool):
        if not pretrained:
            wanted = ", ".join(f"{name}={value}" for name, value in options.items())
            return refused_as(
                f"timm cannot build {architecture!r} with {wanted}", timm.create_model, architecture, **options
            )
        try:
            return timm.create_model(architecture, pretrained=True, **options)
        except (*_REFUSALS, OSError) as error:
            raise ValueError(
                f"timm's weights of {architecture!r} cannot be had ({type(error).__name__}: {error}). On a machine "
                "without internet set pretrained to a weight file, or to false for random weights."
            ) from error
    path = Path(pretrained).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no weight file {path} (pretrained takes true, false or a file's name).")
    try:
        with _loaded_keys() as loads:
            overlay = {"file": str(path)}
            net = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (*_REFUSALS, OSError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be loaded into {architecture!r}: expected a whole .safetensors or .pth file with the "
            f"weights of this architecture under timm's names, got {type(error).__name__}: {str(error).strip()[:500]}"
        ) from error
    assert loads, "timm loaded the file without load_state_dict"
    _check_keys(architecture, path, net, *loads[-1])
    return net


@contextmanager
def _loaded_keys() -> Iterator[list[tuple[nn.Module, Any]]]:
    """Records the missing and unexpected keys of `load_state_dict`. timm only logs them, at a level nobody sees."""
    loads: list[tuple[nn.Module, Any]] = []
    original = nn.Module.load_state_dict

    def recording(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        keys = original(module, *args, **kwargs)
        loads.append((module, keys))
        return keys

    nn.Module.load_state_dict = recording  # type: ignore[method-assign, assignment]
    try:
        yield loads
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _check_keys(architecture: str, path: Path, net: nn.Module, model: nn.Module, keys: Any) -> None:
    """Raises `ValueError` if the file lacks a tensor of the encoder or has a tensor unknown to the architecture."""
    import timm

    kept = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    state = model.state_dict(keep_vars=True)
    missing = [name for name in keys.missing_keys if name in state and id(state[name]) in kept]
    unknown = list(keys.unexpected_keys)
    if unknown:
        with torch.device("meta"):
            whole = timm.create_model(architecture).state_dict()
        unknown = [name for name in unknown if name not in whole]
    for names, fault in ((missing, "lacks"), (unknown, "has, unlike the architecture,")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{path} does not hold the weights of {architecture!r}: it {fault} {', '.join(names[:3])}{more}."
            )
