"""The labels of images: those of a table, and those of files at the size of the image."""

from dataclasses import replace

from torch import Tensor

from mtlkit.data.dataset import BadSampleError
from mtlkit.data.files import natural
from mtlkit.datasets.folder.options import Label
from mtlkit.datasets.folder.table import Table
from mtlkit.datasets.folder.values import label_of_cells
from mtlkit.target import DenseKind, Kind


def found_classes(name: str, label: Label, table: Table | None) -> Label:
    """Returns the options of a target with the classes that its column has, if the options name none."""
    if label.columns is None or label.class_names or label.kind().dtype.is_floating_point:
        return label
    if table is None:
        return label  # the constructor says that the table is missing
    table.check_columns(f"data.labels.{name}.columns", label.columns)
    cells = {cell for key in table.rows for cell in table.cells(key, label.columns[:1]) if cell is not None}
    if label.map is not None:
        cells = {str(found) for found in label.map.values()}
    ignored = (label.ignore,) if isinstance(label.ignore, int) else label.ignore or ()
    found = sorted(cells - {"-1", *map(str, ignored)}, key=natural)
    if not found:
        raise ValueError(
            f"data.labels.{name}: the column {label.columns[0]!r} of {table.path} has no cell with a class."
        )
    return replace(label, classes=tuple(found))


def table_labels(name: str, label: Label, kind: Kind, table: Table, decimal: str) -> dict[str, Tensor]:
    """Returns a target of every image that has it in the table. All its cells are checked here."""
    columns, option = label.columns or (), f"data.labels.{name}.columns"
    table.check_columns(option, columns)
    shape = kind.shape(1, 1)
    if (shape or (1,)) != (len(columns),):
        raise ValueError(
            f"{option}: a target of the kind {label.type!r} has {(shape or (1,))[0]} numbers, found {columns}."
        )
    found: dict[str, Tensor] = {}
    for key, place in table.places.items():
        value = label_of_cells(table.cells(key, columns), label, kind, decimal, place)
        if value is not None and kind.valid(value).any():
            if problem := kind.problem(value):
                raise ValueError(f"{place}, {name}: the cells must {problem}.")
            found[key] = value
    if not found:
        raise ValueError(
            f"{option}: {table.path} has no label in the columns {', '.join(columns)}: all cells are missing."
        )
    return found


def resized(
    value: Tensor, kind: Kind, own: tuple[int, int], size: tuple[int, int] | None, file: str, image: str
) -> Tensor:
    """Returns a label at the size of the images: `size` (width, height), or `own` (height, width) of its own image.

    Raises `BadSampleError` for a map that has another shape than its image and not only another resolution.
    """
    if not isinstance(kind, DenseKind):
        return value
    (height, width), (rows, columns) = own, value.shape[-2:]
    if abs(columns * height - rows * width) > max(width, height, columns, rows):  # more than the rounding of one pixel
        raise BadSampleError(
            f"{file} has {columns} x {rows} pixels, but the image {image} {width} x {height}: they are not one picture "
            "in two resolutions."
        )
    wanted = size or (width, height)
    return value if (columns, rows) == tuple(wanted) else kind.resize(value, *wanted)
