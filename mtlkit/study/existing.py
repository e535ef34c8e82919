"""Compares runs that exist already."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mtlkit.config.composition import read_config
from mtlkit.data.dataset import Split
from mtlkit.registry import suggest
from mtlkit.run.progress import NO_MATTER, progress_of
from mtlkit.run.resume import flat
from mtlkit.run_folder import CONFIG, check_run
from mtlkit.study.checks import check_delta_m
from mtlkit.study.comparison import Comparison, Context
from mtlkit.study.outcome import SINGLE, Entry, read_outcome

#: Settings that distinguish methods. All others must be equal: then the runs are of one experiment.
OF_METHODS = ("balancer.*", "preset*", "trainer.*", "protocol")
SAME = (
    "trainer.selection",
    "trainer.max_steps",
    "trainer.max_epochs",
)  #: of the trainer, these make figures comparable
OF_RUNS = (*NO_MATTER, "experiment", "seed", "plugins", "deterministic", "trainer.log_every", "trainer.save_every")


def entries_of(runs: Sequence[Path]) -> list[Entry]:
    """Returns the places of finished runs in a comparison: their methods, by configuration, and their seeds.

    A method is called after its balancer, with the settings by which methods of one balancer differ. If there are runs
    of several tasks, a run of one of these tasks alone is single-task training.

    Raises `FileNotFoundError` for a folder without a run, and `ValueError` for a run that has not finished or is of
    another experiment: another data set, model, task, length or selection. The message names what differs.
    """
    configs: dict[Path, dict[str, Any]] = {}
    for run in runs:
        check_run(run, CONFIG)
        if (progress := progress_of(run)) != "finished":
            raise ValueError(f"{run} has not finished ({progress}). mtlkit train ... --resume brings it to its end.")
        configs[run] = dict(flat(read_config(run / CONFIG).to_dict()))
    several = [run for run in runs if len(_tasks(configs[run])) > 1]
    _check_alike(configs, several or list(runs))
    names = _names({run: configs[run] for run in several or runs})
    return [
        Entry(names[run], _seed(configs[run]), run)
        if run in names
        else Entry(SINGLE, _seed(configs[run]), run, _tasks(configs[run])[0])
        for run in runs
    ]


def compare_runs(
    runs: Sequence[Path],
    command: str = "",
    *,
    reference: str = "",
    metrics: Sequence[str] = (),
    split: Split | None = None,
    delta_m: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compares finished runs. The arguments are keys of a `Study`. Raises what `entries_of` and `Comparison` do."""
    entries = entries_of(runs)
    if reference and reference not in (names := {entry.method for entry in entries}):
        raise LookupError(f"reference: no method is called {reference!r}. {suggest(reference, names)}")
    check_delta_m(delta_m or {}, metrics, _tasks(dict(flat(read_config(runs[0] / CONFIG).to_dict()))))
    notes = list(_unlike(entries))
    context = Context("comparison", reference, delta_m or {}, metrics, command=command, notes=notes)
    return Comparison([read_outcome(entry, split) for entry in entries], context)


def _unlike(entries: Sequence[Entry]) -> Iterator[str]:
    """Says which settings of training differ between runs, single-task ones included: names show only some of them."""
    configs = {entry: dict(flat(read_config(entry.run / CONFIG).to_dict())) for entry in entries}
    keys = {key for config in configs.values() for key in config if fnmatchcase(key, "trainer.*")}
    # A single-task run may lack these two, and the remark on the rule of selection speaks of them.
    left_out = ("trainer.monitor", "trainer.baseline*", *OF_RUNS)
    for key in sorted(key for key in keys if not any(fnmatchcase(key, pattern) for pattern in left_out)):
        found: dict[str, dict[str, None]] = {}
        for entry, config in configs.items():
            name = " of ".join(filter(None, (entry.method, entry.task)))
            found.setdefault(repr(config.get(key)), {})[name] = None
        if len(found) > 1:
            parts = "; ".join(f"{value}: {', '.join(names)}" for value, names in found.items())
            yield f"Not equal for all: {key}. {parts}."


def _tasks(config: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key.split(".")[1] for key in config if key.startswith("task.")))


def _seed(config: Mapping[str, Any]) -> int:
    return int(config["seed"])


def _check_alike(configs: Mapping[Path, Mapping[str, Any]], several: Sequence[Path]) -> None:
    """Raises `ValueError` if two runs are of different experiments."""
    first = several[0]
    for run, config in configs.items():
        keys = {key for key in configs[first].keys() | config.keys() if _counts(key)}
        if run not in several:  # a single-task run lacks the other tasks
            keys = {key for key in keys if not key.startswith("task.") or key.split(".")[1] in _tasks(config)}
        differ = [key for key in sorted(keys) if configs[first].get(key) != config.get(key)]
        if differ:
            shown = "; ".join(f"{key} is {configs[first].get(key)!r} and {config.get(key)!r}" for key in differ)
            raise ValueError(f"{first} and {run} are runs of different experiments: {shown}.")


def _counts(key: str) -> bool:
    if key in SAME:
        return True
    return not any(fnmatchcase(key, pattern) for pattern in (*OF_METHODS, *OF_RUNS))


def _names(configs: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """Names the method of each run: its balancer, and the settings that differ between methods of that balancer."""
    settings = {
        run: {
            key: value
            for key, value in config.items()
            if any(fnmatchcase(key, pattern) for pattern in OF_METHODS) and key not in OF_RUNS
        }
        for run, config in configs.items()
    }
    names = {}
    for run, own in settings.items():
        like = [other for other in settings.values() if other["balancer.name"] == own["balancer.name"]]
        differ = sorted(
            {key for other in like for key in other if other[key] != own.get(key)}
            | {key for other in like for key in own if key not in other}
        )
        parts = [f"{key.removeprefix('balancer.')}={own[key]}" for key in differ if key in own]
        names[run] = " ".join([str(own["balancer.name"]), *parts])
    return names
