"""The command `mtlkit`.

Exit status: 0 for success. 2, with one message on stderr, for a mistake of the user, and if a process that loads data
or another process of the run dies or has no memory. 3 for a run that stopped because a loss is not finite or a
balancer's problem cannot be solved. 75 for a run that SIGTERM, SIGUSR1 or SIGUSR2 stopped after it saved a checkpoint,
or before it began: the same command goes on (`mtlkit train` with --resume). 130 after Ctrl-C. 1, with a traceback, for
any other error. `MTLKIT_DEBUG=1` shows every traceback.
"""

import argparse
import atexit
import importlib.metadata
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mtlkit
from mtlkit.cli import compare as cli_compare
from mtlkit.cli import completion as cli_completion
from mtlkit.cli import configuration as cli_configuration
from mtlkit.cli import data as cli_data
from mtlkit.cli import export as cli_export
from mtlkit.cli import runs as cli_runs
from mtlkit.cli.experiments import experiments, presets, studies
from mtlkit.cli.output import is_main, nobody_reads, print_lines
from mtlkit.cli.parser import Parser
from mtlkit.cli.voices import known_to_all, lost_process, voice
from mtlkit.data.workers import loading_trouble, own_words
from mtlkit.errors import RESUME, USER_ERRORS, StepError, Stopped, for_users
from mtlkit.plain_text import plain, short
from mtlkit.run_folder import CHECKPOINTS

# Torch takes a second to import, and training imports other slow modules. `--help` and a mistake in the words must get
# an answer at once. So a command imports modules inside its function, after it has checked all that it can.
PACKAGE = Path(__file__).parents[1]  # mtlkit itself, with all its packages
FILES = {"experiments": experiments, "presets": presets, "studies": studies}  # the other lists come from registries
LISTS = ("balancers", "tasks", "datasets", "kinds", "encoders", "decoders", *FILES)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in the words `argv` (None: those of the process) and returns the exit status."""
    arguments = _parse(argv)
    result = Outcome()
    try:
        with result.watch(), warnings_in_words():
            arguments.command(arguments, result)
    except KeyboardInterrupt:
        result.status = 130
        _complain("Interrupted.")
    except Stopped as stopped:
        result.status = RESUME
        _complain(f"{stopped} The same command goes on (`mtlkit train` with --resume).")
    if result.status == 0 and "torch" in sys.modules:
        from mtlkit import distributed

        # While Python ends: a thread of torch that still lives then can abort the process of a run that is finished.
        # Not after an error: other processes may be in the middle of a message.
        atexit.register(distributed.leave)
    return result.status


@contextmanager
def warnings_in_words() -> Iterator[None]:
    """Shows mtlkit's own warnings as a sentence, without the line of code that raised them."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *more: Any, **named: Any) -> None:
        if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
            _complain(f"warning: {message}")
        else:
            text = plain(str(message))
            shown(message if text == str(message) else text, category, filename, *more, **named)

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
            if isinstance(error, BrokenPipeError) and nobody_reads():  # such as `mtlkit list balancers | head`
                self.status = 141  # as of a program that SIGPIPE ended
                return
            trouble = loading_trouble(error) or lost_process(error)
            if not (trouble or for_users(error)) or os.environ.get("MTLKIT_DEBUG"):
                raise
            self.status = self.status or (3 if isinstance(error, StepError) else 2)
            _say(voice(f"{job}{trouble or own_words(error)}"))


def train_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Trains one run or, with `--multirun`, several in a row. If one fails, the next ones still run.

    `--multirun` can be called again: it leaves finished runs as they are, resumes begun ones and starts the others.
    """
    if "torch" not in sys.modules and not arguments.cfg:  # whose output is a file
        print_lines(["Loading PyTorch ..."])
    from mtlkit.config.composition import compose
    from mtlkit.config.sweeps import sweep

    with known_to_all():
        cli_runs.trust(arguments, Path(arguments.experiment))  # it may be the config.yaml of a run
        if arguments.cfg:
            _refuse_with_cfg(arguments)
            cli_configuration.print_configuration(arguments.experiment, arguments.overrides)
            return
        jobs = sweep(arguments.experiment, arguments.overrides) if arguments.multirun else [arguments.overrides]
        configs = [compose(arguments.experiment, job) for job in jobs]  # all are checked before the first one starts
        cli_runs.trust(arguments, *(Path(config.output_dir) for config in configs))

    from mtlkit.console import Console
    from mtlkit.run.experiment import Experiment
    from mtlkit.run.progress import bring_to_end

    experiments = [Experiment(config, job) for config, job in zip(configs, jobs, strict=True)]
    resume = arguments.resume_from or arguments.resume
    if not arguments.multirun:
        only = experiments[0]
        _summarise(only.run(resume=resume, observers=[Console(only.folder)]))
        return
    for number, experiment in enumerate(experiments, 1):
        folder = experiment.folder
        print_lines([f"Job {number} of {len(experiments)}: {folder}"])
        with result.watch(f"{folder}: "):
            try:
                if resume:
                    experiment.run(resume=resume, observers=[Console(folder)])
                elif not bring_to_end(experiment.config, [Console(folder)]):
                    print_lines(["It has finished already."])
                _summarise(folder)
            except RuntimeError as error:
                if isinstance(error, StepError) or loading_trouble(error) or lost_process(error):
                    raise
                # For example, the GPU's memory is too small for this job.
                sys.stderr.write(plain(traceback.format_exc()))
                result.status = result.status or 1


def _refuse_with_cfg(arguments: argparse.Namespace) -> None:
    for option in ("multirun", "resume", "resume_from"):
        if getattr(arguments, option):
            raise ValueError(f"--cfg shows the configuration of one new run. Leave --{option.replace('_', '-')} out.")


def _summarise(run: Path) -> None:
    """Prints the figures of a run beside those of the untrained start and of constant predictions."""
    from mtlkit.report import summary
    from mtlkit.terminal import Terminal

    if is_main():
        terminal = Terminal()
        for part in summary(run):
            terminal.print(part, highlight=False, crop=False)


def list_command(arguments: argparse.Namespace, result: Outcome) -> None:
    """Prints all names of a kind, one per line with a description; balancers and presets also as a Markdown page."""
    kind = arguments.kind
    if arguments.markdown:
        from mtlkit.cli.pages import page

        print_lines([page(kind).rstrip("\n")])
        return
    known = FILES[kind]() if kind in FILES else getattr(mtlkit, kind.upper()).described()
    width = max(map(len, known), default=0)
    print_lines(f"{name:<{width}}  {line}".rstrip() for name, line in known.items())
    if kind == "encoders":
        print_lines(["", "model.encoder also takes the name of any timm model: timm.list_models() lists them."])


def _complain(message: str) -> None:
    if is_main():
        _say(message)


def _say(message: str) -> None:
    if message:
        sys.stderr.write(f"mtlkit: {plain(short(message, 4000))}\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("mtlkit", allow_abbrev=False)
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
    sub.add_argument("--resume-from", choices=CHECKPOINTS, help="the same, from another checkpoint than its last")
    sub.add_argument(
        "-m", "--multirun", action="store_true", help="one run per combination of key=a,b; it can be called again"
    )
    sub.add_argument("--cfg", action="store_true", help="print the configuration and its sources, and train nothing")
    cli_runs.add_trust(sub)
    cli_compare.add_commands(add)
    cli_runs.add_commands(add)
    cli_export.add_commands(add)
    text = "Look at a data set, or prepare it for fast loading."
    data = parser.add_command(commands, "data", text)
    cli_data.add_commands(partial(add, above=(data, data.add_subparsers(required=True, metavar="COMMAND"))))
    sub = add("list", list_command, "List what you can choose, one per line with a description.")
    sub.add_argument("kind", metavar="KIND", choices=LISTS, help=", ".join(LISTS))
    sub.add_argument("--markdown", action="store_true", help="as the page of docs/: balancers and presets")

    cli_configuration.add_commands(add)
    cli_completion.add_command(add)
    if cli_completion.asked():  # by a shell; it prints candidates and ends the process
        cli_completion.complete(parser)

    words = list(sys.argv[1:] if argv is None else argv)
    if not words:  # as git: it helps, and a script whose words are missing does not count it as a success
        print_lines(parser.format_help().splitlines())
        parser.exit(2)
    arguments, rest = parser.parse_known_args(words)
    # argparse does not parse words after an option: mtlkit train scenes --multirun seed=0,1
    unknown = [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]
    if unknown:
        arguments.parser.refuse(unknown, words, settings=hasattr(arguments, "overrides"))
    if hasattr(arguments, "overrides"):
        arguments.overrides += rest
    return arguments
