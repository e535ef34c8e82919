"""Saving a run and going on with it exactly."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from mtlkit.balancer import Balancer
from mtlkit.engine import Engine
from mtlkit.model import MultiTaskModel
from mtlkit.schema import TrainerConfig

WEIGHTS, BALANCER, TRAINING = "model.safetensors", "balancer.safetensors", "training.pt"
MONITOR = ("best", "without_gain", "initial")


def save(engine: Engine, folder: Path) -> None:
    """Writes the folder: `model.safetensors`, `balancer.safetensors` and `training.pt` (optimizers, counters).

    To be called on all processes. The folder is written under a temporary name and then takes the old one's
    place, so that a killed process leaves a whole checkpoint. Raises `OSError` when it cannot be written.
    """
    if not engine.accelerator.is_main_process:
        return
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_model(engine.network, str(temporary / WEIGHTS), metadata={"step": str(engine.step)})
        save_file({k: v.contiguous() for k, v in engine.balancer.state_dict().items()}, temporary / BALANCER)
        torch.save(_state_of(engine), temporary / TRAINING)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors do not raise OSError
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"Could not write the checkpoint {folder}: {error}. An older one is intact.") from error


def find(run: Path, name: str) -> Path:
    """The folder of a run's checkpoint `last` or `best`; raises `FileNotFoundError` where there is none."""
    folder = _present(run, name)
    if folder is None:
        present = sorted(path.name for path in (run / "checkpoints").glob("*") if path.suffix == "")
        raise FileNotFoundError(f"{run} has no checkpoint {name!r}; it has {', '.join(present) or 'none'}.")
    return folder


def selected(config: TrainerConfig) -> str:
    """The checkpoint that goes with the results: of the best evaluation where that is what selects, or the last."""
    return "best" if config.selection == "best" else "last"


def exists(run: Path) -> bool:
    """Whether the run has a checkpoint to go on from."""
    return _present(run, "last") is not None


def load(engine: Engine, folder: Path) -> None:
    """Brings a new engine into the saved one's state; training then goes on as if it had never stopped."""
    load_weights(engine.network, engine.balancer, folder)
    try:
        state = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{folder / TRAINING} is damaged: {error}") from error
    _restore(engine, state)


def load_weights(model: MultiTaskModel, balancer: Balancer, folder: Path) -> None:
    """Loads model and balancer. Raises `ValueError` for files that are damaged or of another model."""
    try:
        load_model(model, str(folder / WEIGHTS))
        balancer.load_state_dict(load_file(folder / BALANCER))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"The checkpoint {folder} does not fit the run's config.yaml or is damaged: {error}"
        ) from error


def _present(run: Path, name: str) -> Path | None:
    """The checkpoint's folder, or the one that `save` left when it was killed between its two renamings."""
    folders = (run / "checkpoints" / name, run / "checkpoints" / f"{name}.old")
    return next((folder for folder in folders if (folder / TRAINING).exists()), None)


def _state_of(engine: Engine) -> dict[str, Any]:
    scaler, own = engine.accelerator.scaler, engine.balancer_optimizer
    return {
        "optimizer": engine.optimizer.state_dict(),
        "balancer_optimizer": None if own is None else own.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "first_losses": engine.first_losses.sums,
        "step": engine.step,
        "monitor": {name: getattr(engine.monitor, name) for name in MONITOR},
    }


def _restore(engine: Engine, state: dict[str, Any]) -> None:
    engine.optimizer.load_state_dict(state["optimizer"])
    if engine.balancer_optimizer is not None:
        engine.balancer_optimizer.load_state_dict(state["balancer_optimizer"])
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(state["scaler"])
    engine.first_losses.sums = state["first_losses"]
    engine.step = state["step"]
    for name in MONITOR:
        setattr(engine.monitor, name, state["monitor"][name])
