"""Reads a table with one row per image: CSV, or Parquet."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlkit.datasets.folder.matching import SHOWN, Names
from mtlkit.datasets.folder.options import TableOptions
from mtlkit.registry import suggest

DELIMITERS = (",", ";", "\t", "|")
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
Row = Mapping[str, str | None]  # the cells by column; None: missing


@dataclass(frozen=True)
class Table:
    """The rows of a table, by the image that they are of.

    Attributes:
        path: the file.
        columns: the names of its columns.
        rows: the rows by the stem of their image.
        places: what messages call each row.
        notes: sentences on what was found.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Mapping[str, Row]
    places: Mapping[str, str]
    notes: Sequence[str]

    def cells(self, key: str, columns: Sequence[str]) -> list[str | None]:
        """Returns the cells of an image in these columns; all are missing if it has no row."""
        row = self.rows.get(key, {})
        return [row.get(column) for column in columns]

    def check_columns(self, option: str, columns: Sequence[str]) -> None:
        """Raises `ValueError` if the table lacks one of the columns that an option names."""
        for column in columns:
            if column not in self.columns:
                raise ValueError(f"{option}: {self.path} has no column {column!r}. {suggest(column, self.columns)}")


def read_table(root: Path, options: TableOptions, images: Mapping[str, str]) -> Table:
    """Reads the table and finds the image of every row.

    Raises `FileNotFoundError` if there is no such file, and `ValueError` if it cannot be read, if no row has an image,
    or if two rows have the same one.
    """
    assert options.file is not None
    path = root / options.file
    if not path.is_file():
        there = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"data.table.file: there is no file {path}. {suggest(path.name, there) if there else ''}"
        )
    columns, lines, how = _read_parquet(path) if path.suffix == ".parquet" else _read_text(path, options)
    image = columns[0] if options.image is None else options.image
    table = Table(path, columns, {}, {}, [])
    table.check_columns("data.table.image", [image])
    names, at = Names(images), columns.index(image)
    rows: dict[str, Row] = {}
    places: dict[str, str] = {}
    unknown: list[str] = []
    for place, cells in lines:
        name, key = cells[at] or "", names.find(cells[at] or "")
        if key is None:
            unknown.append(name)
        elif key in rows:
            raise ValueError(f"{path}, {place}: {name!r} is of the same image as {places[key]} ({images[key]}).")
        else:
            rows[key] = {c: None if cell in options.missing else cell for c, cell in zip(columns, cells, strict=True)}
            places[key] = f"{path}, {place}"
    if not rows:
        found = f"such as {unknown[0]!r}" if unknown else "as it has no rows"
        raise ValueError(
            f"{path}: its column {image!r} names none of the {len(images)} images, {found}; expected names such as "
            f"{next(iter(images.values()))!r}. Name the images' column in data.table.image: {', '.join(columns)}."
        )
    note = f"{path} ({how}) has rows of {len(rows)} of {len(images)} images, by its column {image!r}."
    if unknown:
        shown = ", ".join(unknown[:SHOWN]) + ", ..." * (len(unknown) > SHOWN)
        note += f" {len(unknown)} rows have no image, or several of one name, and are not used: {shown}."
    return Table(path, columns, rows, places, [note])


Lines = Sequence[tuple[str, Sequence[str | None]]]  # what messages call the line, and its cells


def _read_text(path: Path, options: TableOptions) -> tuple[tuple[str, ...], Lines, str]:
    """Returns the columns, the lines, and how the text was read."""
    data = path.read_bytes()
    encoding = options.encoding or next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except LookupError:
        raise ValueError(
            f"data.table.encoding: Python knows no encoding {encoding!r}. Such as utf-8 or cp1252."
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not in {encoding} ({error.reason} at byte {error.start}). Say its encoding in "
            "data.table.encoding, such as cp1252 (Western Europe, the Americas), cp949 (Korea), shift_jis (Japan) or "
            "gb18030 (China)."
        ) from None
    lines = text.splitlines()
    delimiter = options.delimiter or max(DELIMITERS, key=(lines[0] if lines else "").count)
    if len(delimiter) != 1:
        raise ValueError(f"data.table.delimiter: expected one character, found {delimiter!r}.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(f"line {reader.line_num}", row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: {error}.") from error
    if not rows:
        raise ValueError(f"{path} is empty.")
    columns = tuple(cell.strip() for cell in rows[0][1])
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"{path} has two columns {twice[0]!r}. Rename one.")
    for place, row in rows[1:]:
        if len(row) != len(columns):
            raise ValueError(
                f"{path}, {place}: {len(row)} cells, expected {len(columns)} as in the first line. The delimiter is "
                f"taken to be {delimiter!r}: set data.table.delimiter if it is another."
            )
    named = {"\t": "tabs"}.get(delimiter, repr(delimiter))
    stripped = [(place, [cell.strip() for cell in row]) for place, row in rows[1:]]
    return columns, stripped, f"{encoding}, delimiter {named}"


def _read_parquet(path: Path) -> tuple[tuple[str, ...], Lines, str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(
            f"{path}: Parquet needs the package pyarrow. Install it: pip install 'mtlkit[parquet]'. Or save a CSV."
        ) from error
    try:
        found = parquet.read_table(path)
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:300]}") from error
    columns = [[text_of(value) for value in column.to_pylist()] for column in found.columns]
    lines = [(f"row {number}", list(cells)) for number, cells in enumerate(zip(*columns, strict=True), 1)]
    return tuple(found.column_names), lines, "Parquet"


def text_of(value: Any) -> str | None:
    """Returns a typed value as a CSV would have it. Whole numbers of columns with gaps are floats there."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)
