"""Starts processes and agents as README.md says."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    "accelerate launch": [sys.executable, "-m", "accelerate.commands.launch"],
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def line_of_readme(launcher: str, *, nodes: bool = False) -> str:
    """Returns the launcher's line, that for several machines with `nodes`."""
    lines = re.findall(rf"^    ({launcher} .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    (line,) = [line for line in lines if ("--nnodes" in line) == nodes]
    return line


def command(line: str, experiment: str, processes: int, words: list[str], port: int | None = None) -> list[str]:
    """Returns the line as it can run here: with another experiment, so many processes, and more words."""
    (launcher,) = [name for name in LAUNCHERS if line.startswith(name)]
    line, changed = re.subn(r"(--nproc_per_node|--num_processes) \d+", rf"\1 {processes}", line)
    assert changed == 1, line
    if port is not None:
        line, changed = re.subn(r"node1:\d+", f"127.0.0.1:{port}", line)
        assert changed == 1, line
    given = shlex.split(line.removeprefix(launcher))
    at = given.index("scenes")
    return [*LAUNCHERS[launcher], *given[:at], experiment, *given[at + 1 :], *words]


def start(words: list[str], **more) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | more.pop("env", {})
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def ranks(words: list[list[str]], **more) -> list[subprocess.Popen]:
    """Starts one process of a run for each list of words, as a launcher does."""
    common = {"WORLD_SIZE": str(len(words)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "mtlkit"]
    return [
        start([*command, *own], env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **more)
        for rank, own in enumerate(words)
    ]


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Waits for the processes and returns the status of each, and what it said on stderr."""
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:  # an agent ends its workers, but not when it is killed
            process.terminate()
            process.wait()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
