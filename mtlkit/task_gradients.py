"""What a step has of its task gradients, whatever the space in which they are compared."""

from abc import ABC, abstractmethod

from torch import Tensor

from mtlkit.gradients import Row
from mtlkit.network import Features


class TaskGradients(ABC):
    """The K task gradients of one backward pass, in the space where the balancer compares them.

    Each method raises `ValueError` while there are no gradients: before the backward pass, and after it.
    """

    @abstractmethod
    def gram(self) -> Tensor:
        """Returns (k, k) float64 on the host: their inner products over all processes.

        They stay known after the backward pass.
        """

    @abstractmethod
    def cross_gram(self) -> Tensor:
        """Returns (k, k) float64 on the host: inner products of g_i on one half of the batch with g_j on the other."""

    @abstractmethod
    def jacobian(self) -> Tensor:
        """Returns (k, P): the gradients over the shared parameters, summed over all processes."""

    @abstractmethod
    def local_gradients(self) -> list[Row]:
        """Returns the gradients at this process's features: one row per task, one tensor per level (None: not used)."""

    @abstractmethod
    def local_features(self) -> Features:
        """Returns the features of this process's samples, one tensor per level."""

    @abstractmethod
    def reaches(self, level: int) -> bool:
        """Returns whether any task has a gradient at this level of the features."""
