"""How a run starts: anew, from its last checkpoint, or not at all. What is in its folder decides."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlkit import log
from mtlkit.config.schema import Config
from mtlkit.run import checkpoint
from mtlkit.run.resume import resumed
from mtlkit.run_folder import CONFIG, DATA, LOG

MADE = (CONFIG, DATA, LOG, "report.html", "pictures.png", "checkpoints", "pictures")  #: what a run leaves


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        config: its configuration; of a run that goes on, mostly the one that it began with.
        begun: whether it goes on from its checkpoint `last`.
        has_best: whether its checkpoint `best` is there.
        incidents: what the log must say of the folder.
    """

    config: Config
    begun: bool = False
    has_best: bool = False
    incidents: tuple[str, ...] = ()


def open_run(config: Config, words: Sequence[str] | None, resume: bool) -> Start:
    """Looks at the folder `config.output_dir`, and takes away what a start without a finished step left there.

    For the main process, which has claimed the folder.

    Args:
        words: the overrides that `config` was composed from, see `resumed`.

    Raises:
        FileExistsError: a run with a finished step is there, and it is not to be resumed.
        FileNotFoundError: there is nothing to resume, or what there is does not suffice; it says what is missing.
        ValueError: a setting differs that would make it another run, or the log is damaged.
    """
    folder = Path(config.output_dir)
    kept = _progress(folder)
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
        _clear(folder)
        return Start(config)
    if checkpoint.resumable(folder) is None:
        raise FileNotFoundError(_unresumable(folder, kept))
    return Start(resumed(config, words), True, "best" in checkpoint.steps(folder), tuple(_lost(folder)))


def _progress(folder: Path) -> list[str]:
    """What the finished steps of a run left, in words. Nothing: no step was finished."""
    found = [f"the checkpoint {name!r} of step {step}" for name, step in checkpoint.steps(folder).items() if step != 0]
    step = log.last_step(folder / LOG)
    return [*found, f"records up to step {step}"] if step else found


def _clear(folder: Path) -> None:
    for name in MADE:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _unresumable(folder: Path, kept: Sequence[str]) -> str:
    last = folder / "checkpoints" / "last"
    best = folder / "checkpoints" / "best"
    words = [
        f"{folder} cannot be resumed: {last / checkpoint.TRAINING} is missing, from which training would go on.",
        f"It has {', '.join(kept)}.",
    ]
    if (best / checkpoint.TRAINING).exists():
        words.append(f"To go on from the best evaluation, put a copy of {best} in the place of {last}.")
    return " ".join([*words, "To begin anew, choose another output_dir."])


def _lost(folder: Path) -> list[str]:
    """Sentences on what is not there any more, although the run goes on."""
    path = folder / LOG
    if path.exists() and path.stat().st_size:
        return []
    how = "is empty" if path.exists() else "was lost"
    return [f"{LOG} {how}: what it said of the steps before is gone, and it begins anew here."]
