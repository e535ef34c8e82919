"""What one run of a comparison brought."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mtlkit.data.dataset import Split
from mtlkit.files import write_whole
from mtlkit.log import class_key
from mtlkit.report.history import History
from mtlkit.run import checkpoint
from mtlkit.run.inference import evaluate_run

SINGLE = "single-task"  #: the row to which the single-task runs of all tasks are joined


@dataclass(frozen=True)
class Entry:
    """A run and its place in a comparison.

    Attributes:
        method: the name of its row: a method, or `SINGLE` with the words that distinguish these single-task runs.
        seed: runs of several methods with one seed have the same initial network and the same order of data.
        run: its folder.
        task: the only task of a single-task run; otherwise empty.
        settings: what distinguishes the method, as text: options of the balancer, and what tuning chose.
        base: the row of the single-task runs that it is compared with, where there are any.
    """

    method: str
    seed: int
    run: Path
    task: str = ""
    settings: str = ""
    base: str = SINGLE

    def __str__(self) -> str:
        return f"{self.method}{f' of {self.task}' if self.task else ''}, seed {self.seed}"


@dataclass(frozen=True)
class Metric:
    """A metric of the table: its key "<task>/<metric>", its unit and whether higher is better."""

    key: str
    higher: bool
    unit: str = ""

    @property
    def task(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        return self.key.partition("/")[2]


@dataclass(frozen=True)
class Outcome:
    """The figures of a finished run, and what they mean.

    Attributes:
        figures: by "<task>/<metric>", the metrics with a direction. None: it had no value.
        kind: what the figures are, such as "val figures of the best evaluation".
        monitor: what decided which evaluation is the best, in words.
        decoders: what the decoders got in training, in words.
        step_time: the median seconds per optimizer step, with the loading of data. None: the log has none.
        peak_memory: in bytes, of what `memory_of` says. None: unknown.
        incidents: the number of incidents in the log.
    """

    entry: Entry
    figures: Mapping[str, float | None]
    metrics: Mapping[str, Metric]
    kind: str
    history: History
    monitor: str = ""
    decoders: str = ""
    step_time: float | None = None
    peak_memory: int | None = None
    memory_of: str = ""
    incidents: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def versions(self) -> str:
        """The versions of the packages that made it, in words."""
        return ", ".join(f"{name} {version}" for name, version in self.history.info.get("versions", {}).items())

    @property
    def step(self) -> int:
        """The step of the model whose figures these are."""
        return int(self.history.trained.get("step", 0))


def read_outcome(entry: Entry, split: Split | None = None) -> Outcome:
    """Reads a run. Without a split, its figures are the logged ones, by its `trainer.selection`.

    With a split, they are those of its checkpoint on this split. They are kept in the run's folder, because measuring
    takes time. Raises `FileNotFoundError` and `ValueError` as `History` and `evaluate_run` do.
    """
    history = History(entry.run)
    info = history.info
    directions, units = info.get("higher_is_better", {}), info.get("units", {})
    found: Mapping[str, Any] = history.trained if split is None else _measured(entry.run, split, history.checkpoint)
    keys = [key for key in directions if directions[key] is not None and not class_key(key) and key in found]
    # The first record of a process includes what is done once, such as compiling or the choice of kernels.
    times = [r["step_time"] for r in history.records if r.get("step_time") is not None and r["step"] > 1]
    return Outcome(
        entry,
        {key: found[key] for key in keys},
        {key: Metric(key, directions[key], units.get(key, "")) for key in keys},
        kind_of(history, split),
        history,
        monitor=info.get("monitor_of", "") if history.selection == "best" else "",
        decoders=info.get("decoders", ""),
        step_time=median(times) if times else None,
        peak_memory=info.get("peak_memory"),
        memory_of=info.get("memory_of", ""),
        incidents=sum(times.often for _, times in history.incidents()),
        config=history.config,
    )


def kind_of(history: History, split: str | None = None) -> str:
    """Describes what the figures of a run measure."""
    selection, validation = history.selection, history.info.get("validation", "val")
    if split is None and selection == "last10":
        evaluation = "mean of the last 10 evaluations"
    else:
        evaluation = f"{'best' if selection == 'best' else 'last'} evaluation"
    chosen = " selected on test data" if selection == "best" and validation == "test" else ""
    return f"{split or validation} figures of the {evaluation}{chosen}"


def _measured(run: Path, split: Split, name: str) -> dict[str, Any]:
    """Returns the figures of a checkpoint on a split, from an earlier call if the checkpoint is still the same."""
    path, step = run / f"figures_{split}.json", checkpoint.steps(run).get(name)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if (kept["checkpoint"], kept["step"]) == (name, step):
            return dict(kept["figures"])
    figures = evaluate_run(run, split, name)
    write_whole(path, json.dumps({"checkpoint": name, "step": step, "figures": figures}, indent=1).encode())
    return dict(figures)
