"""Prepares a data set: writes its samples once in the format of `mtlkit.data.prepared`.

During this time, the folder holds `progress.jsonl` instead of a manifest: the settings, then one line per finished
block. Files are written under a temporary name and renamed. So preparing can be interrupted anywhere and started again,
and the blocks are the same as without the interruption.
"""

import datetime
import errno
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal

from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from mtlkit.data import manifest as manifests
from mtlkit.data.blocks import AGAIN, Block, is_whole
from mtlkit.data.dataset import Dataset, Split
from mtlkit.data.encode import BlockMaker, plain_camera
from mtlkit.data.manifest import MANIFEST, Manifest, Part, Recipe
from mtlkit.data.samples import Samples
from mtlkit.files import write_whole
from mtlkit.registry import suggest
from mtlkit.terminal import Terminal
from mtlkit.typed import Source, to_dataclass

BLOCK_BYTES = 64 * 2**20
PROGRESS = "progress.jsonl"


def prepare_dataset(
    splits: Mapping[Split, Dataset],
    out: str | os.PathLike[str],
    source: Mapping[str, Any],
    *,
    block_bytes: int = BLOCK_BYTES,
    workers: int = 0,
    progress: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
) -> Path:
    """Writes the samples of `splits` into the folder `out`. `Prepared` returns them from there bit for bit.

    After an interruption, it continues when it is started again. If the folder is finished, it checks the blocks and
    writes only damaged ones again.

    Args:
        source: all that the samples depend on, as JSON values: `name` (of the data set), its options, versions, ...
        block_bytes: a block ends with the sample that reaches this size.
        workers: the number of processes that read the source. The files are the same for any number.
        progress: show on standard error how far it is.
        on_error: `skip` leaves out samples that cannot be read, and records them.

    Returns `out`. Raises `BadSampleError` for a sample that cannot be read or whose image has another size than the
    first one. Raises `ValueError` for a folder that was begun with other settings, that has other files in it, or in
    which another process prepares. Raises `OSError` if the folder cannot be written.
    """
    out = Path(out).expanduser()
    recipe = _recipe(splits, source, block_bytes)
    console = Terminal(stderr=True, soft_wrap=True, highlight=False, quiet=not progress)
    whole = f"{out} is complete: {', '.join(f'{count} {split}' for split, count in recipe.samples.items())} samples"
    if manifests.is_prepared(out):
        _refuse_other(out, asdict(manifests.read_manifest(out).recipe), recipe)
        if not (faults := manifests.damaged(out)):
            (out / PROGRESS).unlink(missing_ok=True)  # of a process that was killed between the manifest and this
            console.print(f"{whole}, and all checksums are right.")
            return out
        console.print(f"{out}: damaged blocks are made again: {', '.join(faults)}.")
    samples = {split: Samples(dataset, skip=on_error == "skip") for split, dataset in splits.items()}
    total = sum(recipe.samples.values())
    with _locked(out) as journal, _bar(console, total) as advance:
        finished = manifests.read_manifest(out) if manifests.is_prepared(out) else None
        done = _begun(journal, out, recipe) if finished is None else _blocks_of(finished)
        began, before = time.monotonic(), sum(_samples_of(block) for blocks in done.values() for block in blocks)
        advance(before)
        for split in splits:
            maker = BlockMaker(samples[split], split, block_bytes, workers, advance)
            start = _repair(out, maker, done[split])
            for block, data in maker.blocks(start, len(done[split])):
                _write(out / block.file, data)
                _append(journal, {"split": split, **asdict(block)})
                done[split].append(block)
        if finished is None:
            _write(out / MANIFEST, _manifest(samples, recipe, done, out))
        (out / PROGRESS).unlink(missing_ok=True)
    console.print(f"{whole}; {total - before} read now, {(total - before) / (time.monotonic() - began):.0f} samples/s.")
    return out


def _recipe(splits: Mapping[Split, Dataset], source: Mapping[str, Any], block_bytes: int) -> Recipe:
    if not splits:
        raise ValueError("There is no split to prepare.")
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be at least 1, got {block_bytes}.")
    name, first = next(iter(splits.items()))
    for split, dataset in splits.items():
        if split not in manifests.SPLITS:
            raise ValueError(f"There is no split {split!r}. {suggest(split, manifests.SPLITS)}")
        if dict(dataset.targets) != dict(first.targets):
            raise ValueError(
                f"The splits {name!r} and {split!r} have different targets: {dict(first.targets)} and "
                f"{dict(dataset.targets)}."
            )
    lengths = {str(split): len(dataset) for split, dataset in splits.items()}
    return Recipe(manifests.plain_values(source), lengths, block_bytes)


def _refuse_other(out: Path, there: Mapping[str, Any], recipe: Recipe) -> None:
    if found := list(manifests.differences(there, asdict(recipe))):
        raise ValueError(
            f"{out} was begun with other settings: {'; '.join(found)}. Use those, or prepare into another folder."
        )


@contextmanager
def _locked(out: Path) -> Iterator[IO[bytes]]:
    """Opens the progress file, in a folder that is ours, and locks it for this process."""
    import fcntl  # not available on every system; only preparing needs it

    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
        if names and PROGRESS not in names and not manifests.is_prepared(out):
            raise ValueError(f"{out} holds other files, {min(names)} among them. Prepare into a new or empty folder.")
        journal = open(out / PROGRESS, "a+b", buffering=0)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _unwritable(out, error) from error
    with journal:
        try:  # workers do not inherit it, so it always ends with this process
            fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"Another process prepares a data set in {out}. Wait until it has ended.") from error
        yield journal


def _begun(journal: IO[bytes], out: Path, recipe: Recipe) -> dict[str, list[Block]]:
    """Returns the finished blocks by split. For a new folder there are none, and the progress file begins here."""
    journal.seek(0)
    lines = journal.read().split(b"\n")[:-1]  # a last line without its end is incomplete
    journal.truncate(sum(len(line) + 1 for line in lines))
    done: dict[str, list[Block]] = {split: [] for split in recipe.samples}
    if not lines:
        header = {"format": manifests.FORMAT, "version": manifests.VERSION, "recipe": asdict(recipe)}
        _append(journal, header)
        return done
    where = str(out / PROGRESS)
    _refuse_other(out, manifests.parse_header(lines[0], where).get("recipe", {}), recipe)
    try:
        for line in lines[1:]:
            values = json.loads(line)
            done[values.pop("split")].append(to_dataclass(Block, values, "block", Source(where)))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{where} is damaged: {error}. Prepare into another folder.") from error
    return done


def _blocks_of(finished: Manifest) -> dict[str, list[Block]]:
    return {split: list(part.blocks) for split, part in finished.splits.items()}


def _append(journal: IO[bytes], values: Mapping[str, Any]) -> None:
    line = json.dumps(values).encode() + b"\n"
    try:
        if journal.write(line) < len(line):  # the disk became full within the line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(journal.fileno())
    except OSError as error:
        raise _unwritable(Path(journal.name), error) from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _repair(out: Path, maker: BlockMaker, blocks: Iterable[Block]) -> int:
    """Makes missing or damaged blocks of a split again. Returns the number of the first sample after its blocks."""
    start = 0
    for number, block in enumerate(blocks):
        if not is_whole(out / block.file, block):
            made, data = next(maker.blocks(start, number))
            if made != block:
                raise ValueError(
                    f"{out / block.file} is missing or damaged, and the source gives other samples than when it was "
                    "written. Prepare into another folder."
                )
            _write(out / block.file, data)
        start += _samples_of(block)
    return start


def _samples_of(block: Block) -> int:
    return block.count + len(block.skipped)


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be written: {error.strerror or error}. After you have repaired this: {AGAIN}")


@contextmanager
def _bar(console: Terminal, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, or one line elsewhere. Yields a function that takes the number of new samples."""
    shown = console.is_terminal and not console.quiet
    if not shown:
        console.print(f"Preparing {total} samples ...")
    columns = (*Progress.get_default_columns(), _Speed())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("preparing", total=total)
        yield lambda count: bar.advance(task, count)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} samples/s")


def _manifest(samples: Mapping[Split, Samples], recipe: Recipe, done: Mapping[str, list[Block]], out: Path) -> bytes:
    splits, first = {}, next(iter(samples.values())).dataset
    for split, part in samples.items():
        notes = tuple(part.dataset.notes)
        splits[str(split)] = Part(part.image_size, plain_camera(part.dataset.camera), notes, tuple(done[split]))
    versions = {name: importlib.metadata.version(name) for name in ("mtlkit", "torch")}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = Manifest(recipe, dict(first.targets), splits, first.licence, versions, date)
    values = {"format": manifests.FORMAT, "version": manifests.VERSION, **asdict(found)}
    data = json.dumps(values, indent=1).encode() + b"\n"
    manifests.parse(data, str(out / MANIFEST))  # so that no manifest is written that cannot be read
    return data
