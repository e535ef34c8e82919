"""The command `mtlkit`.

Exit status: 0 for success. 2, with one message on stderr, for a mistake of the user, and if a process that loads data
dies or has no memory. 3 for a run that stopped because a loss is not finite or a balancer's problem cannot be solved.
130 after Ctrl-C. 1, with a traceback, for any other error. `MTLKIT_DEBUG=1` shows every traceback.
"""

import argparse
import importlib.metadata
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mtlkit
from mtlkit.cli import data as cli_data
from mtlkit.cli import export as cli_export
from mtlkit.cli.experiments import experiments, presets
from mtlkit.cli.parser import EXAMPLES, Parser
from mtlkit.data.workers import loading_trouble, own_words
from mtlkit.errors import StepError
from mtlkit.run_folder import CONFIG, LOG, check_run
from mtlkit.splits import SPLITS

# Torch takes a second to import, and training imports other slow modules. `--help` and a mistake in the words must get
# an answer at once. So a command imports modules inside its function, after it has checked all that it can.
USER_ERRORS = (ValueError, LookupError, OSError)
PACKAGE = Path(__file__).parents[1]  # mtlkit itself, with all its packages
BUGS = (KeyError, IndexError)  # LookupErrors that come from a fault in the program, not from a wrong word
FILES = {"experiments": experiments, "presets": presets}  # the other lists come from registries
LISTS = ("balancers", "tasks", "datasets", "kinds", "encoders", "decoders", *FILES)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in the words `argv` (None: those of the process) and returns the exit status."""
    arguments = _parse(argv)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that the plug-ins of a lab need no installation
    result = Outcome()
    try:
        with result.watch(), warnings_in_words():
            arguments.command(arguments, result)
    except KeyboardInterrupt:
        result.status = 130
        _complain("Interrupted.")
    return result.status


@contextmanager
def warnings_in_words() -> Iterator[None]:
    """Shows mtlkit's own warnings as a sentence, without the line of code that raised them."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *more: Any, **named: Any) -> None:
        if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
            _complain(f"warning: {message}")
        else:
            shown(message, category, filename, *more, **named)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


class Outcome:
    """The exit status: that of the first failure."""

    status = 0

    @contextmanager
    def watch(self, job: str = "") -> Iterator[None]:
        """Turns the errors that a user can understand into a message and a status."""
        try:
            yield
        except (*USER_ERRORS, RuntimeError, MemoryError) as error:
            loading = loading_trouble(error)
            known = loading or (isinstance(error, (StepError, *USER_ERRORS)) and not isinstance(error, BUGS))
            if not known or os.environ.get("MTLKIT_DEBUG"):
                raise
            self.status = self.status or (3 if isinstance(error, StepError) else 2)
            _complain(f"{job}{loading or own_words(error)}", everywhere=bool(loading))


def train_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Trains one run or, with `--multirun`, several in a row. If one fails, the next ones still run."""
    from mtlkit.config.composition import compose, sweep

    jobs = sweep(arguments.experiment, arguments.overrides) if arguments.multirun else [arguments.overrides]
    configs = [compose(arguments.experiment, job) for job in jobs]  # all are checked before the first one starts

    from mtlkit.run.console import Console
    from mtlkit.run.experiment import Experiment

    experiments = [Experiment(config, job) for config, job in zip(configs, jobs, strict=True)]
    if not arguments.multirun:
        _summarise(experiments[0].run(resume=arguments.resume, observers=[Console()]))
        return
    for number, experiment in enumerate(experiments, 1):
        folder = experiment.config.output_dir
        _print([f"Job {number} of {len(experiments)}: {folder}"])
        with result.watch(f"{folder}: "):
            try:
                _summarise(experiment.run(resume=arguments.resume, observers=[Console()]))
            except RuntimeError as error:
                if isinstance(error, StepError) or loading_trouble(error):
                    raise
                traceback.print_exc()  # for example, the GPU's memory is too small for this job
                result.status = result.status or 1


def _summarise(run: Path) -> None:
    """Prints the figures of a run beside those of the untrained start and of constant predictions."""
    from rich.console import Console

    from mtlkit.report import summary_table

    if _is_main():
        Console().print(summary_table(run))
        _print([f"Report: {run / 'report.html'}"])


def evaluate_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Prints losses and metrics of a run."""
    check_run(arguments.run, CONFIG)
    from mtlkit.run.inference import evaluate_run

    figures = evaluate_run(arguments.run, arguments.split, arguments.checkpoint)
    width = max(map(len, figures), default=0)
    _print(f"{name:<{width}}  {'-' if value is None else f'{value:.6g}'}" for name, value in figures.items())


def predict_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Writes arrays and pictures of every task."""
    check_run(arguments.run, CONFIG)
    from mtlkit.run.inference import predict_files

    _print(map(str, predict_files(arguments.run, arguments.images, arguments.out, arguments.checkpoint)))


def report_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Writes report.html again."""
    check_run(arguments.run, LOG, CONFIG)
    from mtlkit.report import write_report

    _print([str(write_report(arguments.run))])


def explain_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Prints which tasks conflicted and what the balancer did with their gradients."""
    check_run(arguments.run, LOG, CONFIG)
    from rich.console import Console

    from mtlkit.report import explain

    tables = explain(arguments.run)
    if _is_main():
        Console().print(*tables, highlight=False, sep="\n")


def list_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Prints all names of a kind, one per line with a description; balancers and presets also as a Markdown page."""
    kind = arguments.kind
    if arguments.markdown:
        from mtlkit.cli.pages import page

        _print([page(kind).rstrip("\n")])
        return
    known = FILES[kind]() if kind in FILES else getattr(mtlkit, kind.upper()).described()
    width = max(map(len, known), default=0)
    _print(f"{name:<{width}}  {line}".rstrip() for name, line in known.items())
    if kind == "encoders":
        _print(["", "model.encoder also takes the name of any timm model: timm.list_models() lists them."])


def _print(lines: Iterable[str]) -> None:
    if _is_main():
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()


def _complain(message: str, everywhere: bool = False) -> None:
    if everywhere or _is_main():  # problems that the main process may not have
        sys.stderr.write(f"mtlkit: {message}\n")


def _is_main() -> bool:
    """Returns whether this process prints. Launchers set RANK before anything is initialised."""
    return os.environ.get("RANK", "0") == "0"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "mtlkit",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("mtlkit"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., None], text: str, above: Any = (parser, commands)) -> Parser:
        added = above[0].add_command(above[1], name, text)
        added.set_defaults(command=command, parser=added)
        return added

    sub = add("train", train_command, "Train as an experiment's configuration says.")
    sub.add_argument("experiment", metavar="EXPERIMENT", help="a name (mtlkit list experiments) or a YAML file")
    sub.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, as in Hydra: trainer.lr=0.01")
    sub.add_argument("--resume", action="store_true", help="continue the run in output_dir, exactly")
    sub.add_argument(
        "-m", "--multirun", action="store_true", help="one run per combination of key=a,b; folders in output_dir"
    )
    sub = add("evaluate", evaluate_command, "Print losses and metrics of a run.")
    _add_run(sub)
    sub.add_argument("--split", choices=SPLITS, help="default: the split that it validated on")
    sub = add("predict", predict_command, "Write predictions for image files, as arrays and pictures.")
    _add_run(sub)
    sub.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    sub.add_argument("--out", metavar="DIR", type=Path, required=True, help="gets one folder per image")
    sub = add("report", report_command, "Write a run's report.html again.")
    sub.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    sub = add("explain", explain_command, "Show which tasks of a run conflicted and what the balancer did about it.")
    sub.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    cli_export.add_commands(add, _add_run)
    data = parser.add_command(commands, "data", "Look at a data set, or prepare it for fast loading.")
    cli_data.add_commands(partial(add, above=(data, data.add_subparsers(required=True, metavar="COMMAND"))))
    sub = add("list", list_command, "List what you can choose, one per line with a description.")
    sub.add_argument("kind", metavar="KIND", choices=LISTS, help=", ".join(LISTS))
    sub.add_argument("--markdown", action="store_true", help="as the page of docs/: balancers and presets")

    words = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser.parse_known_args(words)
    # argparse does not parse words after an option: mtlkit train scenes --multirun seed=0,1
    unknown = [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]
    if unknown:
        arguments.parser.refuse(unknown, words, settings=hasattr(arguments, "overrides"))
    if hasattr(arguments, "overrides"):
        arguments.overrides += rest
    return arguments


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="default: the one of its results")
