"""The parts of the harness, and how each runs in a process of its own."""

import importlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trust.result import Result


def _part(module: str, function: str = "run") -> Callable[[Path, int, int], Result]:
    def run(folder: Path, seed: int, count: int) -> Result:
        found: Result = getattr(importlib.import_module(f"trust.{module}"), function)(folder, seed, count)
        return found

    return run


#: The parts: what runs them, and with how many cases.
PARTS: dict[str, tuple[Callable[[Path, int, int], Result], int]] = {
    "kills": (_part("kills"), 50),
    "configurations": (_part("configurations"), 10_000),
    "command_lines": (_part("command_lines"), 1000),
    "files": (_part("files"), 1000),
    "checkpoints": (_part("checkpoints"), 250),
    "full_disk": (_part("long_runs", "full_disk"), 20),
    "long_run": (_part("long_runs", "long_run"), 20_000),
    "long_log": (_part("long_runs", "long_log"), 100_000),
}


def alone(name: str, folder: Path, seed: int, count: int) -> Result:
    """Runs a part in a process of its own: a crash of a library is a fault of the part, and memory starts anew."""
    context = multiprocessing.get_context("spawn")
    results, own = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(own, name, folder, seed, count))
    child.start()
    own.close()
    try:
        found: Result = results.recv()
    except EOFError:
        child.join()
        found = Result()
        found.fault(f"the process died, status {child.exitcode}")
    child.join()
    return found


def _send(pipe: Any, name: str, folder: Path, seed: int, count: int) -> None:
    pipe.send(PARTS[name][0](folder, seed, count))
