"""The commands `mtlkit data show` and `mtlkit data prepare`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mtlkit.cli.output import print_lines
from mtlkit.cli.runs import add_trust, trust
from mtlkit.config.schema import Config
from mtlkit.splits import SPLITS, Split

if TYPE_CHECKING:  # it imports torch, which the command-line parser does not need
    from mtlkit.data.dataset import BadSampleError, Dataset


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds `show` and `prepare`. `add(name, command, text)` returns the parser of a command."""
    sub = add("show", show_command, "Show what was found: layout, samples, size, share of valid labels, class shares.")
    _add_words(sub)
    sub.add_argument("--samples", metavar="N", type=int, default=200, help="look at N samples per split (0: all; 200)")
    sub = add("prepare", prepare_command, "Write the data in mtlkit's fast format, which training reads, too.")
    _add_words(sub)
    sub.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to write, or to continue")
    text = "splits to prepare (default: all that there are; with data.validation=test: train and test)"
    sub.add_argument("--splits", nargs="+", choices=SPLITS, help=text)
    sub.add_argument("--workers", metavar="N", type=int, default=0, help="reading processes")


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a name (mtlkit list experiments) or a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="as for training: data.root=PATH")
    add_trust(parser)


def show_command(arguments: argparse.Namespace, result: Any) -> None:
    """Prints what was found, and a summary of every split that the experiment uses."""
    from mtlkit.config.composition import compose
    from mtlkit.data.ranges import suspicions

    if arguments.samples < 0:
        raise ValueError(f"--samples must not be negative, got {arguments.samples}.")
    trust(arguments, Path(arguments.experiment))
    config = compose(arguments.experiment, arguments.overrides)
    found, problems = _splits(config)
    for split, problem in problems.items():
        with result.watch(f"{split}: "):
            raise problem
    first, *_ = found.values()
    everywhere = [note for note in first.notes if all(note in dataset.notes for dataset in found.values())]
    print_lines([*everywhere, f"Terms of use: {first.licence or 'not known'}"])
    ranges = []
    for split, dataset in found.items():
        with result.watch(f"{split}: "):
            ranges += _show_split(config, split, dataset, arguments.samples, everywhere)
    print_lines(f"Warning: {sentence}" for sentence in suspicions(first.targets, ranges))


def _show_split(config: Config, split: Split, dataset: Dataset, count: int, everywhere: Sequence[str]) -> list[Any]:
    """Prints the content of one split and returns its ranges. Notes for all splits were printed before."""
    from mtlkit.data.ranges import Gathered, in_words
    from mtlkit.data.summary import look_at, size_in_words, spread, summarise, summary_in_words
    from mtlkit.run.build import build_samples

    samples = build_samples(config, dataset)
    indices = spread(len(samples), count or len(samples))
    errors: list[BadSampleError] = []
    gathered = Gathered(dataset.targets, split)
    targets = summarise(dataset.targets, look_at(samples, indices, errors, gathered))
    size = size_in_words(samples.image_size, samples.channels)
    seen = "" if len(indices) == len(samples) else f"; shares are those in {len(indices)} of them"
    lines = [*summary_in_words(targets, shown=None), *in_words(gathered.ranges())]
    lines += [note for note in dataset.notes if note not in everywhere]
    if errors:
        what = f"{len(errors)} of these samples could not be read and were left out, for example"
        lines.append(f"{what} {errors[0]}")
    print_lines([f"{split}: {len(samples)} samples of {size}{seen}", *(f"  {line}" for line in lines)])
    return gathered.ranges()


def _wanted(config: Config) -> list[Split]:
    """Returns the splits that an experiment uses. If test data selects, val is not used, as it may be training data."""
    return [cast(Split, split) for split in SPLITS if split != "val" or config.data.validation == "val"]


def _splits(config: Config) -> tuple[dict[Split, Dataset], dict[Split, Exception]]:
    """Returns the splits of the data, and the problems of the others. Raises an error if there is none.

    Without test data, everything else works, also training. So missing test data is a problem only if they select.
    """
    from mtlkit.run.build import build_dataset

    found: dict[Split, Dataset] = {}
    problems: dict[Split, Exception] = {}
    for split in _wanted(config):
        try:
            dataset = build_dataset(config, split)
            if not len(dataset):
                raise ValueError("The data set has no samples.")
            found[split] = dataset
        except (ValueError, LookupError, OSError) as error:
            problems[split] = error
    if not found:
        raise next(iter(problems.values()))
    if "test" in problems and config.data.validation != "test":
        print_lines([f"test: no test data. {problems.pop('test')}"])
    return found, problems


def prepare_command(arguments: argparse.Namespace, result: Any) -> None:
    """Writes the fast format, or continues an interrupted writing."""
    from mtlkit.config.composition import compose
    from mtlkit.data.prepare import prepare_dataset
    from mtlkit.run.build import build_dataset

    trust(arguments, Path(arguments.experiment))
    config = compose(arguments.experiment, arguments.overrides)
    if config.data.concat:
        raise ValueError("data.concat names several data sets: prepare each one alone, then give its folder as root.")
    (part,) = config.data.sets
    if arguments.splits:
        datasets = {split: build_dataset(config, split) for split in arguments.splits}
    else:
        datasets, problems = _splits(config)
        for split, problem in problems.items():
            raise ValueError(
                f"{split}: {problem} Nothing is prepared. To prepare the others alone: --splits {' '.join(datasets)}."
            ) from problem
    source = {"name": part.name, **part.options}
    folder = prepare_dataset(datasets, arguments.out, source, workers=arguments.workers, on_error=config.data.on_error)
    print_lines([f"Train on it with data.root={folder}"])
