"""Reads the pictures of a run with what belongs to them: `RUN/pictures/samples.json`."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from mtlkit.legend import Classes, Legend, Scale
from mtlkit.plain_text import short
from mtlkit.report.pictures import saved_pictures
from mtlkit.typed import Bound, MisfitError, Natural, Source, convert, to_dataclass

FILE = "samples.json"  #: in the folder `pictures`
MOST_NAMES = 100  #: the largest number of classes or outputs whose numbers are kept
MOST_SAMPLES = 100  #: the largest number of samples that a page shows
LARGEST = 1e300
Finite = Annotated[float, Bound(-LARGEST, LARGEST)]
Role = Literal["spread", "best", "worst"]


@dataclass(frozen=True)
class Numbers:
    """What a task that is not dense says about a sample: one number per class or output.

    `target` and `prediction` have one number per name. In `target`, None means unknown. In `prediction`, it means that
    the number was not finite. `left_out` counts the names beyond the first `MOST_NAMES`.
    """

    names: list[str]
    target: list[Finite | None]
    prediction: list[Finite | None]
    unit: str = ""
    left_out: Natural = 0

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.target) == len(self.prediction) <= MOST_NAMES:
            counts = f"{len(self.names)} names, {len(self.target)} targets and {len(self.prediction)} predictions"
            raise ValueError(
                f"expected a target and a prediction for each of at most {MOST_NAMES} names, found {counts}"
            )


@dataclass(frozen=True)
class Sample:
    """One sample: its pictures and numbers.

    Attributes:
        role: why it was chosen: evenly spread, or one of the best or the worst.
        label: what the data set calls it, such as its file; empty for an old run.
        losses: the loss of this sample alone, by task. A task without a label, or with an infinite loss, is missing.
            There is none for an evenly spread sample that only another process has evaluated.
        pictures: the files by name: `image`, `<task>_target`, `<task>_prediction`, `<task>_error`.
        numbers: by task, in place of pictures.
    """

    role: Role
    label: str = ""
    losses: dict[str, Finite] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    numbers: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """The samples that a run shows.

    Attributes:
        samples: first those that are evenly spread, then the best, then the worst.
        legends: what the colours mean, by task; by `<task>_error` for the error maps.
        chosen_from: among how many samples the best and the worst were chosen; 0: there are none.
        split_size: the number of samples of the split; 0: unknown.
        rule: how the samples were chosen, in words.
    """

    samples: list[Sample]
    legends: dict[str, Legend] = field(default_factory=dict)
    chosen_from: int = 0
    split_size: int = 0
    rule: str = ""


def look(run: Path) -> Look | None:
    """Returns the samples that a run shows, or None if it has no pictures.

    A run of an earlier version has pictures alone: evenly spread samples without labels, losses and legends. Raises
    `ValueError`, which names the file, if `pictures/samples.json` is damaged, and if a picture is a link out of the
    folder.

    >>> import tempfile
    >>> look(Path(tempfile.mkdtemp())) is None
    True
    """
    pictures = saved_pictures(run)
    path = run / "pictures" / FILE
    for picture in (picture for sample in pictures for picture in sample.values()):
        if not picture.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(f"{picture} is a link to a file out of {path.parent}. Remove it.")
    if not path.is_file():
        return Look([Sample("spread", pictures=one) for one in pictures]) if pictures else None
    try:
        return _look(json.loads(path.read_text(encoding="utf-8")), pictures)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged: {short(str(error)).rstrip('.')}. Remove it to see the pictures."
        ) from error


def as_json(look: Look) -> bytes:
    """Returns what `samples.json` holds. The pictures are files of the folder, so the file does not name them."""
    samples = [{key: value for key, value in asdict(one).items() if key != "pictures"} for one in look.samples]
    legends = {name: one if isinstance(one, str) else asdict(one) for name, one in look.legends.items()}
    values = {key: value for key, value in vars(look).items() if key not in ("samples", "legends")}
    return json.dumps({**values, "legends": legends, "samples": samples}, indent=1, allow_nan=False).encode()


def _look(found: Any, pictures: list[dict[str, Path]]) -> Look:
    found = mapping(found, "the file")
    samples = found.get("samples")
    if not isinstance(samples, list) or not len(samples) == len(pictures) <= MOST_SAMPLES:
        number = len(samples) if isinstance(samples, list) else short(repr(samples), 100)
        raise ValueError(f"samples: expected one for each of the {len(pictures)} folders, found {number}")
    legends = mapping(found.get("legends"), "legends")
    facts = to_dataclass(
        _Facts, {key: found[key] for key in found if key not in ("samples", "legends")}, "", Source("")
    )
    return Look(
        [_sample(one, f"samples.{i}", pictures[i]) for i, one in enumerate(samples)],
        {name: _legend(one, f"legends.{name}") for name, one in legends.items()},
        **vars(facts),
    )


@dataclass(frozen=True)
class _Facts:
    chosen_from: Natural
    split_size: Natural
    rule: str


def _sample(found: Any, key: str, pictures: dict[str, Path]) -> Sample:
    values = dict(mapping(found, key))
    numbers = mapping(values.pop("numbers", {}), f"{key}.numbers")
    if "pictures" in values:
        raise ValueError(f"{key}: the pictures are those of its folder, so the file must not name any")
    read = {task: to_dataclass(Numbers, one, f"{key}.numbers.{task}", Source("")) for task, one in numbers.items()}
    return replace(to_dataclass(Sample, {**values, "numbers": read}, key, Source("")), pictures=pictures)


def _legend(found: Any, key: str) -> Legend:
    if isinstance(found, str):
        return found
    values = mapping(found, key)
    if "colours" in values and "low" not in values:
        try:
            pairs = convert(values["colours"], list[tuple[str, str]])
        except MisfitError:
            raise ValueError(f"{key}: expected pairs of a class and a colour") from None
        legend: Classes | Scale = to_dataclass(Classes, {**values, "colours": pairs}, key, Source(""))
        colours = [pair[1] for pair in pairs]
    else:
        legend = to_dataclass(Scale, values, key, Source(""))
        colours = legend.colours
        if not -LARGEST <= legend.low <= legend.high <= LARGEST or not colours:
            raise ValueError(f"{key}: expected a scale from a low to a high number, with colours")
    if wrong := [colour for colour in colours if not re.fullmatch(r"#[0-9a-f]{6}", colour)]:
        raise ValueError(f"{key}: expected colours such as #20a0ff, found {short(repr(wrong[0]), 100)}")
    return legend


def mapping(value: Any, key: str) -> Mapping[str, Any]:
    """Returns a value that must be a mapping. Raises `ValueError`."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: expected a mapping, found {short(repr(value), 100)}")
    return value
