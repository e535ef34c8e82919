"""What is checked before the first run of a study, so that no mistake shows only after hours of training."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mtlkit.config.schema import Config
from mtlkit.data.dataset import Dataset
from mtlkit.engine.evaluation import directions
from mtlkit.engine.monitor import Monitor
from mtlkit.log import class_key
from mtlkit.registry import suggest
from mtlkit.run.build import build_dataset, build_tasks, check_targets
from mtlkit.run.progress import progress_of
from mtlkit.study.claims import check_claims, parse_claim
from mtlkit.study.definition import Study
from mtlkit.study.delta_m import definition_of
from mtlkit.study.plan import Job, Plan

SIZE = (64, 64)  #: of a picture; which metrics a task has does not depend on it


def check_study(plan: Plan) -> None:
    """Raises `ValueError` or `LookupError` for whatever in a study would fail, or mean nothing, after its runs.

    It opens the data sets of the runs that are still to be made, also those of the split that is measured at the end.
    One message about a missing file is better than a failure of every run.
    """
    study = plan.study
    names = list(dict.fromkeys(method.name for method in plan.methods))
    if study.reference and study.reference not in names:
        raise LookupError(f"reference: the study has no method {study.reference!r}. {suggest(study.reference, names)}")
    claims = [parse_claim(claim) for claim in study.claims]
    check_claims(claims, names, plan.tasks, study.metrics)
    check_delta_m(study.delta_m, study.metrics, plan.tasks)
    jobs = [*plan.trials, *plan.runs({method.label: method.candidates[0] for method in plan.methods})]
    _check_alike(jobs)
    waiting = [job for job in jobs if progress_of(job.folder) not in ("finished", "diverged")]
    opened = _open_data(waiting, study)
    different = {repr((job.config.data, job.config.task, job.config.trainer)): job.config for job in waiting}
    # The longest list is that of a run with all tasks.
    known = max((_metrics(config, opened[repr(config.data)]) for config in different.values()), key=len, default=[])
    if known:
        check_metrics(study.metrics, known)
        check_claims(claims, names, plan.tasks, study.metrics or known)


def check_delta_m(options: Mapping[str, Any], metrics: Sequence[str], tasks: Collection[str]) -> None:
    """Raises `ValueError` or `LookupError` for an unknown option of delta-m, value of one, or task."""
    counted = metrics or [f"{task}/figure" for task in tasks]
    definition_of(dict.fromkeys(counted, True), options)


def check_metrics(wanted: Iterable[str], known: Collection[str]) -> None:
    """Raises `LookupError` for a metric that does not exist, or for which neither direction is better."""
    for key in wanted:
        if key not in known:
            raise LookupError(f"metrics: no run has the metric {key!r}. {suggest(key, known)}")


def _check_alike(jobs: Sequence[Job]) -> None:
    """Raises `ValueError` if methods differ in what their figures mean."""
    for key in ("trainer.selection", "data.validation", "data.name"):
        section, _, name = key.partition(".")
        found: dict[str, str] = {}
        for job in jobs:
            found.setdefault(repr(getattr(getattr(job.config, section), name)), job.method.label)
        if len(found) > 1:
            shown = ", ".join(f"{value} in {method}" for value, method in found.items())
            raise ValueError(f"{key}: it is {shown}. Their figures cannot be compared: give all methods one value.")


def _open_data(jobs: Sequence[Job], study: Study) -> dict[str, Dataset]:
    """Opens the data sets of the runs and returns those of training by their configuration."""
    found = {}
    for config in {repr(job.config.data): job.config for job in jobs}.values():
        found[repr(config.data)] = build_dataset(config, "train")
        for split in dict.fromkeys((config.data.validation, study.split or config.data.validation)):
            build_dataset(config, split)
    return found


def _metrics(config: Config, data: Dataset) -> list[str]:
    """Returns the metrics of a run for which it is known whether higher or lower is better.

    Raises `ValueError` for a task without a target, and for a wrong `trainer.monitor` or `trainer.baseline`.
    """
    check_targets(config, data.targets, data.notes)
    tasks = build_tasks(config.task, data.targets, SIZE)
    Monitor(tasks, config.trainer.monitor, config.trainer.baseline)
    return [key for key, higher in directions(tasks).items() if higher is not None and not class_key(key)]
