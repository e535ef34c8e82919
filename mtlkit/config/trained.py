"""Reads the part of a run's configuration that its trained model needs. The data set and its plug-in may be gone."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtlkit.config.checks import check_trained
from mtlkit.config.plugins import TRUST, checked, exists, import_found, installed
from mtlkit.config.schema import TrainedConfig
from mtlkit.config.sections import SECTIONS, named
from mtlkit.config.yaml_files import read_mapping
from mtlkit.plain_text import short
from mtlkit.run_folder import DATA
from mtlkit.target import KINDS
from mtlkit.typed import Source


def read_trained(path: Path, kinds: Mapping[str, str], *, adapters: bool, from_hub: bool) -> TrainedConfig:
    """Reads a run's config.yaml. It imports plug-ins only if the model needs a class that is not registered yet.

    Then it imports those that are installed, and nothing at all for a model from the hub. The user may have imported
    the others before.

    Args:
        kinds: the kind of each target of the run, by the target's name.
        adapters: whether the balancer changes what the decoders get. If not, the model does without the balancer.
        from_hub: whether it is the file of a model from the hub.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken.
        LookupError: the model needs a class that cannot be found.
    """
    values = read_mapping(path)
    if not adapters:
        values.pop("balancer", None)
    plugins = checked(values.get("plugins"), Source(str(path)))
    if plugins and list(_unknown(values, kinds)):
        if not from_hub:
            import_found(module for module in plugins if installed(module))
        if unknown := list(_unknown(values, kinds)):
            raise LookupError(f"{path}: the model needs {', '.join(unknown)}. {_advice(plugins, from_hub)}")
    return check_trained(values, Source(str(path)))


def _advice(plugins: list[str], from_hub: bool) -> str:
    new = [module for module in plugins if module not in sys.modules]
    if not new:
        return f"The run's plug-ins ({', '.join(plugins)}) do not define that any more."
    if from_hub:
        return (
            "mtlkit never imports a module because a file from the hub names it. This one names "
            f"{', '.join(new)}. If you have that code and trust it, import it before you call mtlkit.load."
        )
    if absent := [module for module in new if not exists(module)]:
        return (
            f"That is code of the run's plug-ins, and Python finds no module {' and no '.join(absent)}. Call mtlkit in "
            f"the folder of that module and trust it ({TRUST}), or install it. (A plug-in with nothing but a data set "
            "is not needed.)"
        )
    return (
        f"That is code of the run's plug-ins, and no installed package provides {' and '.join(new)}. A run's own file "
        f"may come from anyone. If you trust that code, {TRUST}."
    )


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
            yield f"the kind of target {short(kinds[name], 100)!r} (in {DATA})"
    for path, part in parts:
        section = SECTIONS[path]
        name = named(part, section)
        if name is not None and not section.knows(name):
            yield f"the {section.registry.kind} {name!r}"
