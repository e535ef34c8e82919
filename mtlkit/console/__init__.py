"""Shows a run on a terminal: its phases, its progress, and how it ended."""

from mtlkit.console.observer import Console

__all__ = ["Console"]
