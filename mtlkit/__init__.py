"""Multi-task training for PyTorch: interchangeable balancers on one engine."""

from typing import TYPE_CHECKING, Any

from mtlkit.balancer import BALANCERS, Balancer, GramBalancer, LossBalancer
from mtlkit.data.dataset import DATASETS, Dataset
from mtlkit.network import DECODERS, ENCODERS, Decoder, Encoder, EncoderInfo
from mtlkit.step import Step
from mtlkit.target import KINDS, DenseKind, Kind, Target
from mtlkit.task import TASKS, Task

if TYPE_CHECKING:
    from mtlkit.run.experiment import Experiment

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":  # pyproject.toml has it, and the installed package repeats it
        from importlib.metadata import version

        return version("mtlkit")
    if name == "Experiment":  # which imports all that training needs
        from mtlkit.run.experiment import Experiment

        return Experiment
    raise AttributeError(f"module 'mtlkit' has no attribute {name!r}")


__all__ = [
    "BALANCERS",
    "DATASETS",
    "DECODERS",
    "ENCODERS",
    "KINDS",
    "TASKS",
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
    "Step",
    "Target",
    "Task",
    "__version__",
]
