"""The most memory that a run took."""

import contextlib
import re
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


class PeakMemory:
    """Measures the peak from its creation on: of the GPU's allocator, and without a GPU of this whole process.

    A process has memory of its own before the run begins: Python and its modules take some hundred megabytes.

    Attributes:
        of: what is measured, in words.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.of = f"allocated on {device.type}" if device.type != "cpu" else "of the process"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Linux keeps the peak of the whole life of a process, in which other runs may have come before.
            self.began = _resident_peak()
            with contextlib.suppress(OSError):
                (PROCESS / "clear_refs").write_text("5")
                self.began = None

    def bytes(self) -> int | None:
        """Returns the peak in bytes, or None where this system does not tell it for this run alone."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        found = _resident_peak()
        if self.device.type != "cpu" or found is None or found == self.began:
            return None
        return found


def memory_now() -> tuple[int | None, str]:
    """Returns bytes and what they count: the peak on this process's GPU so far, or the memory of this process now.

    It does not wait for the GPU. The bytes are None on a system that does not tell them.
    """
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated()), "GPU peak"
    return _resident("VmRSS"), "process memory"


def _resident_peak() -> int | None:
    """Returns the peak of this process's memory as Linux counts it; None on other systems."""
    return _resident("VmHWM")


def _resident(name: str) -> int | None:
    try:
        text = (PROCESS / "status").read_text()
    except OSError:
        return None
    found = re.search(rf"{name}:\s*(\d+) kB", text)
    return 1024 * int(found[1]) if found else None
