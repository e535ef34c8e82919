"""Reads a run's log as series and facts, for the table and the report page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from mtlkit import log
from mtlkit.run_folder import CONFIG, LOG, check_run

Series = tuple[np.ndarray, np.ndarray]  # steps and values, float64; NaN stands for a null in the log


@dataclass(frozen=True)
class Row:
    """One metric of one task: the values of the constant prediction, the untrained model and the trained model.

    `higher` says whether higher is better. None means that it is unknown or neither.
    """

    task: str
    metric: str
    unit: str
    higher: bool | None
    constant: float | None
    untrained: float | None
    trained: float | None

    @property
    def gain(self) -> float | None:
        """How much the trained model is better (positive) than the constant prediction, in the metric's unit."""
        if self.higher is None or self.constant is None or self.trained is None:
            return None
        return self.trained - self.constant if self.higher else self.constant - self.trained

    @property
    def relative_gain(self) -> float | None:
        """The gain divided by the value of the constant prediction. None if that value is 0."""
        return self.gain / abs(self.constant) if self.gain is not None and self.constant else None


def results(evaluations: Sequence[dict[str, Any]], selection: str) -> tuple[dict[str, Any], str]:
    """Returns the figures of the trained model, from the `val` records, and a text that says which figures they are.

    `selection` is `trainer.selection`. If there is no best evaluation yet, the last evaluation is used.

    >>> results([{"step": 0, "depth/abs": 9.0}, {"step": 5, "depth/abs": 2.0}, {"step": 9, "depth/abs": 4.0}], "last10")
    ({'step': 9, 'depth/abs': 3.0}, 'mean of the last 2')
    """
    trained = [record for record in evaluations if record["step"]] or [{}]
    marked = [record for record in evaluations if record.get("best")]
    if selection == "best" and marked:
        return marked[-1], f"best (step {marked[-1]['step']})"
    if selection != "last10":
        return trained[-1], f"last (step {trained[-1]['step']})" if trained[-1] else "last"
    last = trained[-10:]
    means: dict[str, Any] = {}
    for key in last[-1]:
        if "/" in key or key == "monitor":
            values = [record[key] for record in last if record.get(key) is not None]
            means[key] = fmean(values) if values else None
    return ({"step": last[-1]["step"]} | means if means else {}), f"mean of the last {len(last)}"


class History:
    """The records of a run's folder.

    If the log is lost or empty, there are no records, and `notes` says so.

    Raises `FileNotFoundError` if the folder holds no run, and `ValueError` if the log or the configuration cannot be
    read.
    """

    def __init__(self, run: Path) -> None:
        path = run / LOG
        check_run(run, LOG, CONFIG)
        self.run = run
        self.records = log.read_log(path) if path.is_file() else []
        self.config_text = (run / CONFIG).read_text() if (run / CONFIG).exists() else ""
        self.config = _parse_yaml(run / CONFIG, self.config_text)
        self.info: dict[str, Any] = {}
        for record in self._of("info"):
            self.info.update(record)
        self.tasks = list(dict.fromkeys(task for record in self.records for task in log.tasks_of(record)))
        self.selection = self.info.get("selection", "best")  #: where the results come from
        self.notes: list[str] = []  #: sentences that a reader must know together with the figures
        if not self.records:
            lost = "is empty" if path.is_file() else "was lost"
            self.notes.append(f"{LOG} {lost}: there are no figures. `mtlkit evaluate` measures those of the model.")
        evaluations = _evaluations(self.records)
        if self.selection == "best" and not any(record.get("best") for record in evaluations):
            self.selection = "last"
            if any(record["step"] for record in evaluations):
                self.notes.append(
                    "There is no best evaluation, so the last evaluation is used for the trained model. Usually the "
                    "figure that trainer.monitor names had no value, or the checkpoint of the best evaluation was lost."
                )
        if self.info.get("ema"):
            self.notes.append(f"Figures of averaged weights (trainer.ema={self.info['ema']:g}).")
        computed_by = {key for record in self._of("info") for key in record.get("computed_by", ())}
        if rounding := sorted(computed_by - {"model.checkpointing"}):
            self.notes.append(f"Without {' and '.join(rounding)}, the figures are the same only up to rounding.")
        self.trained, self.trained_text = results(evaluations, self.selection)
        self.selects_on_test = self.info.get("validation") == "test"

    @property
    def checkpoint(self) -> str:
        """The checkpoint that belongs to the results."""
        return "best" if self.selection == "best" else "last"

    def _of(self, *splits: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["split"] in splits]

    @property
    def last_step(self) -> int:
        return max((record["step"] for record in self.records), default=0)

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys of training records that start with `prefix/`, in order of appearance."""
        return list(dict.fromkeys(key for r in self._of("train") for key in r if key.startswith(f"{prefix}/")))

    def series(self, split: str, keys: Iterable[str]) -> dict[str, Series]:
        """Returns the values over time per key, for the keys that the split has."""
        values: dict[str, dict[int, float]] = {key: {} for key in keys}
        for record in self._of(split):
            for key in values.keys() & record.keys():
                values[key][record["step"]] = float("nan") if record[key] is None else record[key]
        return {
            key: (np.array(list(points), dtype=float), np.array(list(points.values()), dtype=float))
            for key, points in values.items()
            if points
        }

    def rows(self) -> list[Row]:
        """Returns the rows of the table: every metric of every task, in the order of the run."""
        constant = next(iter(self._of("val_constant")), {})
        untrained = next((record for record in self._of("val") if record["step"] == 0), {})
        keys = dict.fromkeys(
            key
            for record in self._of("val", "val_constant")
            for key in record
            if "/" in key and key.split("/")[0] not in log.RESERVED and not log.class_key(key)
        )
        rows = [
            Row(
                task=key.split("/", 1)[0],
                metric=key.split("/", 1)[1],
                unit=self.info.get("units", {}).get(key, ""),
                higher=self.info.get("higher_is_better", {}).get(key),
                constant=constant.get(key),
                untrained=untrained.get(key),
                trained=self.trained.get(key),
            )
            for key in keys
        ]
        return sorted(rows, key=lambda row: self.tasks.index(row.task))

    def incidents(self) -> list[tuple[str, list[int]]]:
        """Returns the problems and the steps at which they occurred: reported incidents and missing values."""
        found: dict[str, list[int]] = {}
        for record in self.records:
            texts = [str(record["incident"])] if record.get("incident") else []
            facts = record["split"] == "info"  # a fact may be null: no preset, no averaged weights
            missing = [key for key, value in record.items() if value is None and not facts and not log.class_key(key)]
            texts += [f"{key} ({record['split']}) {_why(record)}" for key in missing]
            for text in texts:
                found.setdefault(text, []).append(record["step"])
        return sorted(found.items(), key=lambda item: item[1])


def _evaluations(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the `val` records. If the checkpoint `best` was lost later, its record is not marked as the best."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.get("best_lost"):
            found = [{key: value for key, value in one.items() if key != "best"} for one in found]
        if record["split"] == "val":
            found.append(record)
    return found


def _why(record: dict[str, Any]) -> str:
    """Explains a null value. A training step has no entry for a task without labels."""
    return "was not finite" if record["split"] == "train" else "had no value: no label, or not finite"


def _parse_yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return config if isinstance(config, dict) else {}
