"""The manifest of a prepared data set: it describes the data set and lists its files."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from mtlkit.data.blocks import AGAIN, Block, block_file, is_whole
from mtlkit.data.dataset import SPLITS, Camera, Target
from mtlkit.registry import suggest
from mtlkit.typed import Count, Source, to_dataclass

MANIFEST, FORMAT, VERSION = "manifest.json", "mtlkit prepared data set", 2
READ = (1, VERSION)  #: version 2 has more types of stored numbers


@dataclass(frozen=True)
class Part:
    """A split: the size (width, height) of its images, the camera if all images share one, and its blocks."""

    size: tuple[Count, Count]
    camera: Camera | None
    notes: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Recipe:
    """All that blocks depend on: the source (name, options), its samples by split, and the size of blocks."""

    source: dict[str, Any]
    samples: dict[str, Count]
    block_bytes: Count


@dataclass(frozen=True)
class Manifest:
    """The description of a prepared data set."""

    recipe: Recipe
    targets: dict[str, Target]
    splits: dict[str, Part]
    licence: str
    versions: dict[str, str]
    date: str


def is_prepared(root: str | os.PathLike[str]) -> bool:
    """Returns whether a folder or URL holds a prepared data set, of any version."""
    try:
        return FORMAT.encode() in read_bytes(root, MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_manifest(root: str | os.PathLike[str]) -> Manifest:
    """Returns the manifest of a folder or URL.

    Raises `FileNotFoundError` if there is none, and `ValueError` for a damaged manifest or another version.
    """
    try:
        data = read_bytes(root, MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{root} is not a prepared data set: there is no {MANIFEST}, which is written when preparing has ended. "
            f"If it was interrupted: {AGAIN}"
        ) from error
    return parse(data, f"{root}/{MANIFEST}")


def parse(data: bytes, where: str) -> Manifest:
    """Reads a manifest from its file and checks it strictly. Messages call it `where`. Raises `ValueError`."""
    values = parse_header(data, where)
    source = Source(where)
    manifest = to_dataclass(Manifest, values, "manifest", source)
    splits = {split: _part(split, part, source) for split, part in manifest.splits.items()}
    counts = {split: sum(b.count + len(b.skipped) for b in part.blocks) for split, part in splits.items()}
    if counts != manifest.recipe.samples:
        raise source.error("manifest.splits", f"{counts} samples, but the recipe has {manifest.recipe.samples}")
    return replace(manifest, splits=splits)


def parse_header(data: bytes, where: str) -> dict[str, Any]:
    """Reads a JSON object of this format and version, and removes these two keys. Raises `ValueError` otherwise."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: {error}. Prepare the data set again, into another folder.") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"{where} does not belong to a prepared data set.")
    if (version := values.pop("version", None)) not in READ:
        raise ValueError(
            f"{where} is of version {version!r} of the format, and this mtlkit reads up to version {VERSION}. Use the "
            "mtlkit that wrote it, or prepare the data set again into another folder."
        )
    return values


def _part(split: str, part: Part, source: Source) -> Part:
    key = f"manifest.splits.{split}"
    if split not in SPLITS:
        raise source.error(key, "unknown split", suggest(split, SPLITS))
    blocks = tuple(to_dataclass(Block, block, f"{key}.blocks.{i}", source) for i, block in enumerate(part.blocks))
    for number, block in enumerate(blocks):
        name = block_file(split, number)
        if block.file != name or not re.fullmatch("[0-9a-f]{64}", block.sha256):
            problem = f"expected the file {name!r} and its SHA-256, found {block.file!r} and {block.sha256!r}"
            raise source.error(f"{key}.blocks.{number}", problem)
    return replace(part, blocks=blocks)


def damaged(root: str | os.PathLike[str]) -> list[str]:
    """Returns the blocks of a prepared folder that are missing or differ from what was written, by their SHA-256."""
    blocks = [block for part in read_manifest(root).splits.values() for block in part.blocks]
    return [block.file for block in blocks if not is_whole(Path(root) / block.file, block)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yields the differences between two mappings of JSON values, in words."""
    for key in sorted({*old, *new}):
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{path}{key}.")
        elif one != other:
            yield f"{path}{key} is {json.dumps(one)} there and {json.dumps(other)} now"


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options as a manifest has them: dataclasses become mappings, tuples lists, and paths text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def is_remote(root: str | os.PathLike[str]) -> bool:
    """Returns whether it is a URL for fsspec and not a folder."""
    return "://" in str(root)


def read_bytes(root: str | os.PathLike[str], name: str) -> bytes:
    """Reads a file in a folder or URL. Raises `OSError`, or `ValueError` for a kind of URL that cannot be read here."""
    if not is_remote(root):
        return (Path(root).expanduser() / name).read_bytes()
    import fsspec  # type: ignore[import-untyped]  # slow, and rarely needed

    try:
        system, path = fsspec.url_to_fs(f"{str(root).rstrip('/')}/{name}")
        data: bytes = system.cat_file(path)
    except FileNotFoundError:
        raise
    except (ImportError, ValueError) as error:
        raise ValueError(f"data.root={root} cannot be read: {error}") from error
    except Exception as error:  # file systems have exceptions of their own, for instance for missing credentials
        raise OSError(f"{root}/{name} cannot be read: {error}") from error
    return data
