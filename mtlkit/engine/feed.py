"""The way of the batches to the device: the next one crosses while the present one is in use."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mtlkit.engine.predictor import Predictor

Batch = dict[str, Any]


def feed(
    batches: Iterable[Batch], predictor: Predictor, timed: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[Batch]:
    """Yields the batches with their tensors on the predictor's device.

    On an accelerator it is one batch ahead: before it yields a batch, it fetches the next one and starts its copy. So
    two batches are on the device. With CUDA, the copy runs beside the computations, and does not block if the batch is
    in pinned memory. On a CPU nothing is copied, and no batch is fetched before it is asked for.

    A batch that cannot be loaded raises its error where this batch is asked for, and not one batch earlier. A batch
    that nobody asks for raises nothing. `timed` is entered for the time in which the caller waits.

    >>> from types import SimpleNamespace
    >>> cpu = SimpleNamespace(device=torch.device("cpu"))
    >>> batch = {"image": torch.zeros(2, 3, 4, 4), "targets": {}}
    >>> next(feed([batch], cpu)) is batch
    True
    """
    source, copies = iter(batches), _Copies(predictor)
    ahead = predictor.device.type != "cpu"
    fetched = _fetch(source, copies, timed)
    while fetched.error is None:
        present = fetched
        if ahead:
            fetched = _fetch(source, copies, timed)
        yield copies.ready(present)
        if not ahead:
            del present  # or two batches would be in memory
            fetched = _fetch(source, copies, timed)
    if not isinstance(fetched.error, StopIteration):
        raise fetched.error


@dataclass
class _Fetched:
    """A batch whose copy has begun, or the error in its place. `StopIteration`: there is no further batch."""

    batch: Batch
    copied: Any = None  # the event of CUDA at which the copy is complete
    error: Exception | None = None


def _fetch(source: Iterator[Batch], copies: "_Copies", timed: Callable[[], AbstractContextManager[Any]]) -> _Fetched:
    try:
        with timed():
            return copies.start(next(source))
    except Exception as error:  # noqa: BLE001 - it is raised when somebody asks for this batch
        return _Fetched({}, error=error)


class _Copies:
    """Copies batches to the device of a predictor, with CUDA on a stream of its own."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        cuda = predictor.device.type == "cuda"
        self._stream = torch.cuda.Stream(predictor.device) if cuda else None

    def start(self, batch: Batch) -> _Fetched:
        if self._predictor.device.type == "cpu":
            return _Fetched(batch)
        if self._stream is None:
            return _Fetched(self._predictor.on_device(batch))
        with torch.cuda.stream(self._stream):
            return _Fetched(self._predictor.on_device(batch, non_blocking=True), self._stream.record_event())

    def ready(self, fetched: _Fetched) -> Batch:
        """Returns the batch. What the device computes from here on waits for the copy; the caller does not."""
        batch = fetched.batch
        if fetched.copied is not None:
            now = torch.cuda.current_stream(self._predictor.device)
            now.wait_event(fetched.copied)
            for tensor in (batch["image"], *batch["targets"].values(), *batch.get("moves", ())):
                if tensor.is_cuda:  # its memory must not be used again before `now` is done with it
                    tensor.record_stream(now)
        return batch
