"""Data sets in the fast format: large blocks of finished samples that are mapped into memory.

A prepared data set is a folder, or the same files behind a URL:

    manifest.json                 # describes the data set and lists its files (`mtlkit.data.manifest`); written last
    train/000000.safetensors      # consecutive samples, about 64 MB per block (`mtlkit.data.blocks`)
    val/000000.safetensors

`mtlkit.data.prepare` writes it.
"""

import hashlib
import math
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from mtlkit.data import files
from mtlkit.data.blocks import AGAIN, Block, OpenBlock, open_block
from mtlkit.data.dataset import DATASETS, BadSampleError, Camera, Dataset, Sample
from mtlkit.data.manifest import MANIFEST, differences, is_remote, plain_values, read_bytes
from mtlkit.data.manifest import is_prepared as is_prepared
from mtlkit.data.manifest import read_manifest as read_manifest
from mtlkit.files import write_whole
from mtlkit.registry import options_of, suggest

OPEN = 256  # the number of blocks that a process keeps mapped; this keeps no files open
COMMON = ("root", "split", "size", "limit")  # options that may differ from `source`


@DATASETS.register("prepared")
class Prepared(Dataset):
    """A prepared data set: it returns the samples of its source, bit for bit, and much faster.

    `root` is the folder that `mtlkit.data.prepare.prepare_dataset` wrote, or a URL of its files for fsspec
    (`s3://bucket/nyuv2` with s3fs installed; credentials and endpoints come from fsspec's configuration). For a URL,
    every block is fetched once, checked and kept in the folder `cache` (null: ~/.cache/mtlkit/prepared).

    `size` must be the prepared size, or None. `source`, if given, is the name and the options of the data set from
    which this one must have been prepared.

    Raises `FileNotFoundError` for missing files, and `ValueError` for a damaged manifest, for blocks of other sizes
    than it says and for settings that do not fit. Checksums are checked when a block is fetched, and by `damaged`.
    Other damage raises `BadSampleError` when a sample of the block is read.
    """

    @dataclass(frozen=True)
    class Options:
        """The options of the data set.

        Args:
            cache: the folder for blocks of a URL; null: ~/.cache/mtlkit/prepared
            source: the data set that this must have been prepared from
        """

        cache: str | None = None
        source: Mapping[str, Any] | None = None

    options: Options

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        split: str = "train",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._remote = root is not None and is_remote(root)
        folder = Path() if self._remote else files.root_folder(root, "prepared", f"{MANIFEST} and blocks of samples")
        self._root = str(root) if self._remote else str(folder)
        if limit is not None and limit < 1:
            raise ValueError(f"The number of samples must be at least 1, got {limit}.")
        manifest = read_manifest(self._root)
        if split not in manifest.splits:
            raise ValueError(f"data.root={root} has no split {split!r}. {suggest(str(split), manifest.splits)}")
        part, name = manifest.splits[split], manifest.recipe.source.get("name", "its source")
        if size is not None and tuple(size) != part.size:
            raise ValueError(
                f"data.root={root} was prepared at size {list(part.size)}, got data.size={list(size)}. Leave data.size "
                f"out, or prepare {name} at that size into another folder."
            )
        if self.options.source is not None:
            _check_source(self._root, manifest.recipe.source, self.options.source)
        if not self._remote:
            _check_files(folder / split, part.blocks)
        home = self.options.cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mtlkit" / "prepared"
        self._cache = Path(home).expanduser()
        self._blocks = part.blocks
        self._ends = list(accumulate(block.count for block in part.blocks))
        self._count = min(self._ends[-1], limit or self._ends[-1])
        self._opened: OrderedDict[int, OpenBlock] = OrderedDict()
        self.targets, self.licence, self.camera = manifest.targets, manifest.licence, part.camera
        self.resizing = manifest.recipe.source.get("resize", "area")
        bounds = manifest.recipe.source.get("bounds")
        self.bounds = None if bounds is None else (bounds[0], bounds[1])
        self.notes = [f"Prepared from {name} on {manifest.date}.", *part.notes]
        if skipped := [label for block in part.blocks for label in block.skipped]:
            names = ", ".join(skipped[:5]) + ", ..." * (len(skipped) > 5)
            self.notes.append(f"{len(skipped)} samples could not be read and were left out: {names}")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        block, row = self._place(index)
        return self._sample(self._open(block).value, row)

    def stored(self, index: int) -> Sample:
        block, row = self._place(index)
        return self._sample(self._open(block).stored, row)

    def _sample(self, read: Callable[[str, int], Tensor | None], row: int) -> Sample:
        image = read("image", row)
        assert image is not None
        found = ((name, read(f"target.{name}", row)) for name in self.targets)
        return {"image": image, "targets": {name: value for name, value in found if value is not None}}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": OrderedDict()}  # maps must not be copied

    def label(self, index: int) -> str:
        block, row = self._place(index)
        return f"{self._root}/{self._blocks[block].file}, row {row}"

    def camera_of(self, index: int) -> Camera | None:
        block, row = self._place(index)
        found = self._open(block).value("camera", row)
        if found is None:
            return self.camera
        a, b, c, d = found.tolist()
        return None if math.isnan(a) else (a, b, c, d)

    def _place(self, index: int) -> tuple[int, int]:
        index = range(self._count)[index]
        block = bisect_right(self._ends, index)
        return block, index - (self._ends[block] - self._blocks[block].count)

    def _open(self, number: int) -> OpenBlock:
        if number in self._opened:
            self._opened.move_to_end(number)
            return self._opened[number]
        block = self._blocks[number]
        path = _fetched(self._root, block, self._cache) if self._remote else Path(self._root, block.file)
        self._opened[number] = opened = open_block(path, block)
        if len(self._opened) > OPEN:
            self._opened.popitem(last=False)
        return opened


def _check_files(folder: Path, blocks: Sequence[Block]) -> None:
    """Checks the sizes of all blocks. It lists the folder only once."""
    sizes: dict[str, int] = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
    names = [Path(block.file).name for block in blocks]
    if missing := [name for name in names if name not in sizes]:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(names)} blocks, first {missing[0]}. {AGAIN}")
    for name, block in zip(names, blocks, strict=True):
        if sizes[name] != block.bytes:
            raise ValueError(f"{folder / name} has {sizes[name]} bytes, expected {block.bytes}. {AGAIN}")


def _check_source(root: str, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a data set that was prepared from another one or with other options. Defaults count."""
    defaults: dict[str, Any] = {}
    if (name := given.get("name")) in DATASETS.names():
        options = options_of(DATASETS.get(str(name)))
        defaults = {key: option.default for key, option in options.items() if option.default is not option.empty}
    now = {key: value for key, value in plain_values(defaults | dict(given)).items() if key not in COMMON}
    there = plain_values(defaults) | dict(recorded)
    if found := list(differences({key: there.get(key) for key in now}, now)):
        raise ValueError(
            f"{root} was prepared with other settings: {'; '.join(found)}. Use those, or prepare the data set with "
            "these into another folder."
        )


def _fetched(root: str, block: Block, cache: Path) -> Path:
    """Returns the local copy of a block, named by its checksum. If there is none, one process at a time fetches it.

    fsspec's own caches write under the final name, so that another process may see half a file
    (github.com/fsspec/filesystem_spec/issues/639).
    """
    import fcntl  # not available on every system; only remote data needs it

    path = cache / f"{block.sha256}.safetensors"
    if path.exists():
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / ".lock", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX, 1, int(block.sha256[:7], 16))  # one byte of the file per block
            if not path.exists():
                write_whole(path, _download(root, block))
    except OSError as error:
        raise ConnectionError(  # an OSError that the sample is not the cause of
            f"{block.file} could not be fetched into {cache}, for which data.cache can name another folder: {error}"
        ) from error
    return path


def _download(root: str, block: Block) -> bytes:
    try:
        data = read_bytes(root, block.file)
    except FileNotFoundError as error:
        raise BadSampleError(f"{root}/{block.file} is missing. {AGAIN}") from error
    if hashlib.sha256(data).hexdigest() != block.sha256:
        raise BadSampleError(f"{root}/{block.file} is not what its manifest says: it has another SHA-256. {AGAIN}")
    return data
