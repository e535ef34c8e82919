"""Facts about how a run was started: the command, the code in the current folder, and the device."""

import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PATIENCE = 2.0  #: seconds that git gets for each answer
#: A configuration that came with a folder could make git start programs. The folder may be anybody's.
SAFE = ("-c", "core.fsmonitor=false", "-c", "protocol.allow=never")


def started_by() -> dict[str, Any]:
    """Returns `command`, the words as they were typed, and `commit` of the current folder, if there are any.

    Nothing in them identifies the user or the machine, except for the words themselves.
    """
    found = {"command": command(sys.argv), "commit": commit(Path.cwd())}
    return {key: value for key, value in found.items() if value is not None}


def command(words: list[str]) -> str | None:
    """Returns the words of the command `mtlkit`, or None where another program uses mtlkit.

    >>> command(["/venv/bin/mtlkit", "train", "scenes", "data.size=[64, 48]"])
    "mtlkit train scenes 'data.size=[64, 48]'"
    >>> command(["/venv/lib/mtlkit/__main__.py", "report", "runs/a"]), command(["train.py"])
    ('mtlkit report runs/a', None)
    """
    program = Path(words[0]) if words else Path()
    if program.stem != "mtlkit" and program.parts[-2:] != ("mtlkit", "__main__.py"):
        return None
    return shlex.join(["mtlkit", *words[1:]])


def commit(folder: Path) -> dict[str, Any] | None:
    """Returns the `hash` of the commit that a folder has checked out, and `changed`: whether tracked files differ.

    Returns None if the folder is in no git checkout, and if git is not installed or is slow. `changed` is None if that
    is not known: git took too long, or the checkout has filters of its own, which are programs.
    """
    found = _git(folder, "rev-parse", "HEAD")
    if found is None or not re.fullmatch(r"[0-9a-f]{40,64}", found.strip()):
        return None
    settings = _git(folder, "config", "--list", "--name-only", "--show-scope")
    own = [line.split("\t")[-1] for line in (settings or "").splitlines() if line.startswith(("local", "worktree"))]
    status = None
    if settings is not None and not any(name.startswith("filter.") for name in own):
        words = ("--porcelain", "--untracked-files=no", "--ignore-submodules=all", "--no-renames")
        status = _git(folder, "status", *words)
    return {"hash": found.strip(), "changed": None if status is None else bool(status.strip())}


def _git(folder: Path, *words: str) -> str | None:
    """Returns what git prints, or None if it fails. It writes nothing, asks nothing and fetches nothing."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    try:
        found = subprocess.run(
            ["git", *SAFE, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.decode(errors="replace")


def device_in_words(device: torch.device) -> str:
    """Returns the name of the accelerator, or that of the CPU with the number of threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} {'thread' if threads == 1 else 'threads'}"


def _cpu() -> str:
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine() or "CPU"
