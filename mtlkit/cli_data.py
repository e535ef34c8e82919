"""The commands `mtlkit data show` and `mtlkit data prepare`."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from mtlkit.data.dataset import Dataset, Split
from mtlkit.schema import Config

SPLITS: tuple[Split, ...] = get_args(Split)


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds `show` and `prepare`; `add(name, command, text)` makes a parser of a command."""
    sub = add("show", show, "Tell what was found: layout, samples, size, share of valid labels, class shares.")
    _add_words(sub)
    sub.add_argument("--samples", metavar="N", type=int, default=200, help="look at N samples a split (0: all; 200)")
    sub = add("prepare", prepare, "Turn the data into mtlkit's fast format, resumably; training reads both.")
    _add_words(sub)
    sub.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to write, or to go on with")
    sub.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="those to prepare (all)")
    sub.add_argument("--workers", metavar="N", type=int, default=0, help="reading processes")


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a name (mtlkit list experiments) or a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="as for training: data.root=PATH")


def show(arguments: argparse.Namespace, result: Any) -> None:
    """Prints a summary of every split that the data has."""
    from mtlkit.build import build_samples
    from mtlkit.config import compose
    from mtlkit.data.summary import facts_in_words, spread, summarise

    if arguments.samples < 0:
        raise ValueError(f"--samples must not be negative, got {arguments.samples}.")
    config = compose(arguments.experiment, arguments.overrides)
    for split, dataset in _splits(config, SPLITS, result):
        samples = build_samples(config, dataset)
        indices = spread(len(samples), arguments.samples or len(samples))
        facts = {
            "samples": {split: len(samples)},
            "size": samples.image_size,
            "looked_at": len(indices),
            "targets": summarise(dataset.targets, (samples.plain(index)["targets"] for index in indices)),
            "notes": dataset.notes,
            "licence": dataset.licence,
        }
        print(f"{split}", *facts_in_words(facts), sep="\n  ")  # noqa: T201


def prepare(arguments: argparse.Namespace, result: Any) -> None:
    """Writes the fast format, or goes on with it."""
    from mtlkit.build import build_dataset
    from mtlkit.config import compose
    from mtlkit.data.prepare import prepare

    config = compose(arguments.experiment, arguments.overrides)
    if config.data.concat:
        raise ValueError("data.concat names several data sets: prepare each on its own, then name its folder as root.")
    (part,) = config.data.sets
    datasets = {split: build_dataset(config, split) for split in arguments.splits}
    source = {"name": part.name, **part.options}
    folder = prepare(datasets, arguments.out, source, workers=arguments.workers, on_error=config.data.on_error)
    print(f"Train on it with data.root={folder}")  # noqa: T201


def _splits(config: Config, splits: Any, result: Any) -> Iterator[tuple[Split, Dataset]]:
    """The splits of the data; those that it has not are told, and the others still come."""
    from mtlkit.build import build_dataset

    for split in splits:
        with result.watch(f"{split}: "):
            yield split, build_dataset(config, split)
