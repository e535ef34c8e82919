"""Processes: a mark that says which one something belongs to, whether that one still lives, and how children end."""

import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

LONGEST = 10_000  #: bytes of a mark that are read; those that mtlkit writes have a few hundred
#: What a launcher or Ctrl-C sends to a whole group of processes, although it is meant for the main one. Only systems
#: on which a process can see who sent a signal (Linux) can keep it from the others.
FOR_THE_MAIN_ONE = (
    frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
    if hasattr(signal, "sigtimedwait")
    else frozenset()
)


_threads: WeakSet[threading.Thread] = WeakSet()  # that must not run while this process is forked


def start_before_forks(thread: threading.Thread) -> None:
    """Starts a thread that `wait_for_threads` waits for."""
    _threads.add(thread)
    thread.start()


def wait_for_threads() -> None:
    """Returns when these threads have ended. Whoever forks this process calls it before.

    It is no hook of `os.fork`: Python swallows what a hook raises, also Ctrl-C.
    """
    for thread in list(_threads):
        if thread is not threading.current_thread():
            thread.join()


def this_process() -> dict[str, Any]:
    """Returns the mark of this process, for JSON."""
    return {
        "host": socket.gethostname(),
        "machine": _line("/etc/machine-id"),
        "boot": _line("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "born": birth(os.getpid()),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def read_mark(path: Path) -> dict[str, Any]:
    """Reads the mark of a process from a file. Raises `ValueError` if it is no such mark, `OSError` as reading does."""
    if path.is_symlink() or not path.is_file():  # a pipe could be read for ever
        path.lstat()
        raise ValueError("It is not a file.")
    with path.open("rb") as file:
        text = file.read(LONGEST)
    try:
        mark = json.loads(text)
        words = [mark[key] for key in ("host", "pid_namespace", "since")]
        words += [mark.get(key, "") for key in ("machine", "boot")]
        fits = all(isinstance(word, str) and word.isprintable() for word in words)
        fits = fits and type(mark["pid"]) is int and 0 < mark["pid"] < 2**31
        fits = fits and isinstance(mark["born"], str | None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise ValueError("It is not what mtlkit writes there.")
    return dict(mark)


def state_of(mark: dict[str, Any]) -> Literal["alive", "dead", "unknown"]:
    """Returns whether the process of a mark lives. `unknown`: it is one of another machine or container."""
    # No clock decides: clocks are set back, and those of two machines differ.
    me = this_process()
    boot = mark.get("boot") or me["boot"]  # marks of older releases have none
    if boot != me["boot"]:
        # Another machine, which may have our name, or this one before it was started again. Then nothing of it lives.
        ours = (mark["host"], mark.get("machine")) == (me["host"], me["machine"]) and me["machine"]
        return "dead" if ours else "unknown"
    host = me["host"] if mark.get("boot") else mark["host"]  # the same boot: the same machine, whatever its name is
    if (host, mark["pid_namespace"]) != (me["host"], me["pid_namespace"]):
        return "unknown"
    return "alive" if _lives(mark["pid"], mark["born"]) else "dead"


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Returns the process namespace, because containers of one host may number their processes separately."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _lives(pid: int, born: str | None) -> bool:
    """Returns whether the process still runs. A process number can be used again, but not with the same start time."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process belongs to another user
    return birth(pid) in (born, None)


def birth(pid: int) -> str | None:
    """Returns the start time of a process in the system's format: "" if it has ended, None if it is unknown."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # for example, the mount option hidepid hides the process
            return None
        return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended; its parent has not yet collected it
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@contextlib.contextmanager
def for_main_only(signals: Set[signal.Signals] = FOR_THE_MAIN_ONE) -> Iterator[None]:
    """Starts children within the block that do not get `signals`. Something else must end them: `end_with_parent`."""
    # Blocked, and not ignored: this process gets what arrives meanwhile, after the block. Children inherit the block,
    # so there is no moment in which Ctrl-C makes a worker print a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if signals else set()
    try:
        yield
    finally:
        if signals:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int, sender: int | None = None) -> None:
    """Ends this process when its `parent` has ended, also by SIGKILL, or when `sender` (None: the parent) ends it.

    `sender` does so by SIGTERM. A thread looks once a second, so it also ends a process whose main thread works on.
    """

    def watch() -> None:
        while os.getppid() == parent:
            if (found := _terminated(1.0)) and found == (sender or parent):
                break
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="end_with_parent").start()


def terminate_when(ended: Callable[[], bool]) -> None:
    """Sends SIGTERM to this process when `ended()` is true. A thread looks once a second."""

    def watch() -> None:
        while not ended():
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="terminate_when").start()


def _terminated(seconds: float) -> int:
    """Waits so long for a blocked SIGTERM. Returns the process that sent it, or 0."""
    if not FOR_THE_MAIN_ONE:
        time.sleep(seconds)
        return 0
    found = signal.sigtimedwait({signal.SIGTERM}, seconds)
    return found.si_pid if found else 0
