"""Brings one run of several to its end: how far it is, and whether it is the run that a configuration describes."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from mtlkit import distributed, log
from mtlkit.config.composition import read_config
from mtlkit.config.schema import Config
from mtlkit.errors import StepError
from mtlkit.observer import Observer
from mtlkit.run.experiment import Experiment
from mtlkit.run.resume import flat
from mtlkit.run.start import finished_work
from mtlkit.run_folder import CONFIG, LOG

Progress = Literal["new", "begun", "finished", "diverged"]

#: Settings that change neither the model nor its figures. All others must agree if a run stands for a configuration.
NO_MATTER = (
    "output_dir",
    "data.root",
    "data.concat.*.root",
    "data.workers",
    "trainer.trackers",
    "trainer.observers",
)


def bring_to_end(config: Config, observers: Iterable[Observer] = ()) -> bool:
    """Starts a run, or resumes it, or leaves it as it is if it has finished. Returns whether it had to run.

    All processes of the run call it. Raises `ValueError` if the folder holds another run, `StepError` if the run has
    diverged in an earlier call, and what `Experiment.run` raises.
    """
    distributed.start()
    progress = distributed.main_decides(lambda: checked_progress(config))
    if progress == "finished":
        return False
    Experiment(config).run(resume=progress == "begun", observers=observers)
    return True


def checked_progress(config: Config) -> Progress:
    """Returns how far the run of a configuration is, after `check_same`.

    Raises `StepError`, with the message of then, for a run that has diverged: it would do so again.
    """
    folder = Path(config.output_dir)
    progress = progress_of(folder)
    if progress != "new":
        check_same(folder, config)
    if progress == "diverged":
        reason = str(log.last_record(folder / LOG).get("incident", "")).rstrip(".")
        raise StepError(f"{reason}. It would do so again; to try all the same, remove {folder}.")
    return progress


def progress_of(folder: Path) -> Progress:
    """Returns how far the run in a folder is. Raises `ValueError` if its log cannot be read.

    `new`: there is no finished step, so a run may begin here. `begun`: it did not come to its end: a
    signal stopped it, or it was killed.
    """
    if not finished_work(folder):
        return "new"
    status = log.last_record(folder / LOG).get("status")
    return status if status in ("finished", "diverged") else "begun"


def check_same(folder: Path, config: Config) -> None:
    """Raises `ValueError` if the run in a folder is not the one that a configuration describes.

    The message names every key that differs, with both values.
    """
    old, new = (dict(flat(one.to_dict())) for one in (read_config(folder / CONFIG), config))
    lines = [
        f"{key} is {_text(old, key)} there and {_text(new, key)} now"
        for key in sorted(old.keys() | new.keys())
        if not no_matter(key)
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]
    if lines:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(lines)}. A run is never overwritten: choose another "
            "output_dir, or set the old values."
        )


def no_matter(key: str) -> bool:
    """Returns whether a setting changes neither the model nor its figures."""
    return any(fnmatchcase(key, pattern) for pattern in NO_MATTER)


def _text(values: dict[str, object], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
