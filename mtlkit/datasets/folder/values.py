"""Turns stored values into labels: pixels of files, and cells of tables."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtlkit.data.bands import bands_of, read_bands
from mtlkit.data.dataset import BadSampleError, ChannelsError
from mtlkit.data.files import image_tensor, map_tensor, read_array
from mtlkit.data.pictures import read_exact
from mtlkit.datasets.folder.options import IGNORE, Stored
from mtlkit.datasets.nyuv2.normals import decode, turn
from mtlkit.kinds import Multilabel, Normals, Reconstruction
from mtlkit.registry import suggest
from mtlkit.target import DenseKind, Kind

WORDS = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0}


def read_label(path: Path, stored: Stored, kind: Kind, *, data: bytes | None = None) -> Tensor:
    """Returns the label in a file, at its own size. `data` is its content, if it is not on the disk."""
    if path.suffix == ".npy" and data is None:
        return label_of(read_array(path), stored, kind, str(path))
    if isinstance(kind, Reconstruction):
        return image_tensor(read_bands(path, len(kind.classes), data=data))
    if not isinstance(kind, DenseKind):
        raise BadSampleError(f"{path}: a target of the kind {stored.type!r} has no pixels; expected an .npy file.")
    try:
        values = read_exact(path, _channels(kind, stored), data=data)
    except ChannelsError as error:
        raise BadSampleError(f"{error}{_advice(stored, kind)}") from error
    return label_of(values, stored, kind, str(path))


def label_of(values: np.ndarray, stored: Stored, kind: Kind, where: str) -> Tensor:
    """Returns the label of an array: (H, W) or (H, W, C) for a kind per pixel, or else the kind's own shape."""
    if isinstance(kind, DenseKind):
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        channels = _channels(kind, stored)
        expected = (channels,) if channels > 1 else ()
        if values.ndim < 2 or values.shape[2:] != expected:
            ending = f", {channels})" if channels > 1 else ")"
            raise BadSampleError(f"{where} holds an array {values.shape}, expected (height, width{ending}.")
    if isinstance(kind, Reconstruction):
        return image_tensor(bands_of(values, where))
    if isinstance(kind, Normals):
        if values.dtype.kind in "iu" and values.dtype != np.uint8:
            raise BadSampleError(f"{where} holds {values.dtype}, expected normals in 8 bits or as floats.")
        return map_tensor(turn(decode(values), stored.axes or "xyz"))
    if stored.colours is not None:
        return torch.from_numpy(_class_colours(values, stored, kind, where))
    if not kind.dtype.is_floating_point:
        return torch.from_numpy(_class_numbers(values, stored, kind, where))
    numbers = _single(_numbers(values, stored, kind))
    return map_tensor(numbers) if isinstance(kind, DenseKind) else torch.from_numpy(numbers)


def _channels(kind: Kind, stored: Stored) -> int:
    shape = kind.shape(2, 2)
    if stored.colours is not None:
        return 3
    return shape[0] if len(shape) == 3 else 1


def _advice(stored: Stored, kind: Kind) -> str:
    if kind.dtype.is_floating_point:
        return ""
    if stored.colours is not None:
        return " `colours` is for masks of three colours. A palette counts as class numbers: give `classes` or `map`."
    return " If the mask has colours, say which class each one is: `colours: {road: [128, 64, 128], ...}`."


def _numbers(values: np.ndarray, stored: Stored, kind: Kind) -> np.ndarray:
    """Returns stored value * scale + offset, and the kind's value for "no label" where there is none."""
    values = values.astype(np.float64)
    numbers = values * (1 if stored.scale is None else stored.scale) + (stored.offset or 0)
    given = stored.invalid if isinstance(stored.invalid, tuple) else (stored.invalid,)
    invalid = [kind.unknown if value is None else value for value in given]
    numbers[np.isin(values, invalid) | np.isnan(values)] = kind.unknown
    return numbers


def _single(numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers in single precision. Too large ones become infinite, which the kind of target refuses."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _class_numbers(values: np.ndarray, stored: Stored, kind: Kind, where: str) -> np.ndarray:
    """Returns class numbers, int64. Every stored value must be a class, in the map, or ignored."""
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and not (whole == values).all():
        raise BadSampleError(f"{where} holds numbers that are not whole, expected class numbers.")
    present, places = np.unique(whole, return_inverse=True)
    ignored = {stored.ignore} if isinstance(stored.ignore, int) else set(stored.ignore or ())
    classes = [_class_number(str(value), stored, kind.classes, ignored | {int(kind.unknown)}) for value in present]
    wrong = [str(value) for value, number in zip(present, classes, strict=True) if number is None]
    if wrong:
        raise BadSampleError(f"{where} holds {', '.join(wrong[:5])}, {_no_class(stored, kind.classes)}")
    return np.array(classes, np.int64)[places].reshape(values.shape)


def _class_colours(values: np.ndarray, stored: Stored, kind: Kind, where: str) -> np.ndarray:
    """Returns class numbers, int64, of colours (H, W, 3). Every colour must be one of a class, or ignored."""
    if values.dtype != np.uint8:
        raise BadSampleError(f"{where} holds {values.dtype}, expected colours in 8 bits.")
    known = {
        colour: -1 if name == IGNORE else kind.classes.index(str(name))
        for name in stored.colours or ()
        for colour in stored.colours_of(name)
    }
    codes = values.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    present, places = np.unique(codes, return_inverse=True)
    colours = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in present]
    if wrong := [list(colour) for colour in colours if colour not in known]:
        shown = ", ".join(map(str, wrong[:3])) + f" and {len(wrong) - 3} more" * (len(wrong) > 3)
        raise BadSampleError(
            f"{where} holds the colours {shown}, which `colours` does not have. Add them to a class, or to "
            f"`colours.{IGNORE}` if they have no label."
        )
    return np.array([known[colour] for colour in colours], np.int64)[places].reshape(codes.shape)


def _class_number(value: str, stored: Stored, classes: Sequence[str], ignored: set[int]) -> int | None:
    """Returns the class of a stored value, -1 for an ignored one, None for one that is no class."""
    if value in map(str, ignored):
        return -1
    if stored.map is not None:
        mapped = {str(key): target for key, target in stored.map.items()}
        found = mapped.get(value)
        if found is None:
            return None
        return found if isinstance(found, int) else classes.index(found)
    return int(value) if value.isdecimal() and int(value) < len(classes) else None


def _no_class(stored: Stored, classes: Sequence[str]) -> str:
    if stored.map is not None:
        return "which `map` does not have. Add it, or name it in `ignore`."
    return (
        f"expected the classes 0 to {len(classes) - 1} ({', '.join(classes[:5])}{', ...' * (len(classes) > 5)}). Name "
        "other values in `ignore` or `map`, or add the missing classes."
    )


def label_of_cells(cells: Sequence[str | None], stored: Stored, kind: Kind, decimal: str, where: str) -> Tensor | None:
    """Returns the label of a table's cells, None if all are missing. Raises `ValueError`; `where` is the row."""
    if all(cell is None for cell in cells):
        return None
    columns = stored.columns or ()
    if not kind.dtype.is_floating_point:
        (cell,) = cells
        assert cell is not None
        number = _class_of_cell(cell, stored, kind.classes)
        if number is None:
            hint = suggest(cell, kind.classes) if stored.map is None else _no_class(stored, kind.classes)
            raise ValueError(f"{where}, column {columns[0]!r}: {cell!r} is no class. {hint}")
        return torch.tensor(number)
    numbers = [
        _number(cell, kind, decimal, f"{where}, column {name!r}") for cell, name in zip(cells, columns, strict=True)
    ]
    if isinstance(kind, Multilabel):
        return torch.tensor(numbers)
    return torch.from_numpy(_single(_numbers(np.array(numbers), stored, kind)))


def _class_of_cell(cell: str, stored: Stored, classes: Sequence[str]) -> int | None:
    if stored.map is None and cell in classes:
        return classes.index(cell)
    ignored = {stored.ignore} if isinstance(stored.ignore, int) else set(stored.ignore or ())
    return _class_number(cell, stored, classes, ignored | {-1})


def _number(cell: str | None, kind: Kind, decimal: str, where: str) -> float:
    if cell is None:
        return float("nan")
    if isinstance(kind, Multilabel):
        if cell.lower() not in WORDS:
            raise ValueError(f"{where}: expected 0 or 1 (or an empty cell: unknown), found {cell!r}.")
        return WORDS[cell.lower()]
    try:
        return float(cell.replace(decimal, "."))
    except ValueError:
        hint = " Is the comma a decimal sign? Then set data.table.decimal=','." if "," in cell else ""
        raise ValueError(f"{where}: expected a number, found {cell!r}.{hint}") from None
