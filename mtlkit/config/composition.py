"""Composes a configuration from Hydra's groups and overrides, an experiment's YAML file, or a run's config.yaml."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from warnings import warn

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlkit.balancer import BALANCERS
from mtlkit.config.checks import check_config
from mtlkit.config.draft import START, Draft
from mtlkit.config.overrides import names_a_class, parse_words, place_of, put_word
from mtlkit.config.plugins import import_installed, import_plugins
from mtlkit.config.presets import put_preset, unlike_published
from mtlkit.config.schema import Config
from mtlkit.config.unused import unused
from mtlkit.config.yaml_files import read_mapping
from mtlkit.plain_text import short
from mtlkit.registry import suggest
from mtlkit.run_folder import CONFIG, runs_in
from mtlkit.typed import Source

__all__ = ["Config", "compose", "hydra_words", "read_config"]

CONFIGS = "mtlkit.configs"
FILE = "_file"  #: the name of the user's own YAML file in Hydra's store


def read_config(path: Path) -> Config:
    """Reads the configuration in a run's config.yaml. Raises `FileNotFoundError`, or `ValueError` for a broken file."""
    return check_config(read_mapping(path), Source(str(path)))


def compose(experiment: str, overrides: Sequence[str] = ()) -> Config:
    """Returns the checked configuration of an experiment with overrides.

    `experiment` is a name (`mtlkit list experiments`) or the path of a YAML file, which may be a run's config.yaml.
    `overrides` use Hydra's grammar: `key=value`, a choice such as `balancer=rotograd` or `task=[depth]`, `~task.depth`.
    docs/reference/configuration.md shows all forms.

    Raises:
        ValueError: a key is unknown, a type is wrong or values cannot be combined; it names the key and its source. Or:
            a run's own file names a module that no installed package provides (`mtlkit.config.plugins`).
        LookupError, FileNotFoundError: the experiment does not exist.
        ModuleNotFoundError, or any error that a plug-in raises: a plug-in cannot be imported.
    """
    return compose_with_sources(experiment, overrides).config


@dataclass(frozen=True)
class Composed:
    """A checked configuration, the values of files and words that it was made from, and where they came from."""

    config: Config
    given: Mapping[str, Any]
    source: Source


def compose_with_sources(experiment: str, overrides: Sequence[str] = ()) -> Composed:
    """Returns what `compose` returns, and where each value came from. Raises the same errors."""
    # Hydra parses words and finds files. It does not compose the values: its merge would keep the options of a class
    # that was replaced, and would not know which file or word each value came from.
    with hydra_words(experiment, overrides) as (loader, name, words):
        draft = Draft(partial(_find, loader), partial(_files, loader))
        _put_files(draft, loader, experiment)
        for word in sorted(words, key=lambda word: not names_a_class(word)):  # the order of the words does not matter
            put_word(draft, word)
        left_out = put_preset(draft, experiment)
        source = draft.source(f"experiment {experiment!r}")
        # References such as ${data.size} are resolved last, when all words have been put.
        try:
            node = OmegaConf.create(draft.values)
            values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
        except OmegaConfBaseException as error:
            raise source.error(error.full_key or "", str(error).partition("\n")[0]) from None
    given = copy.deepcopy(values)  # without what follows, which is mtlkit's own
    values["experiment"] = name
    # The default folder has the balancer and the seed in its name, so that runs to be compared do not collide.
    if values.get("output_dir") is None:
        given.pop("output_dir", None)
        balancer = values["balancer"].get("name") if isinstance(values.get("balancer"), dict) else ""
        values["output_dir"] = f"runs/{name}_{balancer}_{values.get('seed', 0)}"
    if isinstance(values["output_dir"], str):  # shells do not replace a ~ after key=
        values["output_dir"] = os.path.expanduser(values["output_dir"])
    config = check_config(values, source)
    # A warning and no error: experiments share trainer settings, and a word may switch off what another one needs.
    for key, why in unused(config):
        warn(f"trainer.{key} (in {source.of(f'trainer.{key}')}) has no effect: {why}.", stacklevel=2)
    if remark := unlike_published(config, left_out):
        warn(remark, stacklevel=2)
    return Composed(config, given, source)


@contextmanager
def hydra_words(experiment: str, overrides: Sequence[str]) -> Iterator[tuple[ConfigLoader, str, list[Override]]]:
    """Starts Hydra with mtlkit's configurations, all balancers and the experiment.

    Yields Hydra's loader, the name of the experiment and the parsed words. Errors of Hydra become a `ValueError` of one
    paragraph.
    """
    with hydra.initialize_config_module(CONFIGS, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        # Hydra's exceptions and messages name files of its store that the user has never seen. None of them may pass.
        try:
            words = parse_words(overrides, loader)
            # The user's own file goes into Hydra's store, so that it may have a defaults list wherever it lies.
            own = _own(loader, experiment)
            ConfigStore.instance().store(FILE, own, group="experiment", package="_global_", provider=experiment)
            # Plug-ins first: the words and the file may use names that they register.
            # What the user says himself stands before the file: his words let a run's own file name the same modules.
            for word in words:
                if word.key_or_group == "plugins" and not word.is_delete():
                    import_plugins(word.value(), Source(place_of(word)))
            names, source = own.get("plugins", []), Source(experiment)
            (import_installed if _of_a_run(experiment, own) else import_plugins)(names, source)
            # After the plug-ins, whose balancers belong to the group, too: `balancer=glob(*)` must find them.
            # Hydra's store outlives this call, and the registry may have lost a name since the last one.
            ConfigStore.instance().repo.pop("balancer", None)
            for balancer in BALANCERS.names():
                ConfigStore.instance().store(balancer, {"name": balancer}, group="balancer", provider="mtlkit")
            name = own.get("experiment")
            yield loader, name if isinstance(name, str) else Path(experiment).stem, words
        except MissingConfigException as error:
            group, _, missing = (error.missing_cfg_file or "").rpartition("/")
            known = suggest(missing, _files(loader, group))
            if group.startswith("experiment/"):  # Hydra searches for it beside the experiment
                known = f"In an experiment's defaults, groups begin with a slash: /{group.removeprefix('experiment/')}."
            raise ValueError(f"{group}: there is no {short(missing)!r} (in {experiment}). {known}") from None
        except OverrideParseException as error:
            problem = str(error).replace("\n", "; ")
            raise ValueError(
                f"Cannot read the override {short(str(error.override))!r}, expected key=value: {short(problem)}"
            ) from None
        except (HydraException, OmegaConfBaseException) as error:
            problem = " ".join(f"{error} {error.__cause__ or ''}".replace(f"experiment/{FILE}", experiment).split())
            if "defaults" in problem:  # Hydra's message names neither the file nor the expected form
                problem += f" An entry of the defaults in {experiment} is `- NAME` or `- /balancer: NAME`."
            raise ValueError(short(problem, 1000)) from None


def _of_a_run(experiment: str, own: Mapping[str, Any]) -> bool:
    """Returns whether a run has written this file, so that the user has typed its name but not what is in it."""
    return Path(experiment).name == CONFIG or "experiment" in own


def _own(loader: ConfigLoader, experiment: str) -> dict[str, Any]:
    """Returns the content of the user's own file. For the name of an experiment, the file builds on that experiment."""
    path = Path(experiment)
    if path.suffix in (".yaml", ".yml"):
        values = read_mapping(path)
        entries = values.get("defaults") or ()
        if not isinstance(entries, list | tuple):
            raise ValueError(f"{experiment}: defaults: expected a list, such as [nyuv2], found {short(repr(entries))}.")
        for entry in entries:
            if isinstance(entry, dict) and any(isinstance(choice, dict) for choice in entry.values()):
                raise ValueError(
                    f"{experiment}: defaults: expected `- NAME` or `- /balancer: NAME`, found {short(str(entry))}. "
                    "Options are keys of the file: balancer: {name: NAME, option: value}, without an entry in the "
                    "defaults."
                )
        return values
    known = _files(loader, "experiment")
    if experiment in known:
        return {"defaults": [experiment]}
    hint = suggest(experiment, known)
    if "=" in experiment:
        raise ValueError(f"{experiment}: the experiment comes first, before any key=value. {hint}")
    for file in (path / CONFIG, Path(f"{experiment}.yaml")):
        hint = f"Did you mean the file {file}?" if file.is_file() else hint
    what = " It is a folder." if path.is_dir() else ""
    if what and (inside := runs_in(path)):
        hint = f"Runs in it: {inside}. A run's {CONFIG} is an experiment, too."
    raise LookupError(f"No experiment is called {short(experiment)!r}.{what} {hint}")


def _put_files(draft: Draft, loader: ConfigLoader, experiment: str) -> None:
    """Adds the files of the experiment to the draft, in the order of Hydra's defaults lists."""
    # The balancer that every experiment starts with is no choice of the user's. `START` marks it, see there.
    first = next(entry["balancer"] for entry in _load(loader, "config")[1]["defaults"] if "balancer" in entry)
    # Hydra's own order: later files win, and `_self_` decides where a file stands among its defaults.
    for default in loader.compute_defaults_list("config", [f"experiment={FILE}"], RunMode.RUN).defaults:
        path = default.config_path or ""
        if path and not path.startswith("hydra"):
            place, values = _load(loader, path)
            values.pop("defaults", None)
            package = (default.package or "").removeprefix("_global_")
            place = START if path == f"balancer/{first}" else place or experiment
            draft.put(tuple(package.split(".")) if package else (), values, place)


def _files(loader: ConfigLoader, group: str) -> list[str]:
    """Returns the names of the files in a group, without the user's own file."""
    return [name for name in loader.get_group_options(group) if name != FILE]


def _find(loader: ConfigLoader, group: str, name: str) -> tuple[str, tuple[str, ...], dict[str, Any]] | None:
    """Finds the file with that name in a group. Returns its place, the path of its keys, and its values."""
    if name not in _files(loader, group) or group == "balancer":  # the registry has the names of balancers
        return None
    path = f"{group}/{name}"
    source = next(source for source in loader.get_sources() if source.is_config(path))
    package = source.load_config(path).header.get("package") or group
    place, values = _load(loader, path)
    return place, tuple(package.split(".")), values


def _load(loader: ConfigLoader, path: str) -> tuple[str, dict[str, Any]]:
    """Returns the place of one of Hydra's configurations, in words, and its content. The user's file has no place."""
    source = next(source for source in loader.get_sources() if source.is_config(path))
    values = cast(dict[str, Any], OmegaConf.to_container(source.load_config(path).config))
    if source.scheme() == "pkg":
        return f"configs/{path}.yaml", values
    return "" if path.endswith(FILE) else f"the defaults of {path}", values
