"""How far the run in a folder is, and whether it is the run that a configuration describes."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from mtlkit import log
from mtlkit.config.composition import read_config
from mtlkit.config.schema import Config
from mtlkit.run.resume import flat
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


def progress_of(folder: Path) -> Progress:
    """Returns how far the run in a folder is. Raises `ValueError` if its log cannot be read.

    `begun` is a run that did not end, and `new` a folder without a run. `diverged` ended by itself, because a loss was
    not finite: it would do so again.
    """
    if not (folder / CONFIG).exists():
        return "new"
    if not (folder / LOG).exists():
        return "begun"
    records = log.read_log(folder / LOG)
    status = records[-1].get("status") if records else None
    return status if status in ("finished", "diverged") else "begun"


def check_same(folder: Path, config: Config) -> None:
    """Raises `ValueError` if the run in a folder is not the one that a configuration describes.

    The message names every key that differs, with both values.
    """
    old, new = (dict(flat(one.to_dict())) for one in (read_config(folder / CONFIG), config))
    lines = [
        f"{key} is {_text(old, key)} there and {_text(new, key)} now"
        for key in sorted(old.keys() | new.keys())
        if not any(fnmatchcase(key, pattern) for pattern in NO_MATTER)
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]
    if lines:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(lines)}. A run is never overwritten: choose another "
            "output_dir, or set the old values."
        )


def _text(values: dict[str, object], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
