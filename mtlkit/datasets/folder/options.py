"""The options of the data sets `folder` and `hf`: how labels are stored, and the splits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mtlkit.datasets.nyuv2.normals import CONVENTIONS
from mtlkit.kinds import Depth, Disparity, Multilabel, Normals, Reconstruction, Regression
from mtlkit.registry import suggest
from mtlkit.splits import SPLITS
from mtlkit.target import KINDS, DenseKind, Kind
from mtlkit.typed import Count, Natural, OptionError, ShareBelowOne

NUMBERS = ("scale", "offset", "invalid")
CLASSES = ("ignore", "map")
IGNORE = "ignore"  #: the colours of this name have no label
Colour = tuple[Natural, Natural, Natural]


@dataclass(frozen=True)
class Stored:
    """One target: its kind, and how its stored values become labels.

    A label is stored value * `scale` + `offset`, for kinds of numbers. Kinds of class numbers have `classes`, `ignore`
    and `map` instead, or `colours`, and normals have `axes`.

    Args:
        type: a kind of target: `mtlkit list kinds`
        columns: the columns of the table that hold it
        classes: the names of the classes, or how many there are
        scale: the stored value is multiplied by it; null: 1
        offset: it is added to the scaled value; null: 0
        invalid: stored values without a label; null: the kind's own, 0 for depth
        axes: which axis each channel of normals holds; null: xyz, x right, y down, z forward
        ignore: stored class numbers without a label
        map: the class for each stored number, {stored: class number or name}; then all that occur must be in it
        colours: the colours of each class, {class: [red, green, blue], or a list of them}, for masks of colours; those
            of "ignore" have no label
    """

    type: str
    columns: tuple[str, ...] | None = None
    classes: Count | tuple[str, ...] | None = None
    scale: float | None = None
    offset: float | None = None
    invalid: float | tuple[float, ...] | None = None
    axes: str | None = None
    ignore: int | tuple[int, ...] | None = None
    map: Mapping[Any, int | str] | None = None
    colours: Mapping[str, Colour | tuple[Colour, ...]] | None = None

    def __post_init__(self) -> None:
        if self.type not in KINDS.names():
            raise OptionError("type", f"no kind of target is called {self.type!r}", suggest(self.type, KINDS.names()))
        if self.scale is not None and not abs(self.scale) > 0:
            raise OptionError("scale", f"expected a number other than 0, found {self.scale:g}")
        if self.axes is not None and self.axes not in CONVENTIONS:
            raise OptionError(
                "axes",
                f"expected the axis of each channel, with a minus if it points the other way, found {self.axes!r}",
                "Such as xyz (x right, y down, z forward), x-y-z or zyx.",
            )
        self._check_colours()
        kind = self.kind()
        for name in {*NUMBERS, *CLASSES, "axes", "classes", "colours"} - set(options_of(kind)):
            if getattr(self, name) is not None:
                raise OptionError(name, f"a target of the kind {self.type!r} has no such option", "Leave it out.")
        if isinstance(kind, DenseKind) and not kind.dtype.is_floating_point and not self.class_names:
            raise OptionError(
                "classes", "missing", "Give the names of the classes, in the order of their numbers from 0."
            )
        for value in (self.map or {}).values():
            if self.class_names and not (value in self.class_names or value in range(len(self.class_names))):
                raise OptionError("map", f"{value!r} is no class", suggest(str(value), self.class_names))

    def _check_colours(self) -> None:
        if self.colours is None:
            return
        for other in CLASSES:
            if getattr(self, other) is not None:
                raise OptionError(other, "it does not go with colours", f"Colours without a label: colours.{IGNORE}.")
        names = [str(name) for name in self.colours if name != IGNORE]
        for name in names:
            if name not in self.class_names:
                raise OptionError(f"colours.{name}", "no such class", suggest(name, [*self.class_names, IGNORE]))
        if not names:
            raise OptionError("colours", "it names no class")
        self._check_unique_colours()

    def _check_unique_colours(self) -> None:
        owners: dict[Colour, str] = {}
        for name in self.colours or ():
            for colour in self.colours_of(name):
                if max(colour) > 255:
                    raise OptionError(f"colours.{name}", f"expected numbers from 0 to 255, found {list(colour)}")
                if owners.setdefault(colour, name) != name:
                    problem = f"{list(colour)} is the colour of {owners[colour]!r}, too"
                    raise OptionError(f"colours.{name}", problem, "Give each class its own colours.")

    def colours_of(self, name: str) -> tuple[Colour, ...]:
        """Returns the colours of a class, or of "ignore"."""
        found: Any = (self.colours or {})[name]
        return (found,) if found and isinstance(found[0], int) else found

    def kind(self) -> Kind:
        """Returns the kind of target."""
        return KINDS.build(self.type, self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes or outputs, as far as the options say them."""
        if isinstance(self.classes, int):
            return tuple(map(str, range(self.classes)))
        if self.classes is None and issubclass(KINDS.get(self.type), Multilabel | Regression):
            return self.columns or ()
        if self.classes is None and issubclass(KINDS.get(self.type), Reconstruction):
            return "red", "green", "blue"
        if self.classes is None and self.colours is not None:
            return tuple(str(name) for name in self.colours if name != IGNORE)
        return self.classes or ()


def options_of(kind: Kind) -> tuple[str, ...]:
    """Returns the options that depend on the kind."""
    if not kind.dtype.is_floating_point:
        return (*CLASSES, "colours", "classes") if isinstance(kind, DenseKind) else (*CLASSES, "classes")
    if isinstance(kind, Normals):
        return ("axes",)
    if isinstance(kind, Multilabel | Reconstruction):
        return ("classes",)
    return NUMBERS if isinstance(kind, Depth | Disparity) else (*NUMBERS, "classes")


@dataclass(frozen=True)
class Label(Stored):
    """One target of a folder: from one file per image, or from columns of the table.

    Args:
        files: a pattern such as depth/**/*.png; null: from the table
    """

    files: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.files is None) == (self.columns is None):
            raise OptionError("files", "give either it or columns: a pattern of files, or columns of data.table")
        if self.columns is not None and isinstance(self.kind(), DenseKind):
            raise OptionError("columns", f"a target of the kind {self.type!r} has a value per pixel", "Give files.")


@dataclass(frozen=True)
class TableOptions:
    """A table with one row per image.

    Args:
        file: a .csv, .tsv, .txt or .parquet file, below the root
        image: the column with the images' names; null: the first one
        delimiter: the sign between cells; null: found among , ; tab and |
        encoding: how the text is encoded; null: UTF-8, or UTF-16 with its mark
        decimal: the sign before a fraction, as in 12.5
        missing: cells that mean "no label"
    """

    file: str | None = None
    image: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "null", "None")


@dataclass(frozen=True)
class Splits:
    """Which samples train, validate and test. At most one of `folders`, `lists` and `column` is set.

    Without a split `val`, a part of the training data is held out: whole groups of `group`, or blocks of neighbours.

    Args:
        folders: the folders of each split, such as {train: images/train, val: images/val}
        lists: files with one image per line, such as {train: train.txt}
        column: the column of the table that names the split
        names: the split for each word of the column, such as {dev: val}
        holdout: the share of the training data that becomes val; null: 0.2
        block: neighbours that are held out together
        gap: unused neighbours on both sides of a block
        group: a column of the table, such as the patient: no group is in two splits
    """

    folders: Mapping[str, str | tuple[str, ...]] | None = None
    lists: Mapping[str, str] | None = None
    column: str | None = None
    names: Mapping[Any, Literal["train", "val", "test"]] = field(default_factory=dict)
    holdout: ShareBelowOne | None = None
    block: Count = 20
    gap: Natural = 5
    group: str | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self)[:3] if getattr(self, f.name) is not None]
        if len(given) > 1:
            raise OptionError(given[1], f"it does not go with {given[0]}", "Set one of the two.")
        for option in ("folders", "lists"):
            for name in getattr(self, option) or ():
                if name not in SPLITS:
                    raise OptionError(f"{option}.{name}", "no split has this name", suggest(str(name), SPLITS))
            if self.holdout is not None and "val" in (getattr(self, option) or ()):
                raise OptionError("holdout", f"it does not go with {option}.val, which gives the validation data")
        if self.names and self.column is None:
            raise OptionError("names", "it belongs to column, which is not set")


def check_images(labels: Mapping[str, Any], bounds: tuple[float, float] | None) -> None:
    """Raises `OptionError` if there is no target, if no task can have its name, or if bounds do not ascend."""
    if not labels:
        raise OptionError("labels", "it names no target")
    for name in labels:
        if not str(name).isidentifier():
            raise OptionError("labels", f"a target's name must be letters, digits and _, found {name!r}")
    if bounds is not None and not bounds[0] < bounds[1]:
        raise OptionError("bounds", f"expected the values of black and white, ascending, found {list(bounds)}")
