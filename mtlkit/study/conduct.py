"""Carries out a study: tuning, the runs, and the results."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mtlkit.errors import StepError
from mtlkit.files import write_whole
from mtlkit.run.claim import claimed
from mtlkit.run.progress import checked_progress, no_matter
from mtlkit.run_folder import STUDY
from mtlkit.study.checks import check_study
from mtlkit.study.comparison import Comparison, Context, Trial
from mtlkit.study.definition import Study, read_study
from mtlkit.study.launch import Launcher
from mtlkit.study.outcome import read_outcome
from mtlkit.study.plan import Job, Plan
from mtlkit.study.single import write_reports
from mtlkit.study.tuning import choose

REPORTING = {"reference", "metrics", "split", "delta_m", "all_definitions", "claims"}  #: what no run depends on
SHARED = "at_a_time.json"  #: how many runs shared the machine, for each run

Tell = Callable[[str], None]


class Carried:
    """Carries out runs and keeps account of those that failed."""

    def __init__(self, launcher: Launcher, tell: Tell, folder: Path) -> None:
        self.launcher, self.tell, self.study = launcher, tell, folder
        self.failed: dict[Path, tuple[str, str]] = {}  # folder -> the run in words, and why
        self.made: set[Path] = set()  # by this call
        # How many runs shared the machine when each was made. Calls may differ in it, and step times depend on it.
        kept = json.loads((folder / SHARED).read_text()) if (folder / SHARED).exists() else {}
        self.shared: dict[Path, int | None] = {folder / name: count for name, count in kept.items()}

    def out(self, jobs: Sequence[Job], what: str) -> None:
        """Brings all runs to their end. Those that have finished before are not started.

        Raises `ValueError` before any run starts if a folder holds a run with other settings.
        """
        waiting = []
        for job in jobs:
            try:
                if checked_progress(job.config) != "finished":
                    waiting.append(job)
            except StepError as error:
                self._note(job, str(error))
                self.tell(f"{job}: FAILED in an earlier call: {error}")
        if done := len(jobs) - len(waiting):
            self.tell(f"{done} of {len(jobs)} {what} are done already.")
        self.made |= {job.folder for job in waiting}
        self.shared |= {job.folder: self.launcher.at_a_time for job in waiting}
        self._save_shared()
        for number, (job, reason) in enumerate(self.launcher.run(waiting), 1):
            self.tell(f"[{number}/{len(waiting)}] {job}: {f'FAILED: {reason}' if reason else 'finished'}")
            if reason:
                self._note(job, reason)

    def _save_shared(self) -> None:
        counts = {run.relative_to(self.study).as_posix(): count for run, count in self.shared.items()}
        write_whole(self.study / SHARED, json.dumps(counts, indent=1).encode())

    def _note(self, job: Job, reason: str) -> None:
        self.failed[job.folder] = (f"{job} ({job.folder})", reason)


def run_study(study: Study, folder: Path, launcher: Launcher, tell: Tell, command: str = "") -> Comparison:
    """Makes all runs of a study that are not finished and returns the comparison.

    It can be called again at any time, after any interruption, with the same study. It skips finished runs, resumes
    those that were begun, and starts the others. A study may get more methods and seeds. A failed run does not stop
    the others; the comparison says which failed and why.

    Raises:
        FileExistsError: another process works on this study.
        ValueError: the study in the folder is another one, or a run in it has other settings. The message says what
            differs. Or: no run of a method has finished. And what `check_study` raises.
    """
    plan = Plan(study, folder)
    check_study(plan)
    with claimed(folder):
        check_unchanged(study, folder)
        study.save(folder)
        carried = Carried(launcher, tell, folder)
        carried.out(plan.trials, "runs of tuning")
        trials, chosen, waiting = choose(plan.trials, carried.failed)
        for label in waiting:
            tell(f"{label}: no setting is chosen before all its trials have ended. Call the same command again.")
        for trial in (trial for trial in trials if trial.chosen):
            tell(f"Tuning chose {trial.words} for {trial.method} {trial.task}".rstrip())
        jobs = plan.runs(plan.untuned | chosen)
        carried.out(jobs, "runs")
        _write_reports(jobs, carried)
        return Comparison(
            [read_outcome(job.entry, study.split) for job in jobs if job.folder not in carried.failed],
            _context(study, folder, jobs, trials, carried, command),
        )


def _write_reports(jobs: Sequence[Job], carried: Carried) -> None:
    """Writes the pages of runs again that can now show single-task training beside them: of the seeds with new runs."""
    seeds = {job.seed for job in jobs if job.folder in carried.made}
    done = [job for job in jobs if not job.method.task and job.folder not in carried.failed]
    runs = [job.folder for job in done if job.seed in seeds]
    if runs and any(job.method.task for job in jobs):
        carried.tell(f"Writing the pages of {len(runs)} runs again, with the figures of single-task training.")
        write_reports(runs)


def check_unchanged(study: Study, folder: Path) -> None:
    """Raises `ValueError` if the folder holds another study. The message names each key that differs."""
    if not (folder / STUDY).exists():
        return
    old, _ = read_study(folder / STUDY)
    lines = []
    for one in fields(Study):
        before, now = (_value(one.name, getattr(version, one.name)) for version in (old, study))
        if one.name in REPORTING or before == now:
            continue
        if one.name == "methods":
            lines += [f"method {name}: {text!r} there" for name, text in before.items() if now.get(name) != text]
        elif one.name == "seeds":
            lines += [f"seed {seed} is there and not here" for seed in before if seed not in now]
        else:
            lines.append(f"{one.name}: {_text(before)} there, {_text(now)} here")
    if lines:
        raise ValueError(
            f"{folder} holds another study: {'; '.join(lines)}. A study may get more methods and seeds, and nothing "
            "else may change. Choose another output_dir."
        )


def _value(key: str, value: Any) -> Any:
    """Returns a value without the words that may change, such as data.root on another machine."""
    return tuple(word for word in value if not no_matter(word.partition("=")[0])) if key == "words" else value


def _text(value: object) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _context(
    study: Study, folder: Path, jobs: Sequence[Job], trials: Sequence[Trial], carried: Carried, command: str
) -> Context:
    done = [job for job in jobs if job.folder not in carried.failed]
    reference, notes = study.reference or next(iter(study.methods)), []
    if reference not in {job.method.name for job in done}:
        notes.append(f"No run of the reference {reference} finished, so another method takes its place.")
        reference = ""
    shared = sorted({count for job in done if (count := carried.shared.get(job.folder)) is not None})
    if len(shared) > 1:
        counts = " or ".join(map(str, shared))
        notes.append(f"Step times cannot be compared: {counts} runs at a time shared the machine ({SHARED}).")
    return Context(
        title=folder.name,
        reference=reference,
        delta=study.delta_m,
        metrics=study.metrics,
        failed=list(carried.failed.values()),
        trials=trials,
        at_a_time=max(shared, default=None),
        command=command,
        notes=notes,
    )
