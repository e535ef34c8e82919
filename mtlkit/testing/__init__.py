"""Checks that plug-in authors run on their own classes."""

from mtlkit.testing.datasets import check_dataset
from mtlkit.testing.kit import check_balancer
from mtlkit.testing.tasks import check_task

__all__ = ["check_balancer", "check_dataset", "check_task"]
