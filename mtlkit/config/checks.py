"""Checks a whole configuration before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from mtlkit.config.impossible import impossible, impossible_data
from mtlkit.config.keys import meant
from mtlkit.config.optimizers import optimizer_problems
from mtlkit.config.plugins import import_installed
from mtlkit.config.schema import (
    BalancerConfig,
    Config,
    DataConfig,
    LoraConfig,
    PresetConfig,
    TaskConfig,
    TrainedConfig,
    TrainerConfig,
)
from mtlkit.config.sections import SECTIONS, all_keys, defaults, named, options, section_at
from mtlkit.network import ENCODERS
from mtlkit.observer import OBSERVERS
from mtlkit.options import check_together
from mtlkit.registry import suggest
from mtlkit.task import own_decoder
from mtlkit.typed import Source, to_dataclass


def check_config(values: Mapping[str, Any], source: Source) -> Config:
    """Returns the configuration for plain values, such as `Config.to_dict` returns.

    It imports the plug-ins that are installed, and refuses others that nobody has imported yet. Then it checks every
    key, every type and every combination. Raises `ValueError` with the key, the problem and the source of the value.
    """
    import_installed(values.get("plugins", []), source)  # those that the user has named are imported already
    source = replace(source, meant=lambda key: meant(key, all_keys(values)))
    sections = {**values, **_of_model(values, source)}
    if "data" in values:
        sections["data"] = _data(values["data"], source)
    if values.get("preset") is not None:
        sections["preset"] = to_dataclass(PresetConfig, values["preset"], "preset", source)
    config = to_dataclass(Config, sections, "", source)
    for name in config.trainer.observers:
        if name not in OBSERVERS.names():
            hint = f"Modules that `plugins` names register them. {suggest(name, OBSERVERS.names())}"
            raise source.error("trainer.observers", f"no observer is called {name!r}", hint)
    for key, problem in (*impossible_data(config), *impossible(config), *optimizer_problems(config.trainer)):
        raise source.error(key, problem)
    return config


def check_trained(values: Mapping[str, Any], source: Source) -> TrainedConfig:
    """Returns the part of a run's configuration that describes its model. It imports no plug-in."""
    return to_dataclass(TrainedConfig, _of_model(values, source), "", source)


def _of_model(values: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Returns the checked sections that have nothing to do with data, as far as there are any."""
    sections: dict[str, Any] = {"trainer": to_dataclass(TrainerConfig, values.get("trainer", {}), "trainer", source)}
    if "model" in values:
        sections["model"] = _section(_with_lora(values["model"], source), ("model",), source)
    if isinstance(tasks := values.get("task"), Mapping):
        sections["task"] = {name: _task(name, task, source) for name, task in tasks.items()}
    if "balancer" in values:
        sections["balancer"] = _balancer(values["balancer"], tuple(sections.get("task") or ()), source)
    return sections


def _data(values: Any, source: Source) -> DataConfig:
    """Checks the section `data`. With `concat`, it checks each data set as its own section."""
    if not isinstance(values, Mapping) or not values.get("concat"):
        return cast(DataConfig, _section(values, ("data",), source))
    sets = values["concat"]
    if not isinstance(sets, list | tuple):
        raise source.error("data.concat", f"expected a list of data sets, found {sets!r}")
    parts = [_section(part, ("data", "concat", str(i)), source) for i, part in enumerate(sets)]
    return to_dataclass(DataConfig, {**values, "concat": tuple(parts)}, "data", source)


def _with_lora(values: Any, source: Source) -> Any:
    """Checks the section `model.lora`, if there is one."""
    if not isinstance(values, Mapping) or values.get("lora") is None:
        return values
    return {**values, "lora": to_dataclass(LoraConfig, values["lora"], "model.lora", source)}


def _task(name: Any, values: Any, source: Source) -> TaskConfig:
    """Checks a task. A task that names no decoder gets the default decoder of its type."""
    path = ("task", name)
    if not isinstance(name, str):  # YAML reads yes, no, on and off as true and false
        raise source.error(f"task.{name}", f"a task's name must be text, found {name!r}", 'In YAML, write it as "on".')
    if not name.isidentifier():
        raise source.error(f"task.{name}", "a task's name must be a Python identifier")
    type_name = named(values, section := SECTIONS[("task", "*")])
    if type_name in section.registry.names():
        values = _with_decoder(values, own_decoder(section.registry.get(type_name)))
    task = cast(TaskConfig, _section(values, path, source))
    decoder = {"name": task.decoder} if isinstance(task.decoder, str) else task.decoder
    _section(decoder, (*path, "decoder"), source)
    return replace(task, decoder=decoder["name"] if decoder.keys() == {"name"} else decoder)


def _with_decoder(values: Mapping[str, Any], own: str | Mapping[str, Any]) -> dict[str, Any]:
    """Adds the default decoder if the task names none. `decoder: {OPTION: value}` sets options of the default."""
    given = values.get("decoder", {})
    if not isinstance(given, Mapping) or "name" in given:
        return dict(values)
    return {**values, "decoder": {**({"name": own} if isinstance(own, str) else own), **given}}


def _balancer(values: Any, tasks: Sequence[str], source: Source) -> BalancerConfig:
    """Checks the balancer and adds the defaults of all its options, so that a run's config.yaml contains them."""
    name = named(values, section := SECTIONS[("balancer",)])
    if isinstance(values, Mapping) and name in section.registry.names():
        values = defaults(section.registry, name) | dict(values)
    return cast(BalancerConfig, _section(values, ("balancer",), source, tasks))


def _section(values: Any, path: tuple[str, ...], source: Source, tasks: Sequence[str] = ()) -> Any:
    """Checks a section that names a registered class and holds its options. Returns an object of its schema.

    If `tasks` are given, mappings among the options must use the names of these tasks as keys.
    """
    section, key = section_at(path), ".".join(path)
    assert section is not None
    registry, naming = section.registry, section.naming
    name = named(values, section)
    if not isinstance(values, Mapping) or name is None:
        found = values.get(naming) if isinstance(values, Mapping) else values
        raise source.error(f"{key}.{naming}", f"expected the name of a {registry.kind}, found {found!r}")
    if not section.knows(name):
        kind = "neither an encoder nor a timm model" if registry is ENCODERS else f"no {registry.kind}"
        raise source.error(f"{key}.{naming}", f"{kind} is called {name!r}", section.suggest(name))
    if name in registry.names():
        owner = f"{registry.kind} {name!r}"
        checked = to_dataclass(section.schema, values, key, source, options(registry, name), owner, tasks)
        check_together(registry.get(name), checked.options, key, source)
        return checked
    taken = {option: p for option, p in options(ENCODERS, "timm").items() if option != "architecture"}
    return to_dataclass(section.schema, values, key, source, taken, f"encoder {name!r}")
