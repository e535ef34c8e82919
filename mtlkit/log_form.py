"""What the records of a log can hold. A log may be damaged, or come from anyone."""

import sys
from collections.abc import Mapping
from typing import Any

from mtlkit.plain_text import short
from mtlkit.typed import MisfitError, convert
from mtlkit.waits import TIMES

#: Numbers, as all keys with a `/` are.
NUMBERS = ("epoch", *TIMES, "monitor", "direction_norm", "left_out")
#: The other keys that mtlkit reads, with the types of their values.
FACTS: Mapping[str, Any] = {
    **dict.fromkeys(("incident", "status", "why", "reason", "protocol", "validation", "selection"), str | None),
    **dict.fromkeys(("monitor_of", "decoders", "started", "memory_of"), str | None),
    **dict.fromkeys(("command", "device", "precision", "profile"), str | None),
    **dict.fromkeys(("total_steps", "steps_per_epoch", "batch_size", "processes", "peak_memory"), int | None),
    **dict.fromkeys(("best", "best_lost"), bool),
    **dict.fromkeys(("versions", "units"), dict[str, str]),
    **dict.fromkeys(("ema", "seconds"), float | None),
    "commit": dict[str, str | bool | None] | None,
    "higher_is_better": dict[str, bool | None],
    "model": list[str],
    "data": dict[str, Any],
}  # fmt: skip
LARGEST = sys.float_info.max


def misfit(record: Any) -> str:
    """Returns what is wrong with a record in words, or nothing.

    >>> misfit({"step": 1, "split": "val", "depth/abs": "low"})
    "'depth/abs' cannot be 'low'"
    """
    if not isinstance(record, dict) or type(record.get("step")) is not int or not isinstance(record.get("split"), str):
        return f"expected an object with an integer 'step' and a 'split', got {short(repr(record), 200)}"
    for key, value in record.items():
        if not _fits(key, value):
            return f"{short(key, 100)!r} cannot be {short(repr(value), 100)}"
    return ""


def _fits(key: str, value: Any) -> bool:
    if "/" in key or key in NUMBERS:
        return value is None or (type(value) in (int, float) and -LARGEST <= value <= LARGEST)
    if key in FACTS:
        try:
            convert(value, FACTS[key])
        except MisfitError:
            return False
    return key != "step" or abs(value) <= LARGEST
