"""Decides from the content of its folder how a run starts: new, from its last checkpoint, or not at all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlkit import log
from mtlkit.config.schema import Config
from mtlkit.run import checkpoint
from mtlkit.run.init_from import Weights, find_weights
from mtlkit.run.resume import resumed
from mtlkit.run_folder import CONFIG, DATA, LOG

MADE = (CONFIG, DATA, LOG, "report.html", "pictures.png", "checkpoints", "pictures", "trackers")  #: what a run writes


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        config: its configuration. If the run continues, this is mostly the configuration that it started with.
        begun: whether it continues from its checkpoint `last`.
        has_best: whether its checkpoint `best` exists.
        incidents: sentences about the folder that the log must contain.
        weights: where a new run takes its first weights from (`model.init_from`).
    """

    config: Config
    begun: bool = False
    has_best: bool = False
    incidents: tuple[str, ...] = ()
    weights: Weights | None = None


def open_run(config: Config, words: Sequence[str] | None, resume: bool) -> Start:
    """Checks the folder `config.output_dir` and removes files of an earlier start that finished no step.

    Only the main process calls it, after it has claimed the folder.

    Args:
        words: the overrides that `config` was composed from, see `resumed`.

    Raises:
        FileExistsError: the folder holds a run with a finished step, and `resume` is not set.
        FileNotFoundError: there is nothing to resume, or a part is missing. The message names the missing part.
        ValueError: a setting differs that would make it another run, or the log is damaged.
    """
    folder = Path(config.output_dir)
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
    if checkpoint.resumable(folder) is None:
        raise FileNotFoundError(_unresumable(folder, kept))
    return Start(resumed(config, words), True, "best" in checkpoint.steps(folder), tuple(_lost(folder)))


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


def _unresumable(folder: Path, kept: Sequence[str]) -> str:
    last = folder / "checkpoints" / "last"
    best = folder / "checkpoints" / "best"
    words = [
        f"{folder} cannot be resumed: {last / checkpoint.TRAINING} is missing, and training needs it to continue.",
        f"It has {', '.join(kept)}.",
    ]
    if (best / checkpoint.TRAINING).exists():
        words.append(f"To go on from the best evaluation, put a copy of {best} in the place of {last}.")
    return " ".join([*words, "To begin anew, choose another output_dir."])


def _lost(folder: Path) -> list[str]:
    """Returns sentences about lost files without which the run can still continue."""
    path = folder / LOG
    if path.exists() and path.stat().st_size:
        return []
    how = "is empty" if path.exists() else "was lost"
    return [f"{LOG} {how}: its records of earlier steps are gone, and it starts again here."]
