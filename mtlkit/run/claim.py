"""One folder, one run: who trains in a folder says so in it, before any work."""

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
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without hard links answer


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder, which is made, belongs to this run within the block. All processes of the run call it.

    The main process writes `folder/.claim`: host, process, when that was started, and the time. A claim of a process of
    this host that is dead is taken over. SIGTERM, by which schedulers end a job, ends the block like an error, so that
    the claim is given up then, too; only SIGKILL and a lost machine leave one behind.

    Raises:
        FileExistsError: a living process has the folder, or one of another host, of which nothing can be known.
        OSError: the folder cannot be made or written.
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
        self.made = False  # whether there was no such folder
        self.text = ""  # of the claim, once it is ours

    def take(self) -> None:
        """Writes the claim whole under another name, and gives it its own only where there is none or a dead one's."""
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
        except FileNotFoundError:  # the folder: a start that failed beside this one took it away again
            return self.take()
        except PermissionError as error:
            raise PermissionError(f"output_dir={self.folder} cannot be written: {error}") from error
        finally:
            own.unlink(missing_ok=True)
        self.text = text
        return None

    def _take_over(self, own: Path) -> bool:
        """Replaces the claim of a dead process; false where it is gone by now. Raises `FileExistsError`."""
        import fcntl  # not everywhere; only a claim that was left behind needs it

        try:
            with self.path.open() as file:
                self._check_dead(file.read())
                try:
                    fcntl.flock(file, fcntl.LOCK_EX)  # of several that found it dead, one goes on
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
        return f"{self.folder} is in use, says {self.path}. If no process trains there, remove that file."

    def release(self) -> None:
        """Gives the folder up, and takes it away where this run made it and left nothing in it."""
        if not self.text:
            return
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_text() == self.text:  # not where somebody removed it by hand, and somebody else came
                self.path.unlink()
        if self.made:
            with contextlib.suppress(OSError):  # it is not empty
                self.folder.rmdir()


def _create(path: Path, own: Path) -> bool:
    """Whether `path` could be made, with the content of `own`, by this process alone."""
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
    """Containers of one host may count their processes for themselves."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _lives(pid: int, born: str) -> bool:
    """Whether the process is there: numbers are given away again, but not with the same start."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return _birth(pid) in (born, None)


def _birth(pid: int) -> str | None:
    """When the process was started, in the system's words; "" for one that ended, None where it cannot be known."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # such as hidden by the mount option hidepid
            return None
        return "" if fields[0] in "ZX" else fields[19]  # a zombie only waits to be counted
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM a `SystemExit` with the status 143, unless somebody else takes care of it."""
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
