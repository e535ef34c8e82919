"""Decides which images train, validate and test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtlkit.data.splits import hold_out_blocks, hold_out_groups
from mtlkit.datasets.folder.matching import SHOWN, Names
from mtlkit.datasets.folder.options import Splits
from mtlkit.datasets.folder.table import Table
from mtlkit.registry import suggest
from mtlkit.splits import SPLITS

HOLDOUT = 0.2
ADVICE = "Or make data.splits.block and data.splits.gap smaller: with unrelated images, gap: 0 loses none."


def split_images(
    root: Path, images: Mapping[str, str], options: Splits, table: Table | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the stems of the images in each split that there is, and sentences on how that was decided.

    Raises `ValueError` for an image in two splits, for lists that name no image, and for parts that leave nothing.
    """
    if options.folders is not None:
        parts = {split: _in_folders(split, images, folders) for split, folders in options.folders.items()}
        how = "folder"
    elif options.lists is not None:
        parts = {split: _listed(root / file, images, split) for split, file in options.lists.items()}
        how = "list"
    elif options.column is not None:
        parts, how = _by_column(images, options, _need(table, "column", options.column)), f"column {options.column!r}"
    else:
        parts, how = {"train": list(images)}, ""
    notes = []
    if how:
        counts = ", ".join(f"{len(keys)} {split}" for split, keys in parts.items())
        left = len(images) - sum(map(len, parts.values()))
        notes.append(f"Splits by {how}: {counts}" + (f"; {left} images are in none and are not used." if left else "."))
    seen: dict[str, str] = {}
    for split, keys in parts.items():
        for key in keys:
            if key in seen:
                raise ValueError(f"data.splits: {root / images[key]} is in {seen[key]} and in {split}.")
            seen[key] = split
    if "val" not in parts and parts.get("train"):
        parts["train"], parts["val"], note = _held_out(parts["train"], options, table)
        notes.append(note)
    elif options.holdout is not None and "val" in parts:
        raise ValueError(f"data.splits.holdout: the {how} already gives validation data. Leave one of the two out.")
    return parts, notes


def _in_folders(split: str, images: Mapping[str, str], folders: str | Sequence[str]) -> list[str]:
    starts = tuple(f"{folder.strip('/')}/" for folder in ((folders,) if isinstance(folders, str) else folders))
    found = [key for key, path in images.items() if path.startswith(starts)]
    for start in starts:
        if not any(path.startswith(start) for path in images.values()):
            known = sorted({path.rpartition("/")[0] for path in images.values()})
            hint = suggest(start.rstrip("/"), known[:20])
            raise ValueError(f"data.splits.folders.{split}: no image is in the folder {start.rstrip('/')!r}. {hint}")
    return found


def _listed(path: Path, images: Mapping[str, str], split: str) -> list[str]:
    option, names = f"data.splits.lists.{split}", Names(images)
    if not path.is_file():
        raise FileNotFoundError(f"{option}: there is no file {path}.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: {path} is no text in UTF-8 ({error.reason}).") from error
    found = {line: names.find(line) for line in lines}
    if unknown := [line for line, key in found.items() if key is None]:
        raise ValueError(
            f"{option}: {path} names {len(unknown)} of {len(found)} images that do not exist, or whose name several "
            f"have: {', '.join(unknown[:SHOWN])}. {suggest(unknown[0], list(images)[:20])}"
        )
    chosen = {key for key in found.values() if key is not None}
    return [key for key in images if key in chosen]


def _by_column(images: Mapping[str, str], options: Splits, table: Table) -> dict[str, list[str]]:
    names: dict[str, str] = {str(said): split for said, split in options.names.items()}
    names = names or {split: split for split in SPLITS}
    parts: dict[str, list[str]] = {}
    for key in images:
        (cell,) = table.cells(key, [options.column or ""])
        if cell is None:
            continue
        if cell not in names:
            raise ValueError(
                f"{table.places[key]}, column {options.column!r}: {cell!r} is no split. {suggest(cell, names)} "
                f"Say what it means: data.splits.names: {{{cell}: train}}."
            )
        parts.setdefault(names[cell], []).append(key)
    return {split: parts[split] for split in SPLITS if split in parts}


def _held_out(keys: Sequence[str], options: Splits, table: Table | None) -> tuple[list[str], list[str], str]:
    """Takes validation images out of the training images."""
    share = HOLDOUT if options.holdout is None else options.holdout
    try:
        if options.group is not None:
            rows = _need(table, "group", options.group)
            groups = [rows.cells(key, [options.group])[0] or f"image {key}" for key in keys]
            train, val = hold_out_groups(groups, share)
            how = f"by {options.group!r}"
        else:
            train, val = hold_out_blocks(len(keys), share, options.block, options.gap)
            how = f"in blocks of about {options.block} neighbours, with {options.gap} unused on both sides"
    except ValueError as error:
        raise ValueError(f"data.splits.{error} {ADVICE if options.group is None else ''}".rstrip()) from None
    unused = len(keys) - len(train) - len(val)
    note = f"Of {len(keys)} images for training, {len(val)} are held out for validation {how}; {unused} are unused."
    return [keys[i] for i in train], [keys[i] for i in val], note


def _need(table: Table | None, option: str, column: str) -> Table:
    if table is None:
        raise ValueError(f"data.splits.{option}: it names a column, but there is no table. Set data.table.file.")
    table.check_columns(f"data.splits.{option}", [column])
    return table
