"""What a checkpoint holds, taken at one step. A copy of it can be written while training goes on."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from mtlkit.engine.engine import Engine
from mtlkit.run import training_state
from mtlkit.run.checkpoint_folder import remove, with_usual_mode

WEIGHTS, BALANCER, TRAINING = "model.safetensors", "balancer.safetensors", "training.pt"


@dataclass(frozen=True)
class Snapshot:
    """The state of an engine after `step` steps: weights as they are evaluated, balancer, and what training needs."""

    step: int
    weights: dict[str, Tensor]
    balancer: dict[str, Tensor]
    training: dict[str, Any]

    def copy(self) -> "Snapshot":
        """Returns a copy in the CPU's memory, which training does not change."""
        storages: dict[int, torch.UntypedStorage] = {}
        parts = (self.weights, self.balancer, self.training)
        return Snapshot(self.step, *(_copied(part, storages) for part in parts))

    def write(self, folder: Path) -> None:
        """Writes the files into a new folder, which takes the place of an old one."""
        remove(folder)
        folder.mkdir(parents=True)
        # Weights in safetensors, which holds no code and other programs can read; the step in its header, so that a
        # resume need not load a whole file to see it.
        step = {"step": str(self.step)}
        weights = cast(nn.Module, _Weights(self.weights))
        with_usual_mode(folder / WEIGHTS, lambda path: save_model(weights, str(path), metadata=step))
        with_usual_mode(folder / BALANCER, lambda path: save_file(self.balancer, path))
        torch.save(self.training, folder / TRAINING)


@dataclass
class _Weights:
    """Weights as `save_model` takes them, which leaves out a second name of the same tensor."""

    weights: Mapping[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.weights)


def snapshot_of(engine: Engine) -> Snapshot:
    """Returns the state of an engine, without copying it: it is to be written, or copied, before the next step.

    Raises:
        NonFiniteError: the last gradient was not finite. A run that stops for this reason saves nothing after it.
    """
    engine.gradient_check.settle()
    return Snapshot(
        engine.step,
        # The averaged weights, if there are any: they are what was evaluated. `training` has the others.
        engine.averaged.model.state_dict(),
        {name: value.contiguous() for name, value in engine.balancer.state_dict().items()},
        training_state.state_of(engine),
    )


def _copied(value: Any, storages: dict[int, torch.UntypedStorage]) -> Any:
    """Returns a copy of nested dictionaries and lists. Tensors that share memory share it in the copy, too."""
    if isinstance(value, Tensor):
        return _tensor(value, storages)
    if isinstance(value, dict):
        found = copy.copy(value)  # of the same class, and with its attributes
        for key, part in value.items():
            found[key] = _copied(part, storages)
        return found
    if type(value) in (list, tuple):
        return type(value)(_copied(part, storages) for part in value)
    return copy.deepcopy(value)


def _tensor(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    # By memory, and not tensor by tensor: weights that are tied stay tied, and every tensor keeps its layout. So the
    # files are those that the tensors themselves would give.
    storage = tensor.untyped_storage()
    place = storage.data_ptr()
    if place not in storages:
        storages[place] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
    empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
    return empty.set_(storages[place], tensor.storage_offset(), tensor.size(), tensor.stride())
