"""The command `mtlkit compare`: a study of methods, or a comparison of runs that exist."""

import argparse
import importlib.resources
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlkit.cli.output import aligned, print_lines
from mtlkit.cli.runs import add_trust, trust
from mtlkit.run_folder import CONFIG, STUDY
from mtlkit.splits import SPLITS

if TYPE_CHECKING:
    from mtlkit.study.definition import Study

OF_STUDY = {"methods", "seeds", "claims", "reference", "tune", "baselines"}  #: keys by which a file is a study


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command. `add(name, command, text)` returns its parser."""
    sub = add("compare", compare_command, "Compare methods by many runs, or compare runs that exist.")
    sub.add_argument(
        "experiment",
        metavar="WHAT",
        help="an experiment; a study (a YAML file, or a name of configs/study); or the folders of runs",
    )
    sub.add_argument("overrides", metavar="key=value", nargs="*", help="key=a,b makes methods; seed=0,1,2 repeats them")
    sub.add_argument("--plan", action="store_true", help="print the runs and an estimate of time and disk, and stop")
    sub.add_argument("--no-baselines", action="store_true", help="make no single-task runs")
    sub.add_argument("--tune", metavar="KEY=A,B", action="append", help="choose it per method, on validation data")
    sub.add_argument("--tune-seeds", metavar="A,B", type=_numbers, help="the seeds of tuning (1000)")
    sub.add_argument("--static-weights", metavar="N", type=int, help="also the best of N fixed weightings")
    sub.add_argument("--reference", metavar="NAME", help="the method that the others are compared with (the first one)")
    sub.add_argument("--metrics", metavar="A,B", type=_names, help="count only these, as task/metric")
    sub.add_argument("--split", choices=SPLITS, help="measure on this split (default: the logged figures)")
    sub.add_argument("--delta-m", metavar="KEY=VALUE", type=_options, help="average=metrics,better=negative,...")
    sub.add_argument("--all-definitions", action="store_true", help="show delta-m in all definitions")
    add_trust(sub)
    sub.add_argument("--jobs", metavar="N", type=int, help="runs at a time, by submitit, each on a GPU of its own")
    sub.add_argument(
        "--launcher",
        metavar=("NAME", "key=value"),
        nargs="+",
        help="local, slurm or debug, and parameters of submitit; comes last",
    )


def compare_command(arguments: argparse.Namespace, result: Any) -> None:
    """Carries out a study and writes its results, or compares runs."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("mtlkit compare is one process, which starts the runs: --jobs and --launcher say how many.")
    what, words = arguments.experiment, arguments.overrides
    if any(_is_run(word) for word in (what, *words)) or any("=" not in word for word in words if word[:1] != "~"):
        _compare_runs([what, *words], arguments)
        return
    from mtlkit.study.conduct import run_study
    from mtlkit.study.definition import read_study, study_of
    from mtlkit.study.results import show, write_all

    trust(arguments, Path(what))  # it may be the config.yaml of a run
    file, asked = _study_file(what), _asked(arguments)
    study, folder = (
        study_of(what, words, **asked)
        if file is None
        else read_study(file, words, trust_plugins=arguments.trust_plugins, **asked)
    )
    if arguments.plan:
        _print_plan(study, folder, arguments.jobs or 1)
        return
    launcher = _launcher(arguments, folder)
    comparison = run_study(study, folder, launcher, _say, shlex.join(["mtlkit", *sys.argv[1:]]))
    verdicts = write_all(comparison, folder, study.claims, all_definitions=study.all_definitions)
    show(comparison, folder, verdicts)
    if comparison.context.failed:
        result.status = 2


def _is_run(word: str) -> bool:
    return (Path(word) / CONFIG).exists()


def _compare_runs(words: list[str], arguments: argparse.Namespace) -> None:
    given = dict(word.split("=", 1) for word in words if word.startswith("output_dir="))
    runs = [Path(word) for word in words if not word.startswith("output_dir=")]  # a run's name may have a = in it
    if wrong := [run for run in runs if "=" in str(run) and not run.exists()]:
        raise ValueError(f"{wrong[0]} is no folder. For runs that exist, the only key is output_dir=FOLDER.")
    folder = Path(given.get("output_dir", "studies/comparison"))
    if (folder / STUDY).exists():
        raise FileExistsError(f"{folder} holds a study, whose results would be overwritten. Choose another output_dir.")
    asked = _asked(arguments)
    if alone := [key for key in asked if key in ("baselines", "tune", "tune_seeds", "static_weights")]:
        raise ValueError(f"--{alone[0].replace('_', '-')} is about runs that are still to be made.")
    for option in ("plan", "jobs", "launcher"):
        if getattr(arguments, option):
            raise ValueError(f"--{option} is about runs that are still to be made.")
    trust(arguments, *runs)
    from mtlkit.study.existing import compare_runs
    from mtlkit.study.results import show, write_all

    all_definitions = asked.pop("all_definitions", False)
    comparison = compare_runs(runs, shlex.join(["mtlkit", *sys.argv[1:]]), **asked)
    folder.mkdir(parents=True, exist_ok=True)
    write_all(comparison, folder, all_definitions=all_definitions)
    show(comparison, folder)


def _print_plan(study: "Study", folder: Path, at_a_time: int) -> None:
    from mtlkit.study.checks import check_study
    from mtlkit.study.estimate import estimate, in_words
    from mtlkit.study.plan import Plan

    plan = Plan(study, folder)
    check_study(plan)
    lines = estimate(plan, _say)
    _say("")
    print_lines(aligned(in_words(lines, at_a_time)))
    _say(f"\nEstimated from a few measured steps of each method, on this machine. The folder is {folder}.")


def _say(line: str) -> None:
    print_lines([line])


def _study_file(what: str) -> Path | None:
    """Returns the file of a study: a YAML file that names methods, a folder with a study, or one of configs/study."""
    path = Path(what)
    if (path / STUDY).is_file():
        return path / STUDY
    if path.suffix in (".yaml", ".yml"):
        from mtlkit.config.yaml_files import read_mapping

        return path if read_mapping(path).keys() & OF_STUDY else None
    if path.is_dir():
        runs = any(path.glob(f"*/{CONFIG}"))
        raise ValueError(
            f"{path} is a folder without a {STUDY} and no run. "
            + (f"It holds runs: mtlkit compare {path}/* compares them." if runs else "Name an experiment.")
        )
    packaged = importlib.resources.files("mtlkit.configs") / "study" / f"{what}.yaml"
    return Path(str(packaged)) if packaged.is_file() else None


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the keys of a study that the options of the command set."""
    given = {
        "baselines": False if arguments.no_baselines else None,
        "tune": tuple(arguments.tune or ()) or None,
        "tune_seeds": arguments.tune_seeds,
        "static_weights": arguments.static_weights,
        "reference": arguments.reference,
        "metrics": arguments.metrics,
        "split": arguments.split,
        "delta_m": arguments.delta_m,
        "all_definitions": arguments.all_definitions or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _launcher(arguments: argparse.Namespace, folder: Path) -> Any:
    from mtlkit.study.launch import LAUNCHERS, Here, Submitit

    if arguments.launcher is None and arguments.jobs is None:
        return Here()
    name, *options = arguments.launcher or ["local"]
    if name not in LAUNCHERS:
        raise ValueError(f"--launcher: expected one of {', '.join(LAUNCHERS)}, found {name!r}.")
    if wrong := [word for word in options if "=" not in word]:
        raise ValueError(f"--launcher {name}: expected key=value, found {wrong[0]!r}. --launcher comes last.")
    jobs = arguments.jobs if arguments.jobs is not None or name == "slurm" else 1
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs: expected 1 or more, found {jobs}.")
    parameters = {key: _value(value) for key, _, value in (word.partition("=") for word in options)}
    return Submitit(name, folder / "jobs", jobs, parameters)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 100,101, found {text!r}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _options(text: str) -> dict[str, Any]:
    """Reads key=value pairs with commas between them."""
    parts = [part.partition("=") for part in text.split(",")]
    if wrong := [key for key, equals, _ in parts if not equals]:
        raise argparse.ArgumentTypeError(f"expected key=value, found {wrong[0]!r}")
    return {key: _value(value) for key, _, value in parts}


def _value(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
