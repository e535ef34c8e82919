"""Collects the figures of finished runs, and what these figures measure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mtlkit.data.dataset import Split
from mtlkit.report.history import History
from mtlkit.run.inference import evaluate_run
from mtlkit.study.outcome import kind_of

Figures = Mapping[str, float]  # "<task>/<metric>" -> value
BySeed = Mapping[int, Figures]


@dataclass(frozen=True)
class Measured:
    """Figures of runs per seed, the directions of their metrics, what they measure, and what their decoders got.

    `name` says whose figures they are where they serve as a baseline that is not single-task training.
    """

    by_seed: BySeed
    higher_is_better: Mapping[str, bool]
    kind: str
    decoders: str = ""
    name: str = ""


def figures_of(runs: Collection[Path], split: Split | None = None) -> Measured:
    """Returns the figures of finished runs. Runs of one seed are joined, for example the single-task runs of all tasks.

    Without a split, it returns the logged results of the split that the run validated on, by its `trainer.selection`.
    With a split, it evaluates the checkpoint of the results on that split.

    Raises `ValueError` if two runs of one seed have the same figure, or if the figures of two runs are of different
    kinds. For a folder that holds no run, it raises the errors of `History` and `mtlkit.run.inference.evaluate_run`.
    """
    found: dict[int, dict[str, float]] = {}
    directions: dict[str, bool] = {}
    expected: tuple[str, str] | None = None
    for run in runs:
        history = History(run)
        kind = (kind_of(history, split), history.info.get("decoders", ""))
        if kind != (expected := expected or kind):
            one, two = (" where ".join(filter(None, words)) for words in (kind, expected))
            raise ValueError(f"{run} has {one}; the runs before it have {two}. They cannot be compared.")
        record = history.trained if split is None else evaluate_run(run, split, history.checkpoint)
        figures = found.setdefault(int(history.config.get("seed", 0)), {})
        for key, higher in history.info.get("higher_is_better", {}).items():
            if higher is None or (value := record.get(key)) is None:
                continue
            if key in figures:
                raise ValueError(f"{run} is a second run with {key!r} of one seed; pass each seed's runs once.")
            figures[key], directions[key] = value, higher
    return Measured(found, directions, *(expected or ("", "")))
