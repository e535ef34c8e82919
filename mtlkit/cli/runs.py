"""The commands for a run that exists: `evaluate`, `predict`, `report` and `explain`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtlkit.cli.output import aligned, is_main, print_lines
from mtlkit.log import class_key, class_tables
from mtlkit.run_folder import CHECKPOINTS, CONFIG, LOG, check_run
from mtlkit.splits import SPLITS


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands. `add(name, command, text)` returns the parser of a command."""
    sub = add("evaluate", evaluate_command, "Print losses and metrics of a run.")
    add_run(sub)
    sub.add_argument("overrides", metavar="key=value", nargs="*", help="keys that may change, such as data.root=PATH")
    sub.add_argument("--split", choices=SPLITS, help="default: the split that it validated on")
    sub.add_argument("--classes", action="store_true", help="also the figures of single classes")
    sub.add_argument("--json", action="store_true", help="print one JSON object, with the keys of metrics.jsonl")
    sub = add("predict", predict_command, "Write predictions for images, as arrays and pictures.")
    add_run(sub)
    sub.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files and folders of images")
    sub.add_argument("--out", metavar="DIR", type=Path, required=True, help="gets one folder per image")
    sub.add_argument("--tasks", metavar="A,B", type=lambda text: text.split(","), help="only these tasks")
    sub.add_argument("--no-arrays", action="store_true", help="write pictures only")
    sub.add_argument("--batch", metavar="N", type=int, default=1, help="images per pass through the model (1)")
    sub = add("report", report_command, "Write a run's report.html again.")
    sub.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    sub = add("explain", explain_command, "Show which tasks of a run conflicted and what the balancer did about it.")
    sub.add_argument("run", metavar="RUN", type=Path, help="a run's folder")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the words that name a run and one of its checkpoints."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, help="default: the one of its results")
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the word that lets a run's own file name modules to import."""
    parser.add_argument(
        "--trust-plugins", action="store_true", help="import modules that a run's own file names and nobody installed"
    )


def trust(arguments: argparse.Namespace, *runs: Path) -> None:
    """Imports the modules that the files of these runs name, if the user has said so."""
    if arguments.trust_plugins:
        from mtlkit.config.plugins import import_trusted  # it reads YAML files, which is slow to import

        for run in runs:
            import_trusted(run)


def evaluate_command(arguments: argparse.Namespace, result: Any) -> None:
    """Prints losses and metrics of a run."""
    check_run(arguments.run, CONFIG)
    trust(arguments, arguments.run)
    from mtlkit.run.inference import evaluate_run

    figures = evaluate_run(
        arguments.run, arguments.split, arguments.checkpoint, arguments.overrides, classes=arguments.classes
    )
    if arguments.json:
        print_lines([json.dumps(figures)])
        return
    print_lines(aligned((name, _text(value)) for name, value in figures.items() if not class_key(name)))
    for task, (metrics, classes) in class_tables(figures).items():
        rows = [(label, *map(_text, values)) for label, values in classes.items()]
        print_lines(["", *aligned([(task, *metrics), *rows])])


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def predict_command(arguments: argparse.Namespace, result: Any) -> None:
    """Writes arrays and pictures of every task."""
    check_run(arguments.run, CONFIG)
    trust(arguments, arguments.run)
    from mtlkit.run.predicting import predict_files

    folders = predict_files(
        arguments.run,
        arguments.images,
        arguments.out,
        arguments.checkpoint,
        tasks=arguments.tasks,
        arrays=not arguments.no_arrays,
        batch=arguments.batch,
    )
    print_lines(map(str, folders))


def report_command(arguments: argparse.Namespace, result: Any) -> None:
    """Writes report.html again."""
    check_run(arguments.run, LOG, CONFIG)
    from mtlkit.report import write_report
    from mtlkit.study.single import single_task

    print_lines([str(write_report(arguments.run, single=single_task(arguments.run)))])


def explain_command(arguments: argparse.Namespace, result: Any) -> None:
    """Prints which tasks conflicted and what the balancer did with their gradients."""
    check_run(arguments.run, LOG, CONFIG)
    from mtlkit.report import explain
    from mtlkit.terminal import Terminal

    tables = explain(arguments.run)
    if is_main():
        Terminal().print(*tables, highlight=False, sep="\n")
