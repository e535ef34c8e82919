"""Multi-task training for PyTorch: interchangeable balancers on one engine."""

from mtlkit.balancer import BALANCERS, Balancer, GramBalancer, LossBalancer
from mtlkit.data.dataset import DATASETS, Dataset, Target
from mtlkit.step import Step
from mtlkit.task import DECODERS, ENCODERS, TASKS, Decoder, Encoder, EncoderInfo, Task

__all__ = [
    "BALANCERS",
    "DATASETS",
    "DECODERS",
    "ENCODERS",
    "TASKS",
    "Balancer",
    "Dataset",
    "Decoder",
    "Encoder",
    "EncoderInfo",
    "GramBalancer",
    "LossBalancer",
    "Step",
    "Target",
    "Task",
]
