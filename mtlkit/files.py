"""Writes files so that no reader sees a half-written file, and so that they survive a power cut."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # the errors of file systems that cannot sync a folder


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes a file under a temporary name beside it and renames it, so that no reader sees a half-written file.

    The data may come in parts, which are then never in memory together.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(number)
