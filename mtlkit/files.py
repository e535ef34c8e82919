"""Writing files so that none is ever seen half written."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name beside it and renames it, so that it is never seen half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
