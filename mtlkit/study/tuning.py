"""Chooses the setting of every method from the trials of tuning."""

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean

from mtlkit.report.history import History
from mtlkit.run.progress import progress_of
from mtlkit.study.comparison import Trial
from mtlkit.study.plan import Job


def choose(
    trials: Sequence[Job], failed: Collection[Path]
) -> tuple[list[Trial], dict[str, tuple[str, ...]], list[str]]:
    """Returns all trials with their scores, the chosen words by the label of each method, and methods that must wait.

    The score is the figure by which each run selects its best evaluation, on validation data: the mean over tasks of
    loss / untrained loss, or what `trainer.monitor` names. It is a mean over the seeds of tuning; lower is better. A
    setting of which a run failed has no score, so it is never chosen. Of equal settings, the first one is chosen.

    A run that diverged has come to its end. One that failed for another reason, such as a time limit or a full disk,
    has not: its method waits, because its budget would be smaller, and another call might choose another setting.
    """
    open_ = [job for job in trials if job.folder in failed and progress_of(job.folder) != "diverged"]
    waiting = list(dict.fromkeys(job.method.label for job in open_))
    by_setting: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in trials:
        by_setting.setdefault((job.method.label, job.words), []).append(job)
    scores = {setting: _score(jobs, failed) for setting, jobs in by_setting.items()}
    best: dict[str, tuple[str, ...]] = {}
    for (label, words), score in scores.items():
        if score is None or label in waiting:
            continue
        if label not in best or score < (scores[label, best[label]] or 0.0):
            best[label] = words
    found = [
        Trial(
            jobs[0].method.name,
            " ".join(words),
            tuple(job.seed for job in jobs),
            scores[label, words],
            best.get(label) == words,
            jobs[0].method.task,
        )
        for (label, words), jobs in by_setting.items()
    ]
    return found, best, waiting


def _score(jobs: Sequence[Job], failed: Collection[Path]) -> float | None:
    if any(job.folder in failed for job in jobs):
        return None
    found = [History(job.folder).trained.get("monitor") for job in jobs]
    return None if None in found else fmean(value for value in found if value is not None)
