"""The log of a run, `metrics.jsonl`.

A record is a dictionary with at least `step` and `split`. The splits:

- `info`: facts about the run, each optional: `started` (ISO 8601), `total_steps`, `steps_per_epoch`, `batch_size` (the
  samples of one step, on all processes), `versions` (name -> version), `processes` (their number), `protocol`,
  `validation` and `selection` as configured, `monitor_of` (what decides which evaluation is the best, in words),
  `decoders` (what they get, in words), `ema` (the decay of the averaged weights that evaluations use, or null), `data`
  (what was found, see `mtlkit.run.first_look`), `init_from` (`folder`, `checkpoint` and `step` of the weights that the
  run started from), `model` (sentences about the model, such as what was taken), and by "<task>/<metric>"
  `higher_is_better` (bool or null) and `units` (text). `command` has the words as typed (absent if
  a Python program started the run), `commit` the git checkout in the current folder (`hash`, and `changed`: whether
  tracked files differ, or null; absent without a checkout), `device` the name of the accelerator or of the CPU, and
  `precision` that of the computation. A resumed run writes another such record; the last one counts. The record with
  which a run ended has a `status` (`finished`, `diverged` or `stopped`). With `finished` come `seconds` (of training
  and evaluations, in all parts of a resumed run), `peak_memory` (bytes, or null) and `memory_of` (what they count, see
  `mtlkit.run.memory`), with `stopped` a `reason`: the signal, or Ctrl-C.
  `profile` says which steps the trace of `trainer.profile` has.
- `train`: `epoch`, `loss/<task>`, `weight/<task>`, `grad_norm/<task>`, `cosine/<a>/<b>` (each pair once),
  `lr/<group>`, `balancer/...` (the balancer's own figures), and times in seconds per step, each the mean since the
  record before: `step_time` (of training, without evaluations and checkpoints), `data_time` (its part that waited for
  batches), `log_time` (its part that made and wrote the record before) and `save_time` (of checkpoints, which come on
  top; the checkpoint of a run's last step is in no record). Instead of `weight/<task>`, elementwise methods have
  `direction/<task>`, the cosine of the combined gradient with the task's gradient, and `direction_norm`, the length of
  the combined gradient.
- `val`: `epoch`, `loss/<task>`, `<task>/<metric>`, and `<task>/<metric>/<class>` for the metrics that have figures of
  single classes (null: the class does not occur). `monitor` is the figure that decides which evaluation is the best
  (lower is better, see `mtlkit.engine.monitor`). The first one is at step 0, untrained. `"best": true` marks an
  evaluation that was the best so far, so the last marked one belongs to the checkpoint `best`. While the figure of
  `trainer.monitor` has no value, no evaluation is marked. Marks before a record of the split `info` with `"best_lost":
  true` do not count, because a run went on without that checkpoint.
- `val_constant`: `<task>/<metric>` of the best constant prediction.

A record of any split may have an `incident`: a sentence about something that went wrong but did not end the run.
`left_out` counts the samples that could not be read since the previous record (`data.on_error: skip`). If a value is
missing (an absent task), its key is missing. A value that is not finite is null, and so is a figure of an evaluation
that had no valid label.
"""

import errno
import json
import math
import numbers
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtlkit.files import write_whole
from mtlkit.log_form import misfit
from mtlkit.observer import Observer, Record

RESERVED = (
    "loss",
    "weight",
    "grad_norm",
    "cosine",
    "direction",
    "lr",
    "balancer",
)  #: first parts of keys, so no task can have these names


class JsonLines(Observer):
    """Appends each record to `path` as one line of JSON, by one write, so that readers see only whole lines.

    Floats that are not finite become null. `resume` is the step of the checkpoint from which the run continues. Later
    records are dropped (see `truncate_after`). If the log was lost, a new one begins. Without `resume` the run is new,
    and a log that has records raises `FileExistsError`. An `OSError`, for example of a full disk, names the file.

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
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def note(self, record: Record) -> None:
        self._append(record)

    def step(self, record: Record) -> None:
        self._append(record)

    def evaluation(self, record: Record) -> None:
        self._append(record)
        self._sync()

    def finish(self, summary: Record) -> None:
        """Closes the file. It does not log the summary."""
        self._sync()
        os.close(self._descriptor)

    def _append(self, record: Record) -> None:
        line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if written < len(line):  # the disk became full within the line
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a log, in its order.

    Raises `ValueError`, which names the file and line, for a line that is not a record (a JSON object with an integer
    `step` and a `split`). A crash may leave a last line without its end. This line is left out with a warning.
    """
    return list(read_records(path))


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a log one by one, as `read_log` returns them: a long log needs no memory."""
    for number, line, whole in _lines(path):
        if not whole:
            warnings.warn(f"{path}:{number}: the last line is incomplete (a crash?) and is ignored.", stacklevel=3)
            continue
        yield _parse(path, number, line)


def last_record(path: Path) -> dict[str, Any]:
    """Returns the last record of a log, or nothing if there is no record or no log. Raises `ValueError`."""
    last = deque(read_records(path), maxlen=1) if path.exists() else ()
    return last[0] if last else {}


def tasks_of(record: Record) -> list[str]:
    """Returns the tasks of which a record has a loss or a metric, in its order.

    >>> tasks_of({"step": 10, "split": "val", "loss/depth": 0.5, "depth/abs": 0.2, "normals/mean": 30.0})
    ['depth', 'normals']
    """
    parts = (key.split("/", 1) for key in record if "/" in key)
    return list(dict.fromkeys(b if a == "loss" else a for a, b in parts if a == "loss" or a not in RESERVED))


def class_key(key: str) -> tuple[str, str, str] | None:
    """Returns task, metric and class if the key of a record is that of a figure of one class, otherwise None.

    >>> class_key("segmentation/iou/wall"), class_key("segmentation/miou"), class_key("cosine/a/b")
    (('segmentation', 'iou', 'wall'), None, None)
    """
    parts = key.split("/", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and parts[0] not in RESERVED else None


def class_tables(figures: Record) -> dict[str, tuple[list[str], dict[str, list[float | None]]]]:
    """Returns the figures of single classes, per task: the names of the metrics, and their values by class.

    >>> class_tables({"area/iou/sky": 0.5, "area/iou/sea": None, "area/accuracy/sky": 1.0, "area/miou": 0.5})
    {'area': (['iou', 'accuracy'], {'sky': [0.5, 1.0], 'sea': [None, None]})}
    """
    keys = [parts for key in figures if (parts := class_key(key))]
    found = {}
    for task in dict.fromkeys(task for task, _, _ in keys):
        metrics = list(dict.fromkeys(metric for name, metric, _ in keys if name == task))
        labels = dict.fromkeys(label for name, _, label in keys if name == task)
        found[task] = metrics, {one: [figures.get(f"{task}/{metric}/{one}") for metric in metrics] for one in labels}
    return found


def last_step(path: Path) -> int:
    """Returns the highest step in a log, or 0 without a log. It ignores an incomplete last line.

    Raises `ValueError` like `read_log`.
    """
    lines = _lines(path) if path.exists() else ()
    return max((int(_parse(path, number, line)["step"]) for number, line, whole in lines if whole), default=0)


def truncate_after(path: Path, step: int) -> None:
    """Drops the records after `step` and an incomplete last line. So a run that resumes at `step` logs nothing twice.

    The other lines do not change by a byte. Raises `ValueError` like `read_log`.
    """
    lines = _lines(path)
    write_whole(path, (line for number, line, whole in lines if whole and _parse(path, number, line)["step"] <= step))


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yields the number of each line, the line with its end, and whether it has an end."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, line, line.endswith(b"\n")


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}:{number}: not valid JSON ({error}). Repair or delete the line.") from error
    if problem := misfit(record):
        raise ValueError(f"{path}:{number}: {problem}. Repair or delete the line.")
    found: dict[str, Any] = record
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keeps one text for a key that is in every line."""
    return {sys.intern(key): value for key, value in pairs}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _plain(value: Any) -> Any:
    """Returns the value in JSON's types. It converts NumPy's numbers; `json.dumps` refuses other types."""
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
