"""The runs of a study: which there are, and the configuration and the folder of each."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from mtlkit.config.composition import compose
from mtlkit.config.schema import Config
from mtlkit.config.sweeps import combinations, safe_name
from mtlkit.study.definition import Study
from mtlkit.study.methods import Method, base_of, chooses_balancer, single_task, static_name, weightings
from mtlkit.study.outcome import Entry

LONGEST = 60  #: characters of a setting in the name of a folder; longer ones have a number


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        words: the words of the setting that tuning tries or chose.
        trial: whether the run only serves to choose a setting.
        like: for single-task training with a preset, whose trainer it has, in words.
    """

    method: Method
    seed: int
    words: tuple[str, ...]
    config: Config
    trial: bool = False
    like: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def entry(self) -> Entry:
        """The place of this run in the comparison."""
        method = self.method
        # Single-task training has no balancer. Its words still name one where the preset's trainer depends on it.
        own = [word for word in method.words if not method.task or not chooses_balancer(word)]
        settings = " ".join([*own, *self.words, *([f"({self.like})"] if self.like else [])])
        return Entry(method.name, self.seed, self.folder, method.task, settings, method.base)

    def __str__(self) -> str:
        setting = f" with {' '.join(self.words)}" if self.trial else ""
        return f"{self.method.label}{setting}, seed {self.seed}"


class Plan:
    """All methods of a study, baselines included, and their runs.

    Every configuration is composed and checked, so a mistake in a word is found before any run starts. Raises
    `ValueError` and `LookupError` as `compose` does, and `ValueError` if tuning would choose on test data.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self._templates: dict[str, tuple[str, ...]] = {}  # single-task method -> words whose tasks it takes apart
        own = [self._method(name, shlex.split(text)) for name, text in study.methods.items()]
        self.tasks = list(self._compose(own[0].words).task)
        for method in own:
            if (other := list(self._compose(method.words).task)) != self.tasks:
                one, two = ", ".join(self.tasks), ", ".join(other)
                raise ValueError(
                    f"methods: {own[0].name} has the tasks {one}, and {method.name} has {two}. "
                    "A study compares methods on the same tasks. Every task alone is trained without asking for it."
                )
        self.methods = [*self._baselines(), *own, *self._static(own)]
        names = [safe_name(method.label) for method in self.methods]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"methods: the folders of two methods would both be called {twice[0]!r}. Rename one.")
        if study.tunes and self._compose(own[0].words).data.validation == "test":
            raise ValueError(
                "tune: this experiment validates on test data (data.validation=test), and tuning must not see it. Set "
                "data.validation=val."
            )
        self.trials = list(self._trials())
        first = {method.label: method.candidates[0] for method in self.methods}
        self.runs(first)  # finds mistakes in words that only the runs after tuning have

    def runs(self, chosen: Mapping[str, tuple[str, ...]]) -> list[Job]:
        """Returns the runs that give the results. `chosen` has the setting of every method, by its label.

        Methods without a chosen setting have no runs. All methods of a seed come before the next seed, so that an early
        look compares like with like.
        """
        return [
            self._job(method, seed, chosen[method.label], f"runs/{safe_name(method.label)}")
            for seed in self.study.seeds
            for method in self.methods
            if method.label in chosen
        ]

    @property
    def untuned(self) -> dict[str, tuple[str, ...]]:
        """The settings of the methods that need no tuning, by label."""
        return {method.label: method.candidates[0] for method in self.methods if len(method.candidates) == 1}

    # -- methods --------------------------------------------------------------------------------------------------

    @cached_property
    def _grid(self) -> tuple[tuple[str, ...], ...]:
        """Every setting that tuning tries: one without words if there is nothing to tune."""
        found = combinations(self.study.experiment, list(self.study.tune))
        if found.words:
            raise ValueError(f"tune: {found.words[0]} has one value. Give it several: key=a,b,c.")
        return tuple(tuple(words) for words in found.swept)

    def _method(self, name: str, words: Sequence[str]) -> Method:
        base = base_of(shlex.join(words))
        if base not in self._templates or name == self.study.reference:
            self._templates[base] = tuple(words)
        return Method(name, tuple(words), self._grid, base=base)

    def _baselines(self) -> Iterator[Method]:
        """Yields single-task training of every task, once for all methods that differ in the balancer alone."""
        for base, words in self._templates.items() if self.study.baselines else ():
            for task in self.tasks:
                yield Method(base, words, self._grid, task, base)

    def _static(self, own: Sequence[Method]) -> Iterator[Method]:
        """Yields the best fixed weighting as a method, once for all methods that differ in the balancer alone."""
        if self.study.static_weights:
            weights = weightings(self.tasks, self.study.static_weights)
            for base in dict.fromkeys(method.base for method in own):
                others = tuple(word for word in self._templates[base] if not chooses_balancer(word))
                candidates = tuple((*weighting, *words) for weighting in weights for words in self._grid)
                yield Method(static_name(base), others, candidates, base=base)

    # -- runs -----------------------------------------------------------------------------------------------------

    def _trials(self) -> Iterator[Job]:
        for seed in self.study.tune_seeds:
            for method in self.methods:
                for number, words in enumerate(method.candidates if len(method.candidates) > 1 else ()):
                    setting = safe_name(" ".join(words))
                    setting = setting if len(setting) <= LONGEST else str(number)
                    yield self._job(method, seed, words, f"tuning/{safe_name(method.label)},{setting}", trial=True)

    def _job(self, method: Method, seed: int, words: tuple[str, ...], name: str, trial: bool = False) -> Job:
        folder = self.folder / f"{name},seed={seed}"
        config, like = self._compose(method.words + words, seed), ""
        if method.task:
            if config.preset is not None:
                like = f"trainer as in preset={config.preset.name} for {config.preset.method}"
            config = single_task(config, method.task)
        return Job(method, seed, words, replace(config, output_dir=str(folder)), trial, like)

    def _compose(self, words: tuple[str, ...], seed: int | None = None) -> Config:
        """Returns the configuration of a method. Composing takes a tenth of a second, so seeds share it if they can."""
        first = self.study.seeds[0]
        if seed is None or seed == first:
            return self._composed(words, first)
        if self._seed_is_a_number and not any("${" in word for word in words):
            return replace(self._composed(words, first), seed=seed)
        return self._composed(words, seed)

    @cached_property
    def _seed_is_a_number(self) -> bool:
        """Whether nothing in the experiment's file refers to the seed, as in `data.options: {start: ${seed}}`."""
        first = self.study.seeds[0]
        one, two = (self._composed((), seed) for seed in (first, first + 1))
        return replace(one, seed=first + 1, output_dir="") == replace(two, output_dir="")

    @cache  # noqa: B019 - a plan lives as long as its study, and its runs are listed several times
    def _composed(self, words: tuple[str, ...], seed: int) -> Config:
        return compose(self.study.experiment, [*self.study.words, *words, f"seed={seed}"])
