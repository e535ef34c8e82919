"""Saves a run, and restores it so that training continues exactly."""

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


def save_checkpoint(engine: Engine, folder: Path) -> None:
    """Writes the folder: `model.safetensors`, `balancer.safetensors` and `training.pt` (optimizers, counters).

    All processes must call it. It writes the folder under a temporary name and then replaces the old folder. If the
    process is killed, a complete checkpoint therefore remains. Raises `OSError` if the folder cannot be written.
    """
    if not engine.accelerator.is_main_process:  # all processes have the same state, so one writes it
        return
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        # Weights in safetensors, which holds no code and other programs can read; the step in its header, so that a
        # resume need not load a whole file to see it.
        step = {"step": str(engine.step)}
        balancer = {name: value.contiguous() for name, value in engine.balancer.state_dict().items()}
        model = engine.averaged.model  # it is what was evaluated; weights that only training needs are in TRAINING
        _with_usual_mode(temporary / WEIGHTS, lambda path: save_model(model, str(path), metadata=step))
        _with_usual_mode(temporary / BALANCER, lambda path: save_file(balancer, path))
        torch.save(_state_of(engine), temporary / TRAINING)
        # A folder cannot be renamed onto another one. So the old one steps aside first, and `_present` looks for it
        # there if the process dies between the two renamings.
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)  # only after the new one is in its place
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors do not raise OSError
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"Could not write the checkpoint {folder}: {error}. An older one is intact.") from error


def find_checkpoint(run: Path, name: str) -> Path:
    """Returns the folder of a run's checkpoint `last` or `best`. Raises `FileNotFoundError` if there is none.

    The weights are enough to predict and to evaluate. Only continuing the training needs more (`resumable`).
    """
    folder = _present(run, name, WEIGHTS)
    if folder is None:
        raise FileNotFoundError(f"{run} has no checkpoint {name!r}; it has {', '.join(steps(run)) or 'none'}.")
    return folder


def of_results(run: Path, config: TrainerConfig) -> tuple[Path, str]:
    """Returns the checkpoint that belongs to the results, and a remark if it is not the requested one.

    It is `best` if `trainer.selection` is `best`, and otherwise `last`. If there is no `best`, it is `last`, and the
    remark says so. Otherwise the remark is empty. Raises `FileNotFoundError` if there is neither.
    """
    wanted = "best" if config.selection == "best" else "last"
    if wanted == "last" or _present(run, "best", WEIGHTS) or not _present(run, "last", WEIGHTS):
        return find_checkpoint(run, wanted), ""
    return find_checkpoint(run, "last"), (
        f"{run} has no checkpoint 'best', because no evaluation was the best or because it was removed: 'last' stands "
        "for the results."
    )


def resumable(run: Path) -> Path | None:
    """Returns the checkpoint from which a run can continue, or None."""
    return _present(run, "last", TRAINING)


def steps(run: Path) -> dict[str, int | None]:
    """Returns the checkpoints of a run that have weights, with their steps. The step of an unreadable file is None."""
    folders = {name: _present(run, name, WEIGHTS) for name in ("best", "last")}
    return {name: step_of(folder) for name, folder in folders.items() if folder is not None}


def load_checkpoint(engine: Engine, folder: Path) -> None:
    """Restores the saved state in a new engine. Training then continues as if it had never stopped."""
    load_weights(engine.averaged.model, engine.balancer, folder)  # first: its message tells a wrong config.yaml
    try:
        state = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # never `weights_only=False`, as torch advises: the file could run code
        raise ValueError(f"{folder / TRAINING} is damaged, or holds what mtlkit did not write.") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{folder / TRAINING} is damaged: {error}") from error
    _restore(engine, state)


def load_weights(model: MultiTaskModel, balancer: Balancer | None, folder: Path) -> None:
    """Loads the model and, if there is one, the balancer.

    Raises `ValueError` if a file is damaged or missing, or belongs to another model.
    """
    try:
        load_model(model, str(folder / WEIGHTS))
        if balancer is not None:
            balancer.load_state_dict(load_file(folder / BALANCER))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"The checkpoint {folder} does not fit the run's config.yaml or is damaged: {error}"
        ) from error


def _present(run: Path, name: str, file: str) -> Path | None:
    """Returns the checkpoint's folder. The folder must contain `file`. Otherwise the result is None.

    If `save_checkpoint` was killed between its two renamings, this is the old folder that it left.
    """
    folders = (run / "checkpoints" / name, run / "checkpoints" / f"{name}.old")
    return next((folder for folder in folders if (folder / file).exists()), None)


def step_of(folder: Path) -> int | None:
    """Returns the step of a checkpoint. None if its file does not say it or cannot be read."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def _with_usual_mode(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` and sets the usual file mode, because safetensors makes files that only the owner can read."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write(path)
    path.chmod(mode)


def _state_of(engine: Engine) -> dict[str, Any]:
    # No random state: all random numbers are functions of the seed and the step (`mtlkit.seeding`), so a run may also
    # resume on another number of workers.
    scaler, own = engine.accelerator.scaler, engine.balancer_optimizer
    averaged = engine.averaged.model is not engine.network
    return {
        "weights": engine.network.state_dict() if averaged else None,  # else they are those of WEIGHTS
        "optimizer": engine.optimizer.state_dict(),
        "balancer_optimizer": None if own is None else own.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "first_losses": engine.first_losses.sums,
        "step": engine.step,
        "evaluation_due": engine.evaluation_due,
        "monitor": {name: getattr(engine.monitor, name) for name in MONITOR},
    }


def _restore(engine: Engine, state: dict[str, Any]) -> None:
    if state.get("weights") is not None:
        engine.network.load_state_dict(state["weights"])
    engine.optimizer.load_state_dict(state["optimizer"])
    if engine.balancer_optimizer is not None:
        engine.balancer_optimizer.load_state_dict(state["balancer_optimizer"])
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(state["scaler"])
    engine.first_losses.sums = state["first_losses"]  # or the losses would be divided by those of a trained model
    engine.step = state["step"]
    engine.evaluation_due = state.get("evaluation_due", False)  # earlier releases saved only where none was due
    for name in MONITOR:
        setattr(engine.monitor, name, state["monitor"][name])
