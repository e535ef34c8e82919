"""Reads the part of a run's configuration that its trained model needs. The data set and its plug-in may be gone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtlkit.config.checks import check_trained
from mtlkit.config.plugins import import_found
from mtlkit.config.schema import TrainedConfig
from mtlkit.config.sections import SECTIONS, named
from mtlkit.config.yaml_files import read_mapping
from mtlkit.target import KINDS
from mtlkit.typed import Source


def read_trained(path: Path, kinds: Mapping[str, str], *, adapters: bool, trusted: bool) -> TrainedConfig:
    """Reads a run's config.yaml. It imports plug-ins only if the model needs a class that is not registered yet.

    Args:
        kinds: the kind of each target of the run, by the target's name.
        adapters: whether the balancer changes what the decoders get. If not, the model does without the balancer.
        trusted: whether the plug-ins of this file may be imported. They are code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken.
        LookupError: the model needs a class that cannot be found.
    """
    values = read_mapping(path)
    if not adapters:
        values.pop("balancer", None)
    plugins = [str(module) for module in values.get("plugins") or ()]
    if plugins and list(_unknown(values, kinds)):
        absent = list(import_found(plugins)) if trusted else plugins
        if unknown := list(_unknown(values, kinds)):
            raise LookupError(f"{path}: the model needs {', '.join(unknown)}. {_advice(plugins, absent, trusted)}")
    return check_trained(values, Source(str(path)))


def _advice(plugins: list[str], absent: list[str], trusted: bool) -> str:
    if not trusted:
        return (
            "mtlkit never imports a module because a file from the hub names it. This one names "
            f"{', '.join(plugins)}. If you have that code and trust it, import it before you call mtlkit.load."
        )
    if absent:
        return (
            f"That is code of the run's plug-ins, and Python finds no module {' and no '.join(absent)}. Put the folder "
            "of that module on PYTHONPATH, or install it. (A plug-in with nothing but a data set is not needed.)"
        )
    return f"The run's plug-ins ({', '.join(plugins)}) do not define that any more."


def _unknown(values: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[str]:
    """Yields the classes that the model needs and that nobody has registered, in words."""
    parts: list[tuple[tuple[str, ...], Any]] = [
        (("model",), values.get("model")),
        (("balancer",), values.get("balancer")),
    ]
    tasks = values.get("task")
    for name, task in tasks.items() if isinstance(tasks, Mapping) else ():
        parts.append((("task", "*"), task))
        if isinstance(task, Mapping):
            parts.append((("task", "*", "decoder"), task.get("decoder")))
        if kinds.get(name, "") not in ("", *KINDS.names()):
            yield f"the kind of target {kinds[name]!r}"
    for path, part in parts:
        section = SECTIONS[path]
        name = named(part, section)
        if name is not None and not section.knows(name):
            yield f"the {section.registry.kind} {name!r}"
