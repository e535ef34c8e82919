"""Looks at the first labels of a target: do its options turn stored values into labels that can be right?"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mtlkit.data.dataset import BadSampleError
from mtlkit.datasets.folder.options import Stored, options_of
from mtlkit.datasets.folder.values import read_label
from mtlkit.target import Kind, found_values

FAR = 10  #: a median so many times beyond what is plausible is an error. Endoscopes see 1 cm, and aeroplanes 500 m
POWERS = (0, -3, -2, -1, -4, -5, -6, -7, -8, -9, 1, 2, 3, 4, 5, 6)  #: of ten: scales to propose, the usual ones first


def check_first_labels(name: str, stored: Stored, kind: Kind, files: list[Path]) -> None:
    """Raises `ValueError` if no file can be read, no value becomes a label, or their median is far out of range.

    `Kind.plausible` is the range for the median of a data set. A median out of it is a warning, which every run and
    `mtlkit data show` give. A median that is more than ten times too small or too large is an error: then the
    unit is wrong.
    """
    values, errors = _read(files, stored, kind)
    if not values:
        raise ValueError(f"data.labels.{name}: none of {len(files)} files looked at can be a label. {errors[0]}")
    names = options_of(kind)
    options = {key: value for key in names if key != "classes" and (value := getattr(stored, key)) is not None}
    about = f"data.labels.{name}: in {len(values)} files looked at, such as {next(iter(values))}, "
    labels = torch.cat([value[_known(value, kind)] for value in values.values()])
    if not any(kind.valid(value).any() for value in values.values()):
        raise ValueError(
            f"{about}no value is a label with the options {options or 'as they are'}. "
            f"{_raw(files, stored, kind, labels)}Change them: {', '.join(names)}."
        )
    numbers = [part.double() for value in values.values() for part in kind.numbers(value).values()]
    low, high = kind.plausible
    low, high = low / FAR if low > 0 else low * FAR, high * FAR if high > 0 else high / FAR
    if "scale" not in names or not math.isfinite(high - low) or not numbers:
        return
    middle = float(torch.cat(numbers).median())
    if low <= middle <= high:
        return
    raise ValueError(
        f"{about}the median is {middle:.3g} {kind.unit}, expected {low:g} to {high:g}. "
        f"{_raw(files, stored, kind, labels)}Change {', '.join(names)}."
    )


def _read(files: list[Path], stored: Stored, kind: Kind) -> tuple[Mapping[Path, Tensor], list[BadSampleError]]:
    """Returns the labels of the files, and the errors of those that cannot be read."""
    values, errors = {}, []
    for file in files:
        try:
            values[file] = read_label(file, stored, kind)
        except BadSampleError as error:
            errors.append(error)  # a few damaged files are reported when their samples are read
    return values, errors


def _known(value: Tensor, kind: Kind) -> Tensor:
    return ~value.isnan() & (value != kind.unknown)


def _raw(files: list[Path], stored: Stored, kind: Kind, labels: Tensor) -> str:
    """Returns what the files hold, what becomes of it, and which scale would fit, for kinds of numbers."""
    if "scale" not in options_of(kind):
        return ""
    plain, _ = _read(files, replace(stored, scale=None, offset=None), kind)
    raw = torch.cat([value[_known(value, kind)] for value in plain.values()]).double()
    if not len(raw):
        return "All are marked as missing. "
    made = found_values(labels) if len(labels) else f"{kind.unknown:g}, which means no label"
    words = f"The files hold {found_values(raw)}; scale and offset make it {made}. "
    middle, (low, high) = float(raw.median()), kind.plausible
    sign = -1 if middle < 0 else 1
    fitting = [sign * 10.0**power for power in POWERS if low <= middle * sign * 10.0**power <= high]
    if not (math.isfinite(high - low) and fitting):
        return words
    return f"{words}With offset 0, scale {fitting[0]:g} would give a median of {middle * fitting[0]:.3g} {kind.unit}. "
