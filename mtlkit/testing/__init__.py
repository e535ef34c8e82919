"""Checks for the plug-ins of others."""

from mtlkit.testing.kit import check_balancer

__all__ = ["check_balancer"]
