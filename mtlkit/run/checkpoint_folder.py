"""The folders of checkpoints: how they are written, replaced and removed."""

import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from mtlkit.files import sync


def replace(folder: Path, new: Path, keep: str = "") -> None:
    """Puts a folder, which is on the disk, in the place of another one, which stays under the name `keep`, if any."""
    # A folder cannot be renamed onto another one. So the old one steps aside first, and `folder_of` looks for it there
    # if
    # the process dies between the two renamings.
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        aside = folder.with_name(keep) if keep else old
        remove(aside)
        folder.rename(aside)
    new.rename(folder)
    sync(folder.parent)
    sync(folder.parent.parent)  # where the first checkpoint has made `checkpoints`
    remove(old)  # only after the new one is in its place


def remove(folder: Path) -> None:
    """Removes a folder, if it is there, also a read-only one of this user."""
    if folder.exists():
        folder.chmod(stat.S_IRWXU)  # or nothing in it could be removed
        shutil.rmtree(folder)


def check_writable(run: Path) -> None:
    """Raises `PermissionError` if a run could not save its checkpoints, before it has something to lose."""
    folder = run / "checkpoints"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"{folder} can be read, but nothing can be written there ({error.strerror}), so the run could not save. "
            f"Make it writable, or go on in a writable copy of {run}. `mtlkit evaluate` and `mtlkit predict` only read."
        ) from error


def with_usual_mode(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` and sets the usual file mode, because safetensors makes files that only the owner can read."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write(path)
    path.chmod(mode)
