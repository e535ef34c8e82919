"""The SHA-256 of every file of a checkpoint: written with it, and compared whenever a file of it is read."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mtlkit.files import sync

CHECKSUMS = "checksums.json"


def seal(folder: Path) -> None:
    """Writes the list of the files in a folder with their SHA-256, and waits until all of it is on the disk."""
    files = [path for path in _files(folder) if path.name != CHECKSUMS]
    write_list(folder, {path.relative_to(folder).as_posix(): _facts(path) for path in files})
    sync_all(folder)


def write_list(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Writes the list, which `read_list` returns."""
    (folder / CHECKSUMS).write_text(json.dumps({"files": files}, indent=1))


def read_list(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Returns the `sha256` and the number of `bytes` of every file by its name. None: the checkpoint has no list.

    Raises `ValueError` if the list is damaged.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    try:
        files: dict[str, dict[str, Any]] = json.loads(path.read_bytes())["files"]
        return {name: {"sha256": str(facts["sha256"]), "bytes": int(facts["bytes"])} for name, facts in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it does not list files with their SHA-256.") from error


def sync_all(folder: Path) -> None:
    """Waits until a folder and its files are on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def check(folder: Path, names: Collection[str]) -> str:
    """Compares files of a checkpoint with its list. Returns a remark if there is no list, and otherwise nothing.

    A file that nobody asks for is not looked at, whether the list has it or not.

    Raises:
        ValueError: a file is missing, damaged or not of this checkpoint, or the list is damaged.
    """
    wanted = read_list(folder)
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: the checkpoint was copied in part, or somebody removed the file.")
        if wanted is not None:
            _compare(path, wanted.get(name))
    if wanted is not None:
        return ""
    return (
        f"{folder} has no {CHECKSUMS} (earlier versions of mtlkit wrote none), so nobody would notice if its files "
        "were damaged."
    )


def listed(folder: Path, below: str) -> list[str]:
    """Returns the files of a sub-folder by their names in the list, such as `optimizer/shard-1.safetensors`.

    Without a list, they are the files that are there.
    """
    names = read_list(folder)
    if names is None:
        names = dict.fromkeys(path.relative_to(folder).as_posix() for path in _files(folder))  # type: ignore[assignment]
    return [name for name in names or () if name.startswith(f"{below}/")]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _compare(path: Path, wanted: dict[str, Any] | None) -> None:
    if wanted is None:
        raise ValueError(f"{path} is not a file of this checkpoint: {CHECKSUMS} beside it does not list it.")
    found = _facts(path)
    if found == wanted:
        return
    what, least, most = "SHA-256", found["sha256"], wanted["sha256"]
    if found["bytes"] != wanted["bytes"]:
        what, least, most = "number of bytes", found["bytes"], wanted["bytes"]
    raise ValueError(f"{path} is damaged: its {what} is {least}, and {CHECKSUMS} beside it says {most}.")


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
