"""Sends what a run reports to trackers, such as TensorBoard and Weights & Biases, through Accelerate."""

import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers

from mtlkit.config.schema import Config
from mtlkit.observer import Observer, Record, Sample
from mtlkit.run.resume import flat

#: The trackers that take pictures as arrays (N, H, W, 3), and what their `log_images` needs to know for it.
PICTURES: Mapping[str, Mapping[str, Any]] = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
WANDB_ID = "wandb_id.txt"  #: in the folder `trackers` of the run: under which name W&B continues it
EXTRAS = ("tensorboard", "wandb")  #: those that pyproject.toml names


def check_trackers(names: Sequence[str]) -> list[str]:
    """Returns the trackers, each once. Raises `ValueError` for one whose package is not installed."""
    known = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in known:
            package = f"'mtlkit[{name}]'" if name in EXTRAS else name
            raise ValueError(
                f"trainer.trackers: the package of {name!r} is not installed. Install it by `pip install {package}`, "
                "or leave the tracker out."
            )
    return list(dict.fromkeys(names))


def start_trackers(
    accelerator: Accelerator, config: Config, report: Callable[[str], None], begun: int | None
) -> list[Observer]:
    """Starts the trackers of the run and gives them its settings. Returns one observer for all of them, if any.

    `begun` is the step from which the run goes on, None for a new run. TensorBoard then forgets what it has of later
    steps, for these are made again. W&B continues the same run, in which it ignores steps that it has.

    Raises `ValueError` if a tracker cannot start, for example because it needs an account.
    """
    if not accelerator.log_with:
        return []
    settings = {key: _plain(value) for key, value in flat(config.to_dict())}
    try:
        accelerator.init_trackers(config.experiment, settings, init_kwargs=_options(config, begun))
    except Exception as error:  # a tracker may raise anything
        raise ValueError(
            f"trainer.trackers={list(config.trainer.trackers)}: a tracker cannot start: {_words(error)}"
        ) from error
    return [Trackers(accelerator.trackers, report)]


def _options(config: Config, begun: int | None) -> dict[str, dict[str, Any]]:
    """Returns the options by tracker with which a run that goes on has each step once."""
    options: dict[str, dict[str, Any]] = {}
    if begun is not None:
        options["tensorboard"] = {"purge_step": begun + 1}
    if "wandb" in config.trainer.trackers and not {"WANDB_RUN_ID", "WANDB_RESUME"} & os.environ.keys():
        path = Path(config.output_dir) / "trackers" / WANDB_ID
        if begun is None or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(secrets.token_hex(4), encoding="ascii")
        options["wandb"] = {"id": path.read_text(encoding="ascii").strip(), "resume": "allow"}
    return options


class Trackers(Observer):
    """Sends the numbers of every record to trackers, under `<split>/<key>` with the key of metrics.jsonl.

    The split comes first because training and validation have the same keys for their losses. At the end, trackers that
    take pictures get those of the predictions. A tracker that fails gets nothing more. `report` gets a sentence about
    it, and the run goes on: the log has all figures.
    """

    def __init__(self, trackers: Sequence[GeneralTracker], report: Callable[[str], None]) -> None:
        self.trackers = list(trackers)
        self._report = report

    def step(self, record: Record) -> None:
        self._send(record)

    def evaluation(self, record: Record) -> None:
        self._send(record)

    def pictures(self, step: int, samples: Sequence[Sample]) -> None:
        by_name: dict[str, list[np.ndarray]] = {}
        for sample in samples:
            for name, picture in sample:
                by_name.setdefault(f"pictures/{name}", []).append(picture)
        arrays = {name: np.stack(pictures) for name, pictures in by_name.items()}
        for tracker in list(self.trackers):
            if tracker.name in PICTURES:
                self._try(tracker, lambda one: one.log_images(arrays, step=step, **PICTURES[one.name]))

    def finish(self, summary: Record) -> None:
        for tracker in list(self.trackers):
            self._try(tracker, lambda one: one.finish())

    def _send(self, record: Record) -> None:
        numbers = {
            f"{record['split']}/{key}": value
            for key, value in record.items()
            if key not in ("step", "split") and _is_number(value)
        }
        for tracker in list(self.trackers):
            self._try(tracker, lambda one: one.log(numbers, step=record["step"]))

    def _try(self, tracker: GeneralTracker, action: Callable[[GeneralTracker], object]) -> None:
        try:
            action(tracker)
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything, and the run is worth more
            self.trackers.remove(tracker)
            self._report(f"The tracker {tracker.name!r} failed and gets nothing more: {_words(error)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> bool | int | float | str:
    """Returns a setting in a type that every tracker takes."""
    return value if isinstance(value, bool | int | float | str) else "null" if value is None else str(value)


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
