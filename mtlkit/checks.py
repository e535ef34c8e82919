"""The check of a whole configuration, before any work is done."""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from inspect import Parameter
from typing import Any, TypeVar

from mtlkit.balancer import BALANCERS
from mtlkit.data.dataset import DATASETS
from mtlkit.registry import Registry, options_of, suggest
from mtlkit.schema import BalancerConfig, Config, DataConfig, ModelConfig, SetConfig, TaskConfig, TrainerConfig
from mtlkit.task import DECODERS, ENCODERS, TASKS
from mtlkit.typed import Source, build

T = TypeVar("T")

#: The constructor arguments that mtlkit gives itself, so that they are no options; by registry.
GIVEN = {
    DATASETS: {"root", "split", "size", "limit"},
    ENCODERS: {"image_size"},
    TASKS: {"name", "classes", "decoder"},
    DECODERS: {"info", "out_channels"},
    BALANCERS: {"tasks"},
}


def check(values: Mapping[str, Any], source: Source) -> Config:
    """The configuration of plain values, such as `Config.to_dict` gives.

    Imports the plug-ins, then checks every key, every type and what cannot go together. Raises `ValueError` with the
    key, the problem and where the value came from.
    """
    import_plugins(values.get("plugins", []), source)
    values = dict(values)
    sections: dict[str, tuple[Any, Any, str]] = {
        "model": (ModelConfig, ENCODERS, "encoder"),
        "balancer": (BalancerConfig, BALANCERS, "name"),
    }
    if "data" in values:
        values["data"] = _data(values["data"], source)
    for key, (section, registry, naming) in sections.items():
        if key in values:
            values[key] = _section(section, registry, naming, values[key], key, source)
    values["trainer"] = build(TrainerConfig, values.get("trainer", {}), "trainer", source)
    if isinstance(tasks := values.get("task"), Mapping):
        values["task"] = {str(name): _task(str(name), task, source) for name, task in tasks.items()}
    config = build(Config, values, "", source)
    for key, problem in (*_impossible_data(config), *_impossible(config)):
        raise source.error(key, problem)
    return config


def import_plugins(modules: Any, source: Source) -> None:
    """Imports the modules of the key `plugins`.

    Raises `ValueError` where there is no such module; what a module raises itself is left as it is.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(module, str) for module in modules):
        raise source.error("plugins", f"expected a list of module names, found {modules!r}")
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there and misses another one
            raise source.error("plugins", f"there is no module {module!r}: {error}") from None


def options(registry: Registry, name: str) -> dict[str, Parameter]:
    """The options of a registered class: its constructor's parameters without those that mtlkit gives."""
    return {key: p for key, p in options_of(registry.get(name)).items() if key not in GIVEN[registry]}


def _data(values: Any, source: Source) -> DataConfig:
    """The section `data`: one data set, or those of `concat`, each checked as a section of its own."""
    if not isinstance(values, Mapping) or not values.get("concat"):
        return _section(DataConfig, DATASETS, "name", values, "data", source)
    sets = values["concat"]
    if not isinstance(sets, list | tuple):
        raise source.error("data.concat", f"expected a list of data sets, found {sets!r}")
    parts = [_section(SetConfig, DATASETS, "name", part, f"data.concat.{i}", source) for i, part in enumerate(sets)]
    return build(DataConfig, {**values, "concat": tuple(parts)}, "data", source)


def _section(cls: type[T], registry: Registry, naming: str, values: Any, key: str, source: Source) -> T:
    """A section that names a class of a registry, by its key `naming`, and holds options of it."""
    name = values.get(naming) if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping) or not isinstance(name, str):
        raise source.error(f"{key}.{naming}", f"expected the name of a {registry.kind}, found {name!r}")
    if name in registry.names():
        return build(cls, values, key, source, options(registry, name), f"{registry.kind} {name!r}")
    if registry is not ENCODERS:
        raise source.error(f"{key}.{naming}", f"no {registry.kind} is called {name!r}", suggest(name, registry.names()))
    import timm  # slow, and most configurations do without

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, [*ENCODERS.names(), *timm.list_models()])
        hint = f"Close: {', '.join(close)}. " if close else ""
        raise source.error(
            f"{key}.{naming}",
            f"neither an encoder nor a timm model is called {name!r}",
            f"{hint}Encoders: {', '.join(ENCODERS.names())}, and all that timm.list_models() names.",
        )
    taken = {option: p for option, p in options(ENCODERS, "timm").items() if option != "architecture"}
    return build(cls, values, key, source, taken, f"encoder {name!r}")


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    name: str
    options: dict[str, Any] = field(default_factory=dict)


def _task(name: str, values: Any, source: Source) -> TaskConfig:
    key = f"task.{name}"
    if not name.isidentifier():
        raise source.error(key, "a task's name must be a Python identifier")
    task = _section(TaskConfig, TASKS, "type", values, key, source)
    decoder = {"name": task.decoder} if isinstance(task.decoder, str) else task.decoder
    _section(_Decoder, DECODERS, "name", decoder, f"{key}.decoder", source)
    return task


def _impossible_data(config: Config) -> list[tuple[str, str]]:
    """The same for the keys of `data`."""
    data = config.data
    single = [key for key in ("name", "root", "train_size", "val_size") if getattr(data, key) is not None]
    weighted = [part.weight is not None for part in data.concat]
    rules = (
        (
            f"data.{single[0]}" if single else "",
            bool(data.concat and single),
            "belongs to a single data set, but data.concat names several; give it to one of them, or leave out one of "
            "the two (~data.concat or ~data.name)",
        ),
        ("data.mixing", data.mixing != "proportional" and not data.concat, "is about data.concat, which is not set"),
        (
            "data.temperature",
            (data.temperature is None) == (data.mixing == "temperature"),
            f"goes with data.mixing=temperature and with nothing else, found data.mixing={data.mixing}, "
            f"data.temperature={data.temperature}",
        ),
        (
            "data.concat",
            any(weighted) if data.mixing != "weights" else not all(weighted),
            "a weight for every data set goes with data.mixing=weights and with nothing else",
        ),
        (
            "data.validation",
            data.validation == "test" and config.protocol != "published",
            "selecting on test data makes every figure on it too good. Published tables do so: protocol=published "
            "allows it, and the results say it",
        ),
    )
    return [(key, why) for key, wrong, why in rules if wrong]


def _impossible(config: Config) -> list[tuple[str, str]]:
    """The keys whose values cannot go together with others, and why."""
    trainer, batch, encoder = config.trainer, config.data.batch_size, config.model.encoder
    accumulation = trainer.accumulation
    untrained = encoder in ENCODERS.names() and "pretrained" not in options(ENCODERS, encoder)
    monitored, _, metric = (trainer.monitor or "").partition("/")
    rules = (
        ("task", not config.task, "there is no task to learn"),
        ("output_dir", not config.output_dir, "the name of the run's folder is empty"),
        ("model.pretrained", config.model.pretrained and untrained, f"encoder {encoder!r} takes no pretrained weights"),
        (
            "trainer.max_steps",
            trainer.max_steps is None and trainer.max_epochs is None,
            "training has no end; set trainer.max_steps or trainer.max_epochs",
        ),
        (
            "data.batch_size",
            batch % accumulation,
            f"{batch} samples do not divide into trainer.accumulation={accumulation} equal parts",
        ),
        (
            "trainer.warmup_steps",
            trainer.max_steps is not None and trainer.warmup_steps >= trainer.max_steps,
            f"{trainer.warmup_steps} is not less than trainer.max_steps={trainer.max_steps}",
        ),
        (
            "trainer.eval_every_epochs",
            trainer.eval_every is not None and trainer.eval_every_epochs is not None,
            f"it does not go with trainer.eval_every={trainer.eval_every}",
        ),
        (
            "trainer.step_size",
            trainer.schedule == "step" and (trainer.step_size is None) == (trainer.step_size_epochs is None),
            "trainer.schedule=step needs either it or trainer.step_size_epochs",
        ),
        (
            "trainer.monitor",
            trainer.monitor is not None and (monitored not in (*config.task, "*") or not metric),
            f"expected <task>/<metric> with a task of {', '.join(config.task)}, or */<metric>, found "
            f"{trainer.monitor!r}",
        ),
    )
    return [(key, why) for key, wrong, why in rules if wrong]


def unused(trainer: TrainerConfig) -> Iterator[tuple[str, str]]:
    """The keys of `trainer` that were set and that another key leaves without effect."""
    owners = {"momentum": ("optimizer", "sgd"), "power": ("schedule", "poly")}
    owners |= dict.fromkeys(("step_size", "step_size_epochs", "gamma"), ("schedule", "step"))
    defaults = {f.name: f.default for f in fields(trainer)}
    for key, (owner, value) in owners.items():
        if getattr(trainer, key) != defaults[key] and getattr(trainer, owner) != value:
            yield key, f"trainer.{owner} is {getattr(trainer, owner)!r}, not {value!r}"
