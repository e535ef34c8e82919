"""Sweeps: the words of several runs, written as one command."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Quote, QuotedString

from mtlkit.config.composition import hydra_words


def sweep(experiment: str, overrides: Sequence[str]) -> list[list[str]]:
    """Returns the overrides per job of a sweep: `balancer=a,b`, `seed=range(3)`, `balancer=glob(*)` (Hydra's syntax).

    Every combination is one job. The jobs get folders inside the override `output_dir` (without it: runs/EXPERIMENT).
    The swept words name the folder, as in runs/sweep/balancer=a,seed=0. Raises `ValueError` and `LookupError` as
    `compose` does.
    """
    jobs = combinations(experiment, overrides)
    # The folder of a job is made of its own words, so two jobs can never share one.
    return [[*words, *swept, folder_word(jobs.folder / safe_name(",".join(swept)))] for words, swept in jobs]


@dataclass(frozen=True)
class Combinations:
    """The jobs of a sweep: pairs of the words that all jobs have, and the swept words of one job.

    `folder` is the override `output_dir`, or runs/EXPERIMENT; `name` is the name of the experiment.
    """

    name: str
    folder: Path
    words: list[str]
    swept: list[list[str]]

    def __iter__(self) -> Iterator[tuple[list[str], list[str]]]:
        return ((self.words, swept) for swept in self.swept)


def combinations(experiment: str, overrides: Sequence[str]) -> Combinations:
    """Returns every combination of the values of a sweep. Raises `ValueError` and `LookupError` as `compose` does."""
    with hydra_words(experiment, overrides) as (_, name, parsed):
        folder = f"runs/{name}"
        for override in parsed:
            if override.key_or_group == "output_dir":
                if override.is_sweep_override():
                    raise ValueError(f"{override.input_line}: a sweep has one output_dir; its jobs get folders in it.")
                folder = os.path.expanduser(str(override.value()))
        parsed = [override for override in parsed if override.key_or_group != "output_dir"]
        swept = [override for override in parsed if override.is_sweep_override()]
        jobs = BasicSweeper.split_arguments(swept, max_batch_size=None)[0] if swept else [[]]
    words = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    return Combinations(name, Path(folder), words, [list(job) for job in jobs])


def folder_word(folder: Path) -> str:
    """Returns the override that sets `output_dir`, whatever characters the path has."""
    return f"output_dir={QuotedString(str(folder), Quote.single).with_quotes()}"


def safe_name(text: str) -> str:
    """Returns a text as the name of a folder.

    >>> safe_name("balancer=rotograd,data.root=/my data")
    'balancer=rotograd,data.root=_my_data'
    """
    return re.sub(r"[^\w.,=+~-]+", "_", text)
