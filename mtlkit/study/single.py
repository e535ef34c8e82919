"""The figures of single-task training beside those of a run, for the run's page."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mtlkit.config.sweeps import safe_name
from mtlkit.config.yaml_files import read_mapping
from mtlkit.log import class_key
from mtlkit.report import write_report
from mtlkit.report.history import History
from mtlkit.run.progress import progress_of
from mtlkit.run_folder import CONFIG, LOG, STUDY
from mtlkit.study.definition import read_methods
from mtlkit.study.methods import base_of, static_name


def single_task(run: Path) -> dict[str, float]:
    """Returns the figures of single-task training for a run of a study: by "<task>/<metric>", for each of its tasks.

    They are those of the finished single-task runs of the same study and seed, by their own selection. The result is
    empty for a run of no study, for a single-task run, and where none has finished. Raises `ValueError` for a damaged
    file of the study or of these runs.
    """
    run = run.resolve()  # the study is found by the names of the folders around it
    label, _, seed = run.name.rpartition(",seed=")
    study = run.parent.parent / STUDY
    if run.parent.name != "runs" or not seed.isdecimal() or not study.is_file():
        return {}
    base = _base(label, read_methods(read_mapping(study).get("methods"), study))
    tasks = read_mapping(run / CONFIG).get("task") if (run / CONFIG).is_file() else None
    found: dict[str, float] = {}
    for task in tasks if base and isinstance(tasks, Mapping) else ():
        single = run.parent / f"{safe_name(f'{base} {task}')},seed={seed}"
        if (single / LOG).is_file() and progress_of(single) == "finished":
            figures = History(single).trained
            keys = [key for key in figures if key.startswith(f"{task}/") and not class_key(key)]
            found |= {key: figures[key] for key in keys if figures[key] is not None}
    return found


def write_reports(runs: Iterable[Path]) -> None:
    """Writes the pages of runs of a study again, with the figures of single-task training, where there are any."""
    for run in runs:
        if single := single_task(run):
            write_report(run, single=single)


def _base(label: str, methods: Mapping[str, str]) -> str:
    """Returns the name of the single-task runs of the method whose folders begin with `label`, or ""."""
    bases = {name: base_of(words) for name, words in methods.items()}
    bases |= {static_name(base): base for base in bases.values()}
    return next((base for name, base in bases.items() if safe_name(name) == label), "")
