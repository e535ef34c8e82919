"""What a run tells the outside: the observers that the engine calls, and the run's log `metrics.jsonl`.

A record is a dictionary with at least `step` and `split`. The splits:

- `info`: facts of the run, each optional: `started` (ISO 8601), `total_steps`, `versions` (name -> version),
  `processes` (their number), `protocol`, `validation` and `selection` as configured, `decoders` (what they get, in
  words), `data` (what was found, see `mtlkit.run.first_look`), and by "<task>/<metric>" `higher_is_better` (bool or
  null) and `units` (text). A resumed run writes another; the last wins.
- `train`: `epoch`, `loss/<task>`, `weight/<task>`, `grad_norm/<task>`, `cosine/<a>/<b>` (each pair once),
  `lr/<group>`, `balancer/...` (what the balancer itself reports), `step_time` (seconds). In place of `weight/<task>`,
  elementwise methods have `direction/<task>`, the cosine of the combined gradient with the task's, and
  `direction_norm`, its length.
- `val`: `epoch`, `loss/<task>`, `<task>/<metric>`; the first at step 0, untrained. `"best": true` marks an
  evaluation that was the best until then, so the last one marked is that of the checkpoint `best`. None is marked
  while the figure that `trainer.monitor` chooses it by has no value. Marks before a record of the split `info` with
  `"best_lost": true` do not count: a run went on without that checkpoint.
- `val_constant`: `<task>/<metric>` of the best constant prediction.

A record of any split may hold `incident`: a sentence on something that went wrong without ending the run. `left_out`
counts the samples that could not be read since the record before (`data.on_error: skip`).
A missing value (an absent task) is a missing key. A value that is not finite is null, and so is a figure of an
evaluation that had no valid label.
"""

import errno
import json
import math
import numbers
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtlkit.files import write_whole

Record = Mapping[str, Any]

RESERVED = (
    "loss",
    "weight",
    "grad_norm",
    "cosine",
    "direction",
    "lr",
    "balancer",
)  #: first parts of keys, so no task can have these names


class Observer:
    """Watches a run. The engine calls the hooks in this order, on the main process only; here they do nothing.

    An exception in a hook ends the run: a log that cannot be written is no detail.
    """

    def start(self, total_steps: int, step: int) -> None:
        """The run begins, `step` of its `total_steps` optimizer steps being done already (0, or resumed)."""

    def note(self, record: Record) -> None:
        """A record of the split `info`, or an incident outside the other records; at any time."""

    def step(self, record: Record) -> None:
        """A training step that is logged: a record of the split `train`."""

    def evaluation(self, record: Record) -> None:
        """A record of the split `val` or `val_constant`."""

    def finish(self, summary: Record) -> None:
        """The run is over, also where an exception ended it. `summary["status"]` says how, e.g. "finished"."""


class Observers(Observer):
    """Several observers as one, called in their order."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self.observers = list(observers)

    def start(self, total_steps: int, step: int) -> None:
        for observer in self.observers:
            observer.start(total_steps, step)

    def note(self, record: Record) -> None:
        for observer in self.observers:
            observer.note(record)

    def step(self, record: Record) -> None:
        for observer in self.observers:
            observer.step(record)

    def evaluation(self, record: Record) -> None:
        for observer in self.observers:
            observer.evaluation(record)

    def finish(self, summary: Record) -> None:
        for observer in self.observers:
            observer.finish(summary)


class JsonLines(Observer):
    """Appends each record to `path` as one line of JSON, by one write, so that readers only ever see whole lines.

    Floats that are not finite become null. `resume` is the step of the checkpoint that the run goes on from: what
    was logged after it is dropped (see `truncate_after`); a log that was lost begins there. Without it the run is new,
    and a log that holds records is refused with `FileExistsError`. `OSError`s, such as a full disk, name the file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> log = JsonLines(path)
    >>> log.step({"step": 10, "split": "train", "loss/depth": float("nan")})
    >>> path.read_text()
    '{"step": 10, "split": "train", "loss/depth": null}\\n'
    >>> log.finish({"status": "finished"})
    """

    def __init__(self, path: Path, resume: int | None = None) -> None:
        self.path = path
        if resume is not None:
            if path.exists():
                truncate_after(path, resume)
        elif path.exists() and path.stat().st_size:
            raise FileExistsError(
                f"{path} holds the records of another run. Resume that run, or choose another output_dir."
            )
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)  # less the umask

    def note(self, record: Record) -> None:
        self._append(record)

    def step(self, record: Record) -> None:
        self._append(record)

    def evaluation(self, record: Record) -> None:
        self._append(record)
        self._sync()

    def finish(self, summary: Record) -> None:
        """Closes the file; the summary is not logged."""
        self._sync()
        os.close(self._descriptor)

    def _append(self, record: Record) -> None:
        line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if written < len(line):  # the disk filled up within the line
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in its order.

    Raises `ValueError` naming the file and line for what is not a record (a JSON object with an integer `step` and
    a `split`). A last line without its end is what a crash leaves of a write: it is left out with a warning.
    """
    records = []
    for number, line, whole in _lines(path):
        if not whole:
            warnings.warn(f"{path}:{number}: the last line is torn, probably by a crash; ignored.", stacklevel=2)
            continue
        records.append(_parse(path, number, line))
    return records


def tasks_of(record: Record) -> list[str]:
    """The tasks that a record speaks of, by a loss or a metric, in its order.

    >>> tasks_of({"step": 10, "split": "val", "loss/depth": 0.5, "depth/abs": 0.2, "normals/mean": 30.0})
    ['depth', 'normals']
    """
    parts = (key.split("/", 1) for key in record if "/" in key)
    return list(dict.fromkeys(b if a == "loss" else a for a, b in parts if a == "loss" or a not in RESERVED))


def last_step(path: Path) -> int:
    """The highest step that a log speaks of; 0 without a log. A torn last line is passed over.

    Raises `ValueError` like `read_log`.
    """
    lines = _lines(path) if path.exists() else ()
    return max((int(_parse(path, number, line)["step"]) for number, line, whole in lines if whole), default=0)


def truncate_after(path: Path, step: int) -> None:
    """Drops the records after `step` and a torn last line, so that a run resumed at `step` logs nothing twice.

    The other lines stay byte for byte. Raises `ValueError` like `read_log`.
    """
    kept = [line for number, line, whole in _lines(path) if whole and _parse(path, number, line)["step"] <= step]
    write_whole(path, b"".join(kept))


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Line number, line with its end, and whether it has one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, line, line.endswith(b"\n")


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: not valid JSON ({error}). Mend or delete the line.") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int) or "split" not in record:
        raise ValueError(f"{path}:{number}: expected an object with an integer 'step' and a 'split', got {record!r}.")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _plain(value: Any) -> Any:
    """The value in JSON's types. NumPy's numbers count; anything else is left to `json.dumps` to refuse."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value
