"""The definition of a study: what is compared, from the words of a command or from a YAML file."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from mtlkit.config.composition import compose
from mtlkit.config.overrides import parse_words
from mtlkit.config.plugins import checked, import_found, import_installed
from mtlkit.config.sweeps import combinations
from mtlkit.config.yaml_files import read_mapping
from mtlkit.files import write_whole
from mtlkit.plain_text import short
from mtlkit.run_folder import STUDY
from mtlkit.study.methods import STATIC, balancer_word, chooses_balancer, name_of
from mtlkit.study.outcome import SINGLE
from mtlkit.typed import Source, to_dataclass

TUNE_SEED = 1000  #: the seed of the trials, which are no results

NO_SCALE = "the scores of its values could not be compared"
#: What tuning must leave as it is, and why.
FIXED = {
    "seed": "tune_seeds has the seeds of tuning",
    "output_dir": "the study names the folders",
    "balancer": "it makes the methods; tune its options",
    "preset": "it belongs to the methods",
    **dict.fromkeys(("trainer.monitor", "trainer.baseline", "trainer.selection", "data.validation"), NO_SCALE),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study compares. These are the keys of a study's file; docs/how_to/compare.md shows one.

    Raises `ValueError` if the values do not fit together.
    """

    experiment: str  #: a name (mtlkit list experiments) or a YAML file
    words: tuple[str, ...] = ()  #: overrides for all runs, as on the command line
    methods: dict[str, str]  #: name -> its overrides in one line, such as `balancer=gradnorm balancer.alpha=0.5`
    seeds: tuple[int, ...]
    baselines: bool = True  #: whether every task is also trained alone, with every seed
    static_weights: int = 0  #: so many fixed weightings are tried; the best one is a further method
    tune: tuple[str, ...] = ()  #: sweeps that tuning tries for every method, such as trainer.lr=3e-4,1e-3
    tune_seeds: tuple[int, ...] = (TUNE_SEED,)  #: the seeds of tuning, none of `seeds`
    reference: str = ""  #: the method that the others are compared with; empty: the first one
    metrics: tuple[str, ...] = ()  #: what counts, as <task>/<metric>; empty: all metrics with a direction
    split: Literal["train", "val", "test"] | None = None  #: measures on this split; null: the logged figures
    delta_m: dict[str, Any] = field(default_factory=dict)  #: average, better, seeds, without: see mtlkit.study.delta_m
    all_definitions: bool = False  #: shows delta-m in all definitions side by side
    claims: tuple[str, ...] = ()  #: such as `delta_m of rotograd > delta_m of uniform`

    def __post_init__(self) -> None:
        rules = (
            ("methods", not self.methods, "there is no method to compare"),
            ("methods", SINGLE in self.methods, f"{SINGLE!r} is the name of the baselines; choose another name"),
            ("methods", STATIC in self.methods, f"{STATIC!r} is the name for static_weights; choose another name"),
            ("seeds", not self.seeds, "there is no seed"),
            ("seeds", len(set(self.seeds)) < len(self.seeds), f"a seed is there twice: {list(self.seeds)}"),
            ("static_weights", self.static_weights < 0, f"expected 0 or more, found {self.static_weights}"),
            (
                "tune_seeds",
                self.tunes and not set(self.tune_seeds).isdisjoint(self.seeds),
                f"tuning must not see a seed of the results: {sorted({*self.tune_seeds} & {*self.seeds})} is in both",
            ),
            ("tune_seeds", self.tunes and not self.tune_seeds, "tuning needs a seed"),
            *(("tune", self._tunes_key(key), f"{key} cannot be tuned: {why}") for key, why in FIXED.items()),
            ("words", any(word.startswith("seed=") for word in self.words), "`seeds` has the seeds, not a word"),
        )
        for key, wrong, why in rules:
            if wrong:
                raise ValueError(f"{key}: {why}.")

    def _tunes_key(self, key: str) -> bool:
        return any(word.lstrip("+").partition("=")[0] == key for word in self.tune)

    @property
    def tunes(self) -> bool:
        """Whether there is anything to tune."""
        return bool(self.tune or self.static_weights)

    def save(self, folder: Path) -> None:
        """Writes study.yaml, from which `mtlkit compare` makes the same study again."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        write_whole(folder / STUDY, OmegaConf.to_yaml(OmegaConf.create(values)).encode())


def read_study(
    path: Path, words: Sequence[str] = (), *, trust_plugins: bool = False, **options: Any
) -> tuple[Study, Path]:
    """Reads a study's file and adds words to it. Returns the study and its folder.

    The word `seed=...` replaces the seeds, `output_dir` names the folder, and the others are for all runs. `options`
    replace keys of the file. A study's own file, in its folder, is as a run's: the modules that it names are imported
    only if they are installed, or with `trust_plugins`. Raises `ValueError` for other such modules, for an unknown key
    and for a sweep of anything but seeds.
    """
    values = read_mapping(path)
    experiment = str(values.get("experiment", ""))
    if not isinstance(own := values.get("words") or [], list):
        raise ValueError(f"{path}: words: expected a list of overrides, found {own!r}.")
    if isinstance(values.get("methods"), list | Mapping):
        values["methods"] = read_methods(values["methods"], path)
    if path.name == STUDY:
        source = Source(str(path))
        names = checked([module for named in _plugins(values) for module in checked(named, source)], source)
        if trust_plugins:
            import_found(names)
        import_installed(names, source)
    found = combinations(experiment, words) if experiment else None
    if found is not None:
        seeds = _seeds(found.swept) or _seeds([found.words])
        if any(not word.startswith("seed=") for job in found.swept for word in job):
            raise ValueError(f"{path} names the methods. On the command line, only seed=... may have several values.")
        values["words"] = [*own, *_without_seed(found.words)]
        values["seeds"] = seeds or values.get("seeds")
    study = to_dataclass(Study, {**values, **options}, "", Source(str(path)))
    # A copy of a study's own file in its folder means that study.
    given = any(word.partition("=")[0] == "output_dir" for word in words)
    folder = found.folder if given and found else path.parent if path.name == STUDY else Path("studies", path.stem)
    return study, folder


def _plugins(values: Mapping[str, Any]) -> Iterator[Any]:
    """Yields what a study's file says about the key `plugins`: in its words, and in the file of its experiment."""
    file = Path(str(values.get("experiment", "")))
    if file.suffix in (".yaml", ".yml") and file.is_file():
        yield read_mapping(file).get("plugins")
    methods = values.get("methods")
    lines = methods.values() if isinstance(methods, Mapping) else ()
    given = [values.get(key) for key in ("words", "tune")]
    words = [str(word) for one in given if isinstance(one, list) for word in one]
    try:
        parsed = parse_words([*words, *(word for line in lines for word in shlex.split(line))])
    except OverrideParseException as error:
        raise ValueError(
            f"Cannot read {error.override!r}, expected key=value: {' '.join(str(error).split())}"
        ) from None
    for word in parsed:
        if word.key_or_group.partition(".")[0] == "plugins" and not word.is_delete():
            yield word.value() if not word.is_sweep_override() else word.input_line


def read_methods(given: Any, path: Path) -> dict[str, str]:
    """Returns the overrides of each method of a study's file by name. Raises `ValueError` for anything else."""
    if not isinstance(given, list | Mapping):
        raise ValueError(f"{path}: methods: expected a mapping or a list, found {short(repr(given), 100)}.")
    if not isinstance(given, Mapping):  # balancers, each a name or a mapping of its name and its options
        words = [balancer_word(one) if isinstance(one, Mapping) else f"balancer={one}" for one in given]
        return {name_of([word]): shlex.join([word]) for word in words}
    found = {str(name): _line(value) for name, value in given.items()}
    for name, text in found.items():
        form = f"{path}: methods.{name}: expected overrides in one line, such as balancer=gradnorm balancer.alpha=0.5,"
        if not isinstance(text, str):
            raise ValueError(f"{form} found {text!r}.")
        try:
            words = shlex.split(text)
            parsed = parse_words(words)
        except (ValueError, OverrideParseException) as error:
            raise ValueError(f"{form} found {text!r} ({' '.join(str(error).split())}).") from None
        for word in parsed:
            if word.is_sweep_override() or word.key_or_group in ("seed", "output_dir"):
                raise ValueError(
                    f"{path}: methods.{name}: {word.input_line} is not possible here. A method is one setting; `seeds` "
                    "and the study decide seeds and folders."
                )
    return found


def _line(value: Any) -> Any:
    """Returns the overrides of a method in one line, from a list of them or from a balancer with its options."""
    if isinstance(value, Mapping):
        return shlex.join([balancer_word(value)])
    if isinstance(value, list | tuple):
        return shlex.join(map(str, value))
    return "" if value is None else value


def study_of(experiment: str, words: Sequence[str], **options: Any) -> tuple[Study, Path]:
    """Makes a study from the words of a command. Returns the study and its folder.

    Every key with several values distinguishes methods, except for `seed`. So does the balancer, with its options.
    Raises `ValueError` and `LookupError` as `mtlkit.config.composition.compose` does.
    """
    found = combinations(experiment, words)
    # A balancer that all methods have is a part of their names. Its options are the methods' alone, too: single-task
    # training has none of them.
    common = [word for word in found.words if chooses_balancer(word)]
    methods: dict[str, str] = {}
    seeds = _seeds(found.swept) or _seeds([found.words]) or [0]
    for job in found.swept:
        own = [*common, *(word for word in job if not word.startswith("seed="))]
        methods[name_of(own) or _balancer(experiment, found.words, seeds[0])] = shlex.join(own)
    shared = [word for word in _without_seed(found.words) if word not in common]
    given = any(word.partition("=")[0] == "output_dir" for word in words)
    folder = found.folder if given else Path("studies", found.name)
    study = Study(experiment=experiment, words=tuple(shared), methods=methods, seeds=tuple(seeds), **options)
    return study, folder


def _balancer(experiment: str, words: Sequence[str], seed: int) -> str:
    """Returns the balancer of the experiment, which names the method if no word does."""
    return compose(experiment, [*_without_seed(words), f"seed={seed}"]).balancer.name


def _seeds(jobs: Sequence[Sequence[str]]) -> list[int]:
    """Returns the seeds in the words of jobs, in their order."""
    found = [word.partition("=")[2] for words in jobs for word in words if word.startswith("seed=")]
    for text in found:
        if not text.isdigit():
            raise ValueError(f"seed={text}: expected whole numbers of 0 or more.")
    return list(dict.fromkeys(map(int, found)))


def _without_seed(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("seed=")]
