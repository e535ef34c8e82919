"""One folder, one run: a run marks its folder as used before it starts any work."""

import contextlib
import errno
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from mtlkit import distributed
from mtlkit.process import read_mark, state_of, this_process
from mtlkit.run.stop import ends_by_signal

CLAIM = ".claim"
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # the errors of file systems without hard links


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Creates the folder and reserves it for this run within the block. All processes of the run call it.

    The main process writes `folder/.claim` with the mark of its process (`mtlkit.process`). It replaces the claim of a
    dead process of this machine. Within the block, the signals of `mtlkit.run.stop` work like an error, so the claim is
    removed. Only SIGKILL and a lost machine leave a claim behind.

    Raises:
        FileExistsError: a living process uses the folder, or a process of another machine, whose state is unknown. The
            message names the file that a user can remove.
        OSError: the folder cannot be created or written.
        Stopped: a signal has arrived.
    """
    claim = _Claim(folder)
    try:
        with ends_by_signal():
            distributed.main_decides(claim.take)
            yield
    finally:
        claim.release()


class _Claim:
    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / CLAIM
        self.made = False  # whether this run created the folder
        self.text = ""  # the content of our claim

    def take(self) -> None:
        """Writes the claim under another name first. Renames it only if there is no claim or a dead process's claim."""
        # Written whole first and then linked to its name: another process never sees a claim with half its text. The
        # token tells our claim from a later one of a process with the same number.
        token = uuid.uuid4().hex
        text, own = json.dumps(this_process() | {"token": token}), self.folder / f"{CLAIM}.{token}.tmp"
        try:
            self.made = self.made or not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"output_dir={self.folder} cannot be made: {error}") from error
        try:
            own.write_text(text)
            self.text = text  # before it has its name, so that a signal right after that leaves no claim
            while not (_create(self.path, own, text) or self._take_over(own)):
                pass
        except FileNotFoundError:  # another start, which failed at the same time, removed the folder again
            return self.take()
        except FileExistsError:
            self.text = ""
            raise
        except OSError as error:
            raise type(error)(f"output_dir={self.folder} cannot be written: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                own.unlink(missing_ok=True)
        for left in self.folder.glob(f"{CLAIM}.*.tmp"):  # of a start that was killed; a living one writes its own anew
            left.unlink(missing_ok=True)
        return None

    def _take_over(self, own: Path) -> bool:
        """Replaces the claim of a dead process. Returns False if that claim is gone. Raises `FileExistsError`."""
        import fcntl  # not available on every system; only an old claim needs it

        try:
            self._check_dead()
            with self.path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX)  # if several runs found it dead, only one continues
                except OSError as error:
                    raise FileExistsError(f"{self._left_behind()} Locks do not work here ({error}).") from error
                with self.path.open() as now:
                    if not os.path.sameopenfile(file.fileno(), now.fileno()):
                        return False
                self._check_dead()  # the claim that is locked now may be another one
                own.replace(self.path)
        except FileNotFoundError:
            if not own.exists():
                raise
            return False
        return True

    def _check_dead(self) -> None:
        try:
            mark = read_mark(self.path)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise FileExistsError(f"{self._left_behind()} It cannot be read: {error}") from None
        who = f"process {mark['pid']} on {mark['host']}, since {mark['since']}"
        state = state_of(mark)
        if state == "unknown":
            raise FileExistsError(
                f"{self.folder} is in use: {who}. That is another machine or container, so nobody here can see whether "
                f"it still runs. If it does not, remove {self.path}. Otherwise choose another output_dir."
            )
        if state == "alive":
            raise FileExistsError(
                f"{self.folder} is in use: {who}. Wait for it, end it, or choose another output_dir. If that process "
                f"does not belong to mtlkit, remove {self.path}."
            )

    def _left_behind(self) -> str:
        return f"{self.path} says that {self.folder} is in use. If no process trains there, remove that file."

    def release(self) -> None:
        """Removes the claim. Removes the folder, too, if this run created it and it is empty."""
        if not self.text:  # this process has no claim: it is not the main one, or taking it failed
            return
        try:
            if self.path.read_text() == self.text:  # somebody may have removed our claim and started another run
                self.path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:  # must not hide how the run ended; the claim counts no more when this process is dead
            warnings.warn(f"The claim {self.path} could not be removed: {error}.", stacklevel=2)
        if self.made:
            with contextlib.suppress(OSError):  # the folder is not empty
                self.folder.rmdir()


def _create(path: Path, own: Path, text: str) -> bool:
    """Creates `path` with `text`, the content of `own`. Returns False if there is something of that name."""
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
                file.write(text)
        except FileExistsError:
            return False
    return True
