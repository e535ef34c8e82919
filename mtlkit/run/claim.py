"""One folder, one run: a run marks its folder as used before it starts any work."""

import contextlib
import datetime
import errno
import json
import os
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from mtlkit import distributed

CLAIM = ".claim"
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # the errors of file systems without hard links


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Creates the folder and reserves it for this run within the block. All processes of the run call it.

    The main process writes `folder/.claim` with the host, the process, the start time of the process, and the time. It
    replaces the claim of a dead process of this host. Schedulers end a job with SIGTERM. Within the block, SIGTERM
    works like an error, so the claim is removed. Only SIGKILL and a lost machine leave a claim behind.

    Raises:
        FileExistsError: a living process uses the folder, or a process of another host, whose state is unknown.
        OSError: the folder cannot be created or written.
    """
    claim = _Claim(folder)
    try:
        distributed.main_decides(claim.take)
        with _terminable():
            yield
    finally:
        claim.release()


class _Claim:
    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / CLAIM
        self.made = False  # whether this run created the folder
        self.text = ""  # the content of the claim, once this run owns it

    def take(self) -> None:
        """Writes the claim under another name first. Renames it only if there is no claim or a dead process's claim."""
        # Written whole first and then linked to its name: another process never sees a claim with half its text. The
        # token tells our claim from a later one of a process with the same number.
        token = uuid.uuid4().hex
        text, own = json.dumps(_me() | {"token": token}), self.folder / f"{CLAIM}.{token}.tmp"
        try:
            self.made = self.made or not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"output_dir={self.folder} cannot be made: {error}") from error
        try:
            own.write_text(text)
            while not (_create(self.path, own) or self._take_over(own)):
                pass
        except FileNotFoundError:  # another start, which failed at the same time, removed the folder again
            return self.take()
        except PermissionError as error:
            raise PermissionError(f"output_dir={self.folder} cannot be written: {error}") from error
        finally:
            own.unlink(missing_ok=True)
        self.text = text
        return None

    def _take_over(self, own: Path) -> bool:
        """Replaces the claim of a dead process. Returns False if that claim is gone. Raises `FileExistsError`."""
        import fcntl  # not available on every system; only an old claim needs it

        try:
            with self.path.open() as file:
                self._check_dead(file.read())
                try:
                    fcntl.flock(file, fcntl.LOCK_EX)  # if several runs found it dead, only one continues
                except OSError as error:
                    raise FileExistsError(f"{self._left_behind()} Locks do not work here ({error}).") from error
                if not os.path.sameopenfile(file.fileno(), (now := self.path.open()).fileno()):
                    now.close()
                    return False
                now.close()
                own.replace(self.path)
        except FileNotFoundError:
            if not self.folder.exists():
                raise
            return False
        return True

    def _check_dead(self, text: str) -> None:
        try:
            owner = json.loads(text)
            host, space, pid, born = (owner[key] for key in ("host", "pid_namespace", "pid", "born"))
            who = f"process {pid} on {host}, since {owner['since']}"
        except (ValueError, KeyError, TypeError):
            raise FileExistsError(f"{self._left_behind()} It cannot be read.") from None
        if (host, space) != (_me()["host"], _me()["pid_namespace"]):
            raise FileExistsError(
                f"{self.folder} is in use: {who}. That is another machine or container, so nobody here can see whether "
                f"it still runs. If it does not, remove {self.path}. Otherwise choose another output_dir."
            )
        if _lives(pid, born):
            raise FileExistsError(f"{self.folder} is in use: {who}. Wait for it, end it, or choose another output_dir.")

    def _left_behind(self) -> str:
        return f"{self.path} says that {self.folder} is in use. If no process trains there, remove that file."

    def release(self) -> None:
        """Removes the claim. Removes the folder, too, if this run created it and it is empty."""
        if not self.text:  # this process owns no claim: it is not the main one, or taking it failed
            return
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_text() == self.text:  # somebody may have removed our claim and started another run
                self.path.unlink()
        if self.made:
            with contextlib.suppress(OSError):  # the folder is not empty
                self.folder.rmdir()


def _create(path: Path, own: Path) -> bool:
    """Creates `path` with the content of `own`. Returns False if the file exists already."""
    # A hard link is made only if the name is free, in one step, on network file systems, too.
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            with path.open("x") as file:
                file.write(own.read_text())
        except FileExistsError:
            return False
    return True


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "born": _birth(os.getpid()),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _pid_namespace() -> str:
    """Returns the process namespace, because containers of one host may number their processes separately."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _lives(pid: int, born: str) -> bool:
    """Returns whether the process still runs. A process number can be used again, but not with the same start time."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process belongs to another user
    return _birth(pid) in (born, None)


def _birth(pid: int) -> str | None:
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
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into a `SystemExit` with status 143, unless the program already handles SIGTERM."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
