"""For what a run waits while it could train: for data, for its log and for its checkpoints."""

from collections.abc import Iterable, Mapping
from typing import Any

#: Keys of the records `train`, in seconds per step. The first two are a part of `step_time`; the third is on top of it.
WAITS = ("data_time", "log_time", "save_time")
TIMES = ("step_time", *WAITS)  #: the keys of a log that differ between two runs of the same command


def shares(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the share of each of `WAITS` in the time of all steps with their checkpoints, from 0 to 1.

    Evaluations do not count. Without a record that has these keys, the result is empty.

    >>> first = {"split": "train", "step": 1, "step_time": 0.5, "data_time": 0.25, "log_time": 0.0, "save_time": 0.0}
    >>> later = {"split": "train", "step": 4, "step_time": 0.5, "data_time": 0.0, "log_time": 0.0, "save_time": 0.5}
    >>> {key: round(share, 3) for key, share in shares([first, later]).items()}
    {'data_time': 0.071, 'log_time': 0.0, 'save_time': 0.429}
    """
    spent, whole, before = dict.fromkeys(WAITS, 0.0), 0.0, 0
    for record in records:
        if record["split"] != "train":
            continue
        steps, before = record["step"] - before, record["step"]
        if steps <= 0 or any(record.get(key) is None for key in TIMES):
            continue
        whole += steps * (record["step_time"] + record["save_time"])
        for key in WAITS:
            spent[key] += steps * record[key]
    return {key: seconds / whole for key, seconds in spent.items()} if whole > 0 else {}


def in_words(found: Mapping[str, float]) -> str:
    """Returns the shares for people.

    >>> in_words({"data_time": 0.125, "log_time": 0.0, "save_time": 0.15})
    '12.5 % for data, 0.0 % for the log, 15.0 % for checkpoints'
    """
    names = {"data_time": "data", "log_time": "the log", "save_time": "checkpoints"}
    return ", ".join(f"{share:.1%} for {names[key]}".replace("%", " %") for key, share in found.items())
