"""Reads a run's log as series and facts, for the table and the report page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from mtlkit import log
from mtlkit.config.yaml_files import read_mapping
from mtlkit.data.summary import facts_in_words
from mtlkit.run_folder import CONFIG, LOG, check_run

NEARLY_ZERO = 0.02  #: a constant prediction with less than this part of the gain has no relative gain
MOST = 10_000  #: the largest number of training records that are kept: a report of a longer log needs no more memory
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
        """The gain divided by the value of the constant prediction.

        None if that value is 0, or so close to 0 that the quotient says nothing (R2 of a constant is nearly 0).
        """
        if self.gain is None or not self.constant or abs(self.constant) < NEARLY_ZERO * abs(self.gain):
            return None
        return self.gain / abs(self.constant)


class Times(NamedTuple):
    """When something happened: at which step first and last, and how often."""

    first: int
    last: int
    often: int


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
        self.last_step = 0
        self.records: list[dict[str, Any]] = []  #: those of training are at most `MOST`
        self._tasks: dict[str, None] = {}
        self._trained = 0
        self._incidents: dict[str, Times] = {}
        stride = self._read(log.read_records(path) if path.is_file() else ())
        there = (run / CONFIG).exists()
        self.config = read_mapping(run / CONFIG) if there else {}
        self.config_text = (run / CONFIG).read_text(encoding="utf-8") if there else ""
        self.info: dict[str, Any] = {}
        for record in self._of("info"):
            self.info.update(record)
        self.tasks = list(self._tasks)
        self.selection = self.info.get("selection", "best")  #: where the results come from
        self.notes: list[str] = []  #: sentences that a reader must know together with the figures
        if not self.records:
            lost = "is empty" if path.is_file() else "was lost"
            self.notes.append(f"{LOG} {lost}: there are no figures. `mtlkit evaluate` measures those of the model.")
        if stride > 1:
            self.notes.append(
                f"The log is long: curves and figures of training use every {stride}th of its training records."
            )
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

    def _read(self, records: Iterable[dict[str, Any]]) -> int:
        """Keeps the records, and of those of training only every n-th where there are too many. Returns n."""
        stride, training, others = 1, [], []
        for number, record in enumerate(records):
            self.last_step = max(self.last_step, record["step"])
            self._tasks |= dict.fromkeys(log.tasks_of(record))
            self._note_incidents(record)
            if record["split"] != "train":
                others.append((number, record))
                continue
            if self._trained % stride == 0:
                training.append((number, record))
            self._trained += 1
            if len(training) > MOST:
                stride, training = 2 * stride, training[::2]
        self.records = [record for _, record in sorted([*training, *others], key=lambda pair: pair[0])]
        return stride

    def _note_incidents(self, record: dict[str, Any]) -> None:
        """Notes the problems of a record: a reported incident and missing values."""
        texts = [str(record["incident"])] if record.get("incident") else []
        if record["split"] != "info":  # a fact may be null: no preset, no averaged weights
            missing = [key for key, value in record.items() if value is None and not log.class_key(key)]
            texts += [f"{key} ({record['split']}) {_why(record)}" for key in missing]
        for text in texts:
            before = self._incidents.get(text, Times(record["step"], record["step"], 0))
            self._incidents[text] = Times(before.first, record["step"], before.often + 1)

    def data_in_words(self) -> list[str]:
        """Returns what the run found in its data. Raises `ValueError` if the record of it is damaged."""
        try:
            return facts_in_words(self.info["data"])
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # a foreign value may cause any of them
            raise ValueError(f"{self.run / LOG}: its record of the data is damaged ({error}).") from error

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
        untrained = self._untrained()
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

    def losses(self) -> list[Row]:
        """Returns one row per task with its validation loss. Constant predictions have none."""
        untrained, of = self._untrained(), {task: f"loss/{task}" for task in self.tasks}
        return [
            Row(task, "loss", "", False, None, untrained.get(key), self.trained.get(key)) for task, key in of.items()
        ]

    def _untrained(self) -> dict[str, Any]:
        return next((record for record in self._of("val") if record["step"] == 0), {})

    def incidents(self) -> list[tuple[str, Times]]:
        """Returns the problems, by their first steps: reported incidents and missing values."""
        return sorted(self._incidents.items(), key=lambda item: item[1].first)


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
