"""Multi-task training for PyTorch: interchangeable balancers on one engine.

A name is imported when it is first used (PEP 562). Importing torch takes a second. `mtlkit --help`, and anybody who
needs only a small part of mtlkit, need not wait for it.
"""

import importlib.metadata
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in `_HOMES`, for type checkers and editors
    from mtlkit.balancer import BALANCERS, Balancer, GramBalancer, LossBalancer
    from mtlkit.data.dataset import DATASETS, Dataset
    from mtlkit.loop.balanced import Balanced
    from mtlkit.network import DECODERS, ENCODERS, Decoder, Encoder, EncoderInfo
    from mtlkit.observer import OBSERVERS, Observer
    from mtlkit.run.experiment import Experiment
    from mtlkit.run.load import load
    from mtlkit.step import Step
    from mtlkit.target import KINDS, DenseKind, Kind, Target
    from mtlkit.task import TASKS, Task

    __version__: str

__all__ = [
    "BALANCERS",
    "DATASETS",
    "DECODERS",
    "ENCODERS",
    "KINDS",
    "OBSERVERS",
    "TASKS",
    "Balanced",
    "Balancer",
    "Dataset",
    "Decoder",
    "DenseKind",
    "Encoder",
    "EncoderInfo",
    "Experiment",
    "GramBalancer",
    "Kind",
    "LossBalancer",
    "Observer",
    "Step",
    "Target",
    "Task",
    "__version__",
    "load",
]

_HOMES = {
    "mtlkit.balancer": ("BALANCERS", "Balancer", "GramBalancer", "LossBalancer"),
    "mtlkit.data.dataset": ("DATASETS", "Dataset"),
    "mtlkit.loop.balanced": ("Balanced",),
    "mtlkit.network": ("DECODERS", "ENCODERS", "Decoder", "Encoder", "EncoderInfo"),
    "mtlkit.observer": ("OBSERVERS", "Observer"),
    "mtlkit.run.experiment": ("Experiment",),
    "mtlkit.run.load": ("load",),
    "mtlkit.step": ("Step",),
    "mtlkit.target": ("KINDS", "DenseKind", "Kind", "Target"),
    "mtlkit.task": ("TASKS", "Task"),
}  #: the module of each name


def __getattr__(name: str) -> Any:
    if name == "__version__":  # pyproject.toml has it, and the installed package repeats it
        return importlib.metadata.version("mtlkit")
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(module), name)
            globals()[name] = value  # so that Python finds it there the next time
            return value
    raise AttributeError(f"module 'mtlkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
