"""Counts what a step does, in PyTorch's dispatcher: operations, live bytes, and where in the code they come from.

These counts are the same on every machine. All tools that count share this module.
"""

import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
OWN = tuple(f"{ROOT / folder}/" for folder in ("mtlkit", "balancers", "tasks"))
COLLECTIVES = ("mtlkit/sample_group.py:", "mtlkit/distributed.py:")  # where mtlkit calls them
BACKWARD = "_engine_run_backward"  # torch's function that calls the nodes of a backward pass


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations create inside it, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_of(result):
            if tensor.device.type != "meta":
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()  # the same object for as long as the storage lives
        if key not in self._alive:
            self._alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self.now -= size


class Operations(TorchDispatchMode):
    """Counts the operations on tensors of the device (`device`) and on those of the CPU alone (`host`).

    With `places`, it also counts the operations of the device by the line of code that caused them (`where`).
    """

    def __init__(self, device: str, places: bool = False) -> None:
        super().__init__()
        self.device = self.host = 0
        self.where: Counter[str] = Counter()
        self._type, self._places = device, places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(t.device.type == self._type for part in (args, kwargs, result) for t in tensors_of(part)):
            self.device += 1
            if self._places:
                self.where[place()] += 1
        else:
            self.host += 1
        return result


class Sent(TorchDispatchMode):
    """Counts what collective operations send: how many there are, their numbers and their bytes.

    The counts are of one process: the tensors that it hands to a collective. `own` has the collectives that mtlkit
    calls, `wrapper` those of DDP. DDP's hooks and buffers end in the same operations of the dispatcher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.own: Counter[str] = Counter()
        self.wrapper: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith("c10d::") and name != "c10d::barrier":
            given = args[1] if "gather" in name else args[0]  # a gather has its outputs first
            count = self.own if place().startswith(COLLECTIVES) else self.wrapper
            count["collectives"] += 1
            for tensor in tensors_of(given):
                count["numbers"] += tensor.numel()
                count["bytes"] += tensor.nbytes
        return func(*args, **(kwargs or {}))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in a value, also those in its lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)


def place() -> str:
    """Returns the innermost line of mtlkit, balancers or tasks that is at work, as `file:line in function`.

    For an operation of a backward pass that autograd calls itself, it is the line of the forward pass, with the word
    `backward`. Autograd knows that line only within `torch.autograd.set_detect_anomaly(True, check_nan=False)`.
    """
    frame = sys._getframe(1)
    while frame is not None:  # a GPU's backward pass has a thread of its own, whose first frame is a node's
        code = frame.f_code
        if code.co_filename.startswith(OWN):
            return f"{code.co_filename.removeprefix(f'{ROOT}/')}:{frame.f_lineno} in {code.co_name}"
        if code.co_name == BACKWARD:
            break
        frame = frame.f_back  # type: ignore[assignment]
    return _forward_line(torch._C._current_autograd_node()) or "elsewhere"


def _forward_line(node: Any) -> str:
    for text in reversed(node.metadata.get("traceback_", []) if node is not None else []):
        file, _, rest = text.strip().removeprefix('File "').partition('", line ')
        if file.startswith(OWN):
            number, _, function = rest.splitlines()[0].partition(", in ")
            return f"{file.removeprefix(f'{ROOT}/')}:{number} in {function}, backward"
    return ""
