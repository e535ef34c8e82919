"""A run's log as series and facts, for the table and the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from mtlkit import log
from mtlkit.run_folder import CONFIG, LOG, check_run

Series = tuple[np.ndarray, np.ndarray]  # steps and values, float64; NaN where the log has null


@dataclass(frozen=True)
class Row:
    """One metric of one task: the constant prediction, the untrained start and the trained model.

    `higher` says whether higher is better; None where it is unknown or neither.
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
        """By how much the trained model is better than the constant prediction (positive), in the metric's unit."""
        if self.higher is None or self.constant is None or self.trained is None:
            return None
        return self.trained - self.constant if self.higher else self.constant - self.trained

    @property
    def relative_gain(self) -> float | None:
        """The gain as a part of the constant prediction's value; None where that is 0."""
        return self.gain / abs(self.constant) if self.gain is not None and self.constant else None


def results(evaluations: Sequence[dict[str, Any]], selection: str) -> tuple[dict[str, Any], str]:
    """The figures that stand for the trained model, of the `val` records, and which they are, in words.

    `selection` is `trainer.selection`; the last evaluation stands in for a best one that is not there yet.

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
        if "/" in key:
            values = [record[key] for record in last if record.get(key) is not None]
            means[key] = fmean(values) if values else None
    return ({"step": last[-1]["step"]} | means if means else {}), f"mean of the last {len(last)}"


class History:
    """The records of a run's folder.

    Of a run whose log was lost, or is empty, there are none, and `notes` says so.

    Raises `FileNotFoundError` for a folder that is no run's and `ValueError` for a log or configuration that cannot be
    read.
    """

    def __init__(self, run: Path) -> None:
        path = run / LOG
        check_run(run, LOG, CONFIG)
        self.run = run
        self.records = log.read(path) if path.is_file() else []
        self.config_text = (run / CONFIG).read_text() if (run / CONFIG).exists() else ""
        self.config = _parse_yaml(run / CONFIG, self.config_text)
        self.info: dict[str, Any] = {}
        for record in self._of("info"):
            self.info.update(record)
        self.tasks = list(dict.fromkeys(task for record in self.records for task in log.tasks_of(record)))
        self.selection = self.info.get("selection", "best")  #: of what the results are
        self.notes: list[str] = []  #: what a reader must know beside the figures, in sentences
        if not self.records:
            lost = "is empty" if path.is_file() else "was lost"
            self.notes.append(f"{LOG} {lost}: there are no figures. `mtlkit evaluate` measures those of the model.")
        evaluations = _evaluations(self.records)
        if self.selection == "best" and not any(record.get("best") for record in evaluations):
            self.selection = "last"
            if any(record["step"] for record in evaluations):
                self.notes.append(
                    "There is no best evaluation, mostly because the figure that trainer.monitor chooses it by had no "
                    "value, or because its checkpoint was lost: the last evaluation stands for the trained model."
                )
        self.trained, self.trained_text = results(evaluations, self.selection)
        self.selects_on_test = self.info.get("validation") == "test"

    @property
    def checkpoint(self) -> str:
        """The checkpoint that goes with the results."""
        return "best" if self.selection == "best" else "last"

    def _of(self, *splits: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["split"] in splits]

    @property
    def last_step(self) -> int:
        return max((record["step"] for record in self.records), default=0)

    def keys(self, prefix: str) -> list[str]:
        """The keys of training records that start with `prefix/`, in order of appearance."""
        return list(dict.fromkeys(key for r in self._of("train") for key in r if key.startswith(f"{prefix}/")))

    def series(self, split: str, keys: Iterable[str]) -> dict[str, Series]:
        """The values over time by key, for the keys that the split has."""
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
        """The table's rows: every metric of every task, in the run's order."""
        constant = next(iter(self._of("val_constant")), {})
        untrained = next((record for record in self._of("val") if record["step"] == 0), {})
        keys = dict.fromkeys(
            key
            for record in self._of("val", "val_constant")
            for key in record
            if "/" in key and key.split("/")[0] not in log.RESERVED
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
        """What went wrong, and the steps: the reported incidents and the values that are missing."""
        found: dict[str, list[int]] = {}
        for record in self.records:
            texts = [str(record["incident"])] if record.get("incident") else []
            texts += [f"{key} ({record['split']}) {_why(record)}" for key, value in record.items() if value is None]
            for text in texts:
                found.setdefault(text, []).append(record["step"])
        return sorted(found.items(), key=lambda item: item[1])


def _evaluations(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `val` records; none is the best of which the checkpoint `best` was lost later."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.get("best_lost"):
            found = [{key: value for key, value in one.items() if key != "best"} for one in found]
        if record["split"] == "val":
            found.append(record)
    return found


def _why(record: dict[str, Any]) -> str:
    """What null means: a training step leaves out what has no label."""
    return "was not finite" if record["split"] == "train" else "had no value: no label, or not finite"


def _parse_yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return config if isinstance(config, dict) else {}
