"""Carries out a study: tuning, the runs, and the results."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mtlkit.errors import StepError
from mtlkit.run.build import build_dataset
from mtlkit.run.claim import claimed
from mtlkit.run.progress import checked_progress, no_matter
from mtlkit.study.claims import check_claims, parse_claim
from mtlkit.study.comparison import Comparison, Context, Trial
from mtlkit.study.definition import FILE, Study, read_study
from mtlkit.study.launch import Launcher
from mtlkit.study.outcome import read_outcome
from mtlkit.study.plan import Job, Plan
from mtlkit.study.tuning import choose

REPORTING = {"reference", "metrics", "split", "delta_m", "all_definitions", "claims"}  #: what no run depends on
GROWING = {"methods", "seeds"}  #: what a study may get more of

Tell = Callable[[str], None]


class Carried:
    """Carries out runs and keeps account of those that failed."""

    def __init__(self, launcher: Launcher, tell: Tell) -> None:
        self.launcher, self.tell = launcher, tell
        self.failed: dict[Path, tuple[str, str]] = {}  # folder -> the run in words, and why

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
        check_data(waiting)
        for number, (job, reason) in enumerate(self.launcher.run(waiting), 1):
            self.tell(f"[{number}/{len(waiting)}] {job}: {f'FAILED: {reason}' if reason else 'finished'}")
            if reason:
                self._note(job, reason)

    def _note(self, job: Job, reason: str) -> None:
        self.failed[job.folder] = (f"{job} ({job.folder})", reason)


def check_data(jobs: Sequence[Job]) -> None:
    """Opens the data sets of the runs. One message about a missing file is better than a failure of every run."""
    for config in {repr(job.config.data): job.config for job in jobs}.values():
        for split in ("train", config.data.validation):
            build_dataset(config, split)


def run_study(study: Study, folder: Path, launcher: Launcher, tell: Tell, command: str = "") -> Comparison:
    """Makes all runs of a study that are not finished and returns the comparison.

    It can be called again at any time, after any interruption, with the same study. It skips finished runs, resumes
    those that were begun, and starts the others. A study may get more methods and seeds. A failed run does not stop
    the others; the comparison says which failed and why.

    Raises:
        FileExistsError: another process works on this study.
        ValueError: the study in the folder is another one, or a run in it has other settings. The message says what
            differs. Or: no run of a method has finished.
    """
    plan = Plan(study, folder)
    names = [method.name for method in plan.methods]
    check_claims(map(parse_claim, study.claims), names, plan.tasks, study.metrics)
    with claimed(folder):
        check_unchanged(study, folder)
        study.save(folder)
        carried = Carried(launcher, tell)
        carried.out(plan.trials, "runs of tuning")
        trials, chosen = choose(plan.trials, carried.failed)
        for trial in (trial for trial in trials if trial.chosen):
            tell(f"Tuning chose {trial.words} for {trial.method} {trial.task}".rstrip())
        jobs = plan.runs(plan.untuned | chosen)
        carried.out(jobs, "runs")
        return Comparison(
            [read_outcome(job.entry, study.split) for job in jobs if job.folder not in carried.failed],
            _context(study, folder, jobs, trials, carried, command),
        )


def check_unchanged(study: Study, folder: Path) -> None:
    """Raises `ValueError` if the folder holds another study. The message names each key that differs."""
    if not (folder / FILE).exists():
        return
    old, _ = read_study(folder / FILE)
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
    failed = {job.method.name for job in jobs} - {job.method.name for job in jobs if job.folder not in carried.failed}
    reference, notes = study.reference, []
    if reference in failed:
        reference, notes = "", [f"No run of the reference {reference} finished, so another method takes its place."]
    return Context(
        title=folder.name,
        reference=reference,
        delta=study.delta_m,
        metrics=study.metrics,
        failed=list(carried.failed.values()),
        trials=trials,
        at_a_time=carried.launcher.at_a_time,
        command=command,
        notes=notes,
    )
