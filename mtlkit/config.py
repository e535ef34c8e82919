"""How a configuration is composed: Hydra's groups and overrides, an experiment's YAML file, a run's config.yaml."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from warnings import warn

import hydra
import yaml  # type: ignore[import-untyped]
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlkit.balancer import BALANCERS
from mtlkit.checks import check, import_plugins, options, unused
from mtlkit.registry import suggest
from mtlkit.schema import Config
from mtlkit.typed import Source

__all__ = ["Config", "compose", "load", "sweep"]

CONFIGS = "mtlkit.configs"
FILE = "_file"  #: the experiment of a user's own YAML file, in Hydra's store


def load(path: Path) -> Config:
    """The configuration in a run's config.yaml. Raises `FileNotFoundError`, and `ValueError` for a broken one."""
    return check(_read(path), Source(str(path)))


def compose(experiment: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of an experiment with overrides, checked.

    `experiment` is a name (`mtlkit list experiments`) or the path of a YAML file. `overrides` are Hydra's words:
    `key=value`, a group's choice such as `balancer=rotograd` or `task=[depth]`, `~task.depth`.

    Raises:
        ValueError: for an unknown key, a wrong type or an impossible combination, with the key and its source.
        LookupError, FileNotFoundError: for an experiment that there is not.
        ModuleNotFoundError, or whatever a plug-in raises: for one that cannot be imported.
    """
    with _hydra(experiment, overrides) as (loader, words):
        node = hydra.compose("config", words)
        source = _source(loader, experiment, words)
        try:
            values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
        except OmegaConfBaseException as error:
            raise source.error(error.full_key or "", str(error).partition("\n")[0]) from None
    values["experiment"] = name = Path(experiment).stem
    if values.get("output_dir") is None:
        balancer = values["balancer"].get("name") if isinstance(values.get("balancer"), dict) else ""
        values["output_dir"] = f"runs/{name}_{balancer}_{values.get('seed', 0)}"
    config = check(values, source)
    for key, why in unused(config.trainer):
        warn(f"trainer.{key} (in {source.of(f'trainer.{key}')}) has no effect: {why}.", stacklevel=2)
    return config


def sweep(experiment: str, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep: `balancer=a,b`, `seed=range(3)`, `balancer=glob(*)` (Hydra's syntax).

    Every combination is one job, with its own folder below the override `output_dir` (runs/EXPERIMENT without one),
    named by the swept words, as in runs/sweep/balancer=a,seed=0. Raises `ValueError` and `LookupError` as `compose`.
    """
    with _hydra(experiment, overrides) as (loader, _):
        parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
        base = f"runs/{Path(experiment).stem}"
        for override in parsed:
            if override.key_or_group == "output_dir":
                if override.is_sweep_override():
                    raise ValueError(f"{override.input_line}: a sweep has one output_dir; its jobs get folders in it.")
                base = str(override.value())
        parsed = [override for override in parsed if override.key_or_group != "output_dir"]
        swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    result = []
    for job in jobs:
        name = ",".join(word for word in job if word.partition("=")[0] in swept)
        folder = Path(base, re.sub(r"[^\w.,=+~-]+", "_", name))
        result.append([*job, f"output_dir={QuotedString(str(folder), Quote.single).with_quotes()}"])
    return result


@contextmanager
def _hydra(experiment: str, overrides: Sequence[str]) -> Iterator[tuple[ConfigLoader, list[str]]]:
    """Hydra with mtlkit's configurations, all balancers and the experiment; and the words to compose with.

    Hydra's errors become a `ValueError` of one paragraph.
    """
    with hydra.initialize_config_module(CONFIGS, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
            name = _experiment(loader, experiment)
            import_plugins(*_plugins(loader, name, experiment, parsed))
            for balancer in BALANCERS.names():
                ConfigStore.instance().store(balancer, _defaults(balancer), group="balancer", provider="mtlkit")
            groups = loader.list_groups("")
            yield loader, [f"experiment={name}", *(_word(override, groups) for override in parsed)]
        except MissingConfigException as error:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            place = next((f"the override {word!r}" for word in overrides if word.startswith(f"{group}=")), experiment)
            known = suggest(name, loader.get_group_options(group))
            if group.startswith("experiment/"):  # Hydra looks for it beside the experiment
                known = f"In an experiment's defaults, groups begin with a slash: /{group.removeprefix('experiment/')}."
            raise ValueError(f"{group}: there is no {name!r} (in {place}). {known}") from None
        except OverrideParseException as error:
            problem = str(error).replace("\n", "; ")
            raise ValueError(f"Cannot read the override {error.override!r}, expected key=value: {problem}") from None
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(" ".join(f"{error} {error.__cause__ or ''}".split())) from None


def _experiment(loader: ConfigLoader, experiment: str) -> str:
    """The experiment's name in Hydra's group `experiment`, where a user's own file is put first."""
    path = Path(experiment)
    if path.suffix in (".yaml", ".yml"):
        ConfigStore.instance().store(FILE, _read(path), group="experiment", package="_global_", provider=experiment)
        return FILE
    known = [name for name in loader.get_group_options("experiment") if name != FILE]
    if experiment not in known:
        raise LookupError(f"No experiment is called {experiment!r}. {suggest(experiment, known)}")
    return experiment


def _read(path: Path) -> dict[str, Any]:
    """A YAML file with a mapping in it."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {type(values).__name__}.")
    return cast(dict[str, Any], values)


def _plugins(loader: ConfigLoader, name: str, experiment: str, parsed: Sequence[Override]) -> tuple[Any, Source]:
    """The value of `plugins` and its source. It is read before Hydra composes, because plug-ins add to the groups:
    only the overrides and the experiment's own file can have it."""
    for override in reversed(parsed):
        if override.key_or_group == "plugins":
            return override.value(), Source(f"the override {override.input_line!r}")
    place, values = _load(loader, f"experiment/{name}", experiment)
    return values.get("plugins", []), Source(place)


def _load(loader: ConfigLoader, path: str, experiment: str) -> tuple[str, dict[str, Any]]:
    """Where one of Hydra's configurations is, in words for a user, and what is in it."""
    source = next(source for source in loader.get_sources() if source.is_config(path))
    values = OmegaConf.to_container(source.load_config(path).config)
    if source.scheme() == "pkg":
        return f"configs/{path}.yaml", cast(dict[str, Any], values)
    return experiment if path.endswith(FILE) else f"the defaults of {path}", cast(dict[str, Any], values)


def _defaults(balancer: str) -> dict[str, Any]:
    """The configuration of a balancer: its constructor's defaults, as far as YAML can express them."""
    plain = (type(None), bool, int, float, str, list, tuple, dict)
    defaults = {name: parameter.default for name, parameter in options(BALANCERS, balancer).items()}
    return {"name": balancer} | {name: default for name, default in defaults.items() if isinstance(default, plain)}


def _word(override: Override, groups: Sequence[str]) -> str:
    """The override as Hydra is to see it: values are always added, because unknown keys are refused later, better."""
    key, word = override.key_or_group, override.input_line or ""
    if key.startswith(("hydra.", "hydra/")):
        raise ValueError(f"{word}: mtlkit composes by Hydra but runs without it; {key} would have no effect.")
    if key == "experiment":
        raise ValueError(f"{word}: the experiment is the word before the overrides.")
    if key in groups or "/" in key or override.is_delete() or override.is_sweep_override():
        return word
    return f"++{word.lstrip('+')}"


def _source(loader: ConfigLoader, experiment: str, words: list[str]) -> Source:
    """Which file or override gave every key its value."""
    keys: dict[str, str] = {}
    for default in loader.compute_defaults_list("config", words, RunMode.RUN).defaults:
        if default.config_path and not default.config_path.startswith("hydra"):
            place, values = _load(loader, default.config_path, experiment)
            package = (default.package or "").removeprefix("_global_")
            keys |= dict.fromkeys(_dotted(package, values), place)
    for override in OverridesParser.create().parse_overrides(words):
        place = f"the override {(override.input_line or '').removeprefix('++')!r}"
        keys |= dict.fromkeys(_dotted(override.key_or_group, override.value()), place)
        parts = override.key_or_group.split(".")
        for end in range(1, len(parts)):  # sections that no file has
            keys.setdefault(".".join(parts[:end]), place)
    return Source(f"experiment {experiment!r}", keys)


def _dotted(key: str, value: Any) -> Iterator[str]:
    """The dotted key of a value and of everything in it."""
    if key:
        yield key
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _dotted(f"{key}.{name}".lstrip("."), item)
