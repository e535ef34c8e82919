"""Saves a run, and restores it so that training continues exactly."""

import dataclasses
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from warnings import warn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from mtlkit import distributed
from mtlkit.balancer import Balancer
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel
from mtlkit.engine.shards import is_split, split_again, whole
from mtlkit.run import checksums, optimizer_shards, training_state
from mtlkit.run.checkpoint_folder import replace
from mtlkit.run.snapshot import BALANCER, TRAINING, WEIGHTS, Snapshot, snapshot_of
from mtlkit.run_folder import CHECKPOINTS, CONFIG

LAST, PREVIOUS, BEST = CHECKPOINTS
#: The folders of a checkpoint. Another than the first is there if the process died while it replaced the first.
PLACES = {LAST: (LAST, PREVIOUS, f"{LAST}.old"), PREVIOUS: (PREVIOUS,), BEST: (BEST, f"{BEST}.old")}
# How a user takes another checkpoint: to go on with the training, to use the model, or to start from its weights.
GO_ON = "mtlkit train '{run}/config.yaml' 'output_dir={run}' --resume-from {name}"
USE = "--checkpoint {name}"
FAILURES = (OSError, RuntimeError, SafetensorError)  #: of a write: torch and safetensors do not raise OSError
INIT = "'model.init_from={run}/checkpoints/{name}'"


def save_checkpoint(engine: Engine, folder: Path, *, keep: str = "") -> None:
    """Writes a checkpoint and waits until it is on the disk. `write_checkpoint` says what is written and how.

    All processes must call it, and wait for the main one, which writes the files. If the model is split over processes,
    each of them writes its part of the optimizer's state into the folder `optimizer`.

    Raises:
        OSError: the folder cannot be written. All processes raise it.
    """
    split_again(engine.network)
    if not is_split(engine.network):
        distributed.main_decides(lambda: write_checkpoint(snapshot_of(engine), folder, keep=keep))
        return
    temporary, snapshot = temporary_of(folder), snapshot_of(engine)
    rest, shards = optimizer_shards.taken_apart(snapshot.training["optimizer"])
    # Cloned: what was gathered is a part of longer memory, which safetensors refuses to save.
    weights = {name: whole(value).clone() for name, value in snapshot.weights.items()}
    snapshot = dataclasses.replace(snapshot, weights=weights, training={**snapshot.training, "optimizer": rest})
    try:
        distributed.main_decides(lambda: snapshot.write(temporary))
        if shards:
            optimizer_shards.save(shards, temporary / optimizer_shards.SHARDS)
        distributed.main_decides(lambda: _put(temporary, folder, keep))
    except FAILURES as error:
        distributed.main_decides(lambda: shutil.rmtree(temporary, ignore_errors=True))
        raise _unwritten(folder, error) from error


def write_checkpoint(snapshot: Snapshot, folder: Path, *, keep: str = "") -> None:
    """Writes the folder: `model.safetensors`, `balancer.safetensors`, `training.pt` (optimizers, counters) and sums.

    All files get their place under a temporary name, are waited for until they are on the disk, and then replace the
    old folder. If the process is killed or the machine is lost, a complete checkpoint therefore remains. The old folder
    stays under the name `keep`, if there is one. No process waits for another one, so a thread can do it.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = temporary_of(folder)
    try:
        snapshot.write(temporary)
        _put(temporary, folder, keep)
    except FAILURES as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _unwritten(folder, error) from error


def _put(temporary: Path, folder: Path, keep: str) -> None:
    checksums.seal(temporary)
    replace(folder, temporary, keep)


def temporary_of(folder: Path) -> Path:
    """Returns the name under which a checkpoint is written."""
    return folder.with_name(f"{folder.name}.tmp")


def _unwritten(folder: Path, error: Exception) -> OSError:
    return OSError(f"Could not write the checkpoint {folder}: {error}. An older one is intact.")


def find_checkpoint(run: Path, name: str) -> Path:
    """Returns the folder of a run's checkpoint `last`, `previous` or `best`. Raises `FileNotFoundError` if it has none.

    The weights are enough to predict and to evaluate. Only continuing the training needs more.
    """
    folder = _present(run, name, WEIGHTS)
    if folder is None:
        there = folder_of(run, name)
        why = "" if there is None else f" ({there} has no {WEIGHTS})"
        raise FileNotFoundError(f"{run} has no checkpoint {name!r}{why}; it has {', '.join(steps(run)) or 'none'}.")
    if folder.name == PREVIOUS != name:
        warn(missing_last(folder), stacklevel=2)
    return folder


def missing_last(folder: Path) -> str:
    """Says that another folder stands for `last`."""
    return f"{folder.with_name(LAST)} is missing: {folder.name!r} of step {step_of(folder)} stands for it."


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


def folder_of(run: Path, name: str) -> Path | None:
    """Returns the folder of a checkpoint, or None. What is in it has to be checked.

    If `save_checkpoint` was killed between its two renamings, this is the old folder that it left.
    """
    folders = (run / "checkpoints" / place for place in PLACES.get(name, (name,)))
    return next((folder for folder in folders if folder.is_dir()), None)


def steps(run: Path) -> dict[str, int | None]:
    """Returns the checkpoints of a run that have weights, with their steps. The step of an unreadable file is None."""
    folders = {name: _present(run, name, WEIGHTS) for name in (BEST, LAST, PREVIOUS)}
    if folders[PREVIOUS] == folders[LAST]:
        del folders[PREVIOUS]
    return {name: step_of(folder) for name, folder in folders.items() if folder is not None}


def check(folder: Path, names: Collection[str], advice: str) -> str:
    """Compares files of a checkpoint with their checksums. Every file is read after this, and none without it.

    Returns a remark if the checkpoint has no checksums, and otherwise nothing. Raises `ValueError` if a file is damaged
    or missing. The message offers the other checkpoints whose files are intact. `advice` says how to take one.
    """
    try:
        return checksums.check(folder, names)
    except ValueError as error:
        raise ValueError(f"{error} {_offer(folder, names, advice)}".rstrip()) from error


def check_training(folder: Path) -> None:
    """Compares all files of a checkpoint from which a run goes on, see `check`."""
    _check_whole(folder)


def _check_whole(folder: Path) -> str:
    return check(folder, (WEIGHTS, BALANCER, TRAINING, *checksums.listed(folder, optimizer_shards.SHARDS)), GO_ON)


def load_checkpoint(engine: Engine, folder: Path) -> None:
    """Restores the saved state in a new engine. Training then continues as if it had never stopped.

    Raises `ValueError` if a file is damaged or missing, or belongs to another run.
    """
    remark = _check_whole(folder)
    _load_weights(engine.averaged.model, engine.balancer, folder)  # first: its message tells a wrong config.yaml
    remark += " " + training_state.restore(engine, folder / TRAINING, step_of(folder))
    if remark.strip():
        warn(remark.strip(), stacklevel=2)


def load_weights(model: MultiTaskModel, balancer: Balancer | None, folder: Path) -> None:
    """Loads the model and, if there is one, the balancer.

    Raises `ValueError` if a file is damaged or missing, or belongs to another model.
    """
    if remark := check(folder, (WEIGHTS,) if balancer is None else (WEIGHTS, BALANCER), USE):
        warn(remark, stacklevel=2)
    _load_weights(model, balancer, folder)


def _load_weights(model: MultiTaskModel, balancer: Balancer | None, folder: Path) -> None:
    try:
        if is_split(model):
            split_again(model)
            weights: dict[str, Any] = load_file(folder / WEIGHTS)
            set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
        else:
            load_model(model, str(folder / WEIGHTS))
        if balancer is not None:
            balancer.load_state_dict(load_file(folder / BALANCER))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"The checkpoint {folder} does not fit the run's config.yaml or is damaged: {error}"
        ) from error


def _offer(folder: Path, names: Collection[str], advice: str) -> str:
    """Returns a sentence about the run's other checkpoints whose files are intact, the newest first."""
    run = folder.parent.parent
    if not (run / CONFIG).is_file():  # a folder of weights that belongs to no run
        return ""
    intact = sorted(_intact(run, folder, names), reverse=True)
    if not intact:
        return "No other checkpoint of the run is intact. If you have a copy of this one, put it back."
    found = " and ".join(f"{name!r} of step {step}{remark}" for step, name, remark in intact)
    name = intact[0][1]
    return f"Intact: {found}. To take {name!r}: {advice.format(run=run, name=name)}"


def _intact(run: Path, damaged: Path, names: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """Yields step and name of the other checkpoints, and what has to be said of them."""
    for name in CHECKPOINTS:
        folder = _present(run, name, WEIGHTS)
        if folder is None or folder == damaged or (step := step_of(folder)) is None:
            continue
        try:
            unchecked = checksums.check(folder, names)
        except ValueError:
            continue
        yield step, name, " (it has no checksums)" if unchecked else ""


def _present(run: Path, name: str, file: str) -> Path | None:
    """Returns the folder of a checkpoint. The folder must contain `file`. Otherwise the result is None."""
    folder = folder_of(run, name)
    return folder if folder is not None and (folder / file).exists() else None


def step_of(folder: Path) -> int | None:
    """Returns the step of a checkpoint. None if its file does not say it or cannot be read."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
