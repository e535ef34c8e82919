"""Saving a run and going on with it exactly."""

import pickle
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model

from mtlkit.balancer import Balancer
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel

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
        step = {"step": str(engine.step)}
        balancer = {name: value.contiguous() for name, value in engine.balancer.state_dict().items()}
        _with_usual_mode(temporary / WEIGHTS, lambda path: save_model(engine.network, str(path), metadata=step))
        _with_usual_mode(temporary / BALANCER, lambda path: save_file(balancer, path))
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
    """The folder of a run's checkpoint `last` or `best`; raises `FileNotFoundError` where there is none.

    The weights are enough, to predict and to evaluate; only to go on (`resumable`) takes more.
    """
    folder = _present(run, name, WEIGHTS)
    if folder is None:
        raise FileNotFoundError(f"{run} has no checkpoint {name!r}; it has {', '.join(steps(run)) or 'none'}.")
    return folder


def of_results(run: Path, config: TrainerConfig) -> tuple[Path, str]:
    """The checkpoint that goes with the results, and a sentence where it is not the one that was asked for.

    That is `best` where the best evaluation is what selects, and else `last`. Where there is no `best`, `last` stands
    for it. Raises `FileNotFoundError` where there is neither.
    """
    wanted = "best" if config.selection == "best" else "last"
    if wanted == "last" or _present(run, "best", WEIGHTS) or not _present(run, "last", WEIGHTS):
        return find(run, wanted), ""
    return find(run, "last"), (
        f"{run} has no checkpoint 'best', because no evaluation was the best or because it was removed: 'last' stands "
        "for the results."
    )


def resumable(run: Path) -> Path | None:
    """The checkpoint that a run can go on from."""
    return _present(run, "last", TRAINING)


def steps(run: Path) -> dict[str, int | None]:
    """The checkpoints of a run that have weights, and their steps; None for a file that cannot be read."""
    folders = {name: _present(run, name, WEIGHTS) for name in ("best", "last")}
    return {name: _step_of(folder) for name, folder in folders.items() if folder is not None}


def load(engine: Engine, folder: Path) -> None:
    """Brings a new engine into the saved one's state; training then goes on as if it had never stopped."""
    load_weights(engine.network, engine.balancer, folder)
    try:
        state = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
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


def _present(run: Path, name: str, file: str) -> Path | None:
    """The checkpoint's folder, or the one that `save` left when it was killed between its two renamings.

    `file` is what it must hold to be of use.
    """
    folders = (run / "checkpoints" / name, run / "checkpoints" / f"{name}.old")
    return next((folder for folder in folders if (folder / file).exists()), None)


def _step_of(folder: Path) -> int | None:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def _with_usual_mode(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` make the file and gives it the mode of every new file; safetensors lets only the owner read it."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write(path)
    path.chmod(mode)


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
