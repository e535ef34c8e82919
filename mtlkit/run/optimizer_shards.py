"""The optimizer's state of a model that is split over processes: each process writes and reads its own shards.

The files are safetensors, which hold no code (torch's usual format for this, `.distcp`, is a pickle). They belong to a
checkpoint and may be read by another number of processes than wrote them.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from mtlkit.engine.optimizer_state import NAMES

SHARDS = "optimizer"  #: the folder in a checkpoint
FORMS = "forms"  # what stands in `training.pt` in the place of the tensors: their shapes and types

State = dict[str, Any]


def taken_apart(state: Mapping[str, Any]) -> tuple[State, dict[str, Tensor]]:
    """Splits an optimizer's named state into what every process has, and the tensors, by parameter and entry."""
    number = {i: name for i, name in _numbered(state)}
    rest: State = {**state, "state": {}, FORMS: {}}
    tensors: dict[str, Tensor] = {}
    for i, entries in state["state"].items():
        rest["state"][i] = {key: value for key, value in entries.items() if not isinstance(value, Tensor)}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{number[i]}.{key}"] = value.detach()
                rest[FORMS][f"{number[i]}.{key}"] = (i, key, list(value.shape), str(value.dtype).removeprefix("torch."))
    return rest, tensors


def save(tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes the shards of all processes. All must call it. Raises `OSError` on all if one of them cannot write."""
    try:
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise OSError(f"{folder}: {_reason(error)}") from error


def put_together(rest: Mapping[str, Any], module: nn.Module, folder: Path) -> State:
    """Returns the whole named state, with the shards that this process needs. All processes must call it.

    Raises `ValueError` if the shards do not fit the parameters or cannot be read.
    """
    parameters = dict(module.named_parameters())
    state: State = {key: value for key, value in rest.items() if key != FORMS}
    state["state"] = {i: dict(entries) for i, entries in rest["state"].items()}
    tensors: dict[str, Tensor] = {}
    names = {i: name for i, name in _numbered(rest)}
    for full, (i, key, shape, dtype) in rest[FORMS].items():
        parameter = parameters.get(names[i])
        if parameter is None:
            raise ValueError(f"the optimizer's state is of a parameter {names[i]!r} that this model does not have")
        kind = getattr(torch, dtype)
        if list(parameter.shape) == shape and shape:
            tensors[full] = torch.zeros_like(parameter, dtype=kind)
        else:
            tensors[full] = torch.zeros(shape, dtype=kind)
        state["state"][i][key] = tensors[full]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "torch.distributed is disabled"
            )  # one process may read the shards of many
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read: {_reason(error)}") from error
    return state


def split_like(state: Mapping[str, Any], module: nn.Module) -> State:
    """Returns a whole named state split as the parameters of the module are."""
    parameters = dict(module.named_parameters())
    found: State = {**state, "state": {}}
    names = {i: name for i, name in _numbered(state)}
    for i, entries in state["state"].items():
        like = parameters.get(names[i])
        found["state"][i] = {key: _split(value, like) for key, value in entries.items()}
    return found


def _split(value: Any, like: Tensor | None) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape or not value.dim():
        return value
    whole = value.to(like.device)
    return torch.distributed.tensor.distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _numbered(state: Mapping[str, Any]) -> list[tuple[int, str]]:
    groups = zip(state["param_groups"], state[NAMES], strict=True)
    return [(i, name) for group, names in groups for i, name in zip(group["params"], names, strict=True)]


def _reason(error: CheckpointException) -> str:
    return "; ".join(f"process {rank}: {failure[0]}" for rank, failure in sorted(error.failures.items()))
