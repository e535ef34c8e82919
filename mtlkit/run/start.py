"""Decides from the content of its folder how a run starts: new, from its last checkpoint, or not at all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlkit import log
from mtlkit.config.schema import Config
from mtlkit.registry import suggest
from mtlkit.run import checkpoint
from mtlkit.run.checkpoint_folder import check_writable
from mtlkit.run.init_from import Weights, find_weights
from mtlkit.run.profile import TRACE
from mtlkit.run.resume import resumed
from mtlkit.run_folder import CHECKPOINTS, CONFIG, DATA, DETAILS, LOG

#: What a run writes.
MADE = (CONFIG, DATA, LOG, DETAILS, "report.html", "pictures.png", TRACE, "checkpoints", "pictures", "trackers")
TAKES_PLACE = "the best evaluation from here on takes its place."


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        config: its configuration. If the run continues, this is mostly the configuration that it started with.
        source: the folder of the checkpoint from which it continues; None: it is new.
        best_gone: why its checkpoint `best` does not count, in a sentence; empty if it does.
        incidents: sentences about the folder that the log must contain.
        weights: where a new run takes its first weights from (`model.init_from`).
    """

    config: Config
    source: Path | None = None
    best_gone: str = ""
    incidents: tuple[str, ...] = ()
    weights: Weights | None = None


def open_run(config: Config, words: Sequence[str] | None, resume: bool | str) -> Start:
    """Checks the folder `config.output_dir` and removes files of an earlier start that finished no step.

    Only the main process calls it, after it has claimed the folder.

    Args:
        words: the overrides that `config` was composed from, see `resumed`.
        resume: whether a run goes on, from its last checkpoint or from the one of this name.

    Raises:
        FileExistsError: the folder holds a run with a finished step, and `resume` is not set.
        FileNotFoundError: there is nothing to resume, or a part is missing. The message names the missing part.
        PermissionError: the run could not save its checkpoints.
        ValueError: a setting differs that would make it another run, the log or a file of the checkpoint is damaged, or
            there is no such name.
    """
    folder = Path(config.output_dir)
    if isinstance(resume, str) and resume not in CHECKPOINTS:
        raise ValueError(f"A run cannot go on from {resume!r}. {suggest(resume, CHECKPOINTS)}")
    _remove_left(folder)
    kept = finished_work(folder)
    if not resume and kept:
        raise FileExistsError(
            f"{folder} holds a run: {', '.join(kept)}. Go on with it by --resume, or choose another output_dir."
        )
    if not (folder / CONFIG).exists() and kept:
        raise FileNotFoundError(
            f"{folder} cannot be resumed: its {CONFIG} is missing. It has {', '.join(kept)}. Put the file back, or "
            "choose another output_dir."
        )
    if not kept:
        if resume:
            config = resumed(config, words, anew=True)
        init_from = config.model.init_from
        weights = None if init_from is None else find_weights(init_from, config.output_dir)
        _clear(folder)
        return Start(config, weights=weights)
    name = resume if isinstance(resume, str) else checkpoint.LAST
    source = checkpoint.folder_of(folder, name)
    if source is None:
        raise FileNotFoundError(_unresumable(folder, name, kept))
    # On this process alone and before any work: the others go by its answer, and nobody waits for them.
    checkpoint.check_training(source)
    check_writable(folder)
    lost = list(_lost(folder))
    if source.name == checkpoint.PREVIOUS != name:
        lost.append(checkpoint.missing_last(source))
    return Start(resumed(config, words), source, _best_gone(folder, source, name), tuple(lost))


def finished_work(folder: Path) -> list[str]:
    """Describes what the finished steps of a run left. The list is empty if no step was finished."""
    found = [f"the checkpoint {name!r} of step {step}" for name, step in checkpoint.steps(folder).items() if step != 0]
    step = log.last_step(folder / LOG)
    return [*found, f"records up to step {step}"] if step else found


def _clear(folder: Path) -> None:
    for name in MADE:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _remove_left(folder: Path) -> None:
    """Removes what a killed run was just writing. The folder is claimed, so nobody else writes there."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _unresumable(folder: Path, name: str, kept: Sequence[str]) -> str:
    words = [f"{folder} cannot be resumed: it has no checkpoint {name!r}. It has {', '.join(kept)}."]
    if others := [other for other in CHECKPOINTS if checkpoint.folder_of(folder, other) is not None]:
        words.append(f"To go on from {others[0]!r}: --resume-from {others[0]}.")
    return " ".join([*words, "To begin anew, choose another output_dir."])


def _best_gone(folder: Path, source: Path, name: str) -> str:
    steps = checkpoint.steps(folder)
    if "best" not in steps:
        return f"The checkpoint 'best' was lost: {TAKES_PLACE}"
    # After a kill between the writing of `best` and of `last`, the same evaluation comes again, and nothing is lost.
    best, begin = steps["best"], checkpoint.step_of(source)
    if name != checkpoint.LAST and best is not None and begin is not None and best > begin:
        return f"The checkpoint 'best' is of step {best}, and the run goes on from step {begin}: {TAKES_PLACE}"
    return ""


def _lost(folder: Path) -> list[str]:
    """Returns sentences about lost files without which the run can still continue."""
    path = folder / LOG
    if path.exists() and path.stat().st_size:
        return []
    how = "is empty" if path.exists() else "was lost"
    return [f"{LOG} {how}: its records of earlier steps are gone, and it starts again here."]
