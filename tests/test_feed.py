"""The way of the batches to the device, where the device is the CPU. `on_device.py` has another device."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mtlkit.data.loader import micro_batches
from mtlkit.engine.feed import feed
from mtlkit.engine.predictor import Predictor

CPU = SimpleNamespace(device=torch.device("cpu"))


def numbered(events, count=3):
    for number in range(count):
        events.append(f"load {number}")
        yield {"image": torch.full((1, 3, 2, 2), float(number)), "targets": {"depth": torch.zeros(1, 1, 2, 2)}}


def test_on_a_cpu_nothing_is_copied_and_nothing_is_fetched_before_it_is_asked_for():
    events = []
    batches = list(numbered([]))
    assert all(one is other for one, other in zip(feed(batches, CPU), batches, strict=True))
    for number, _ in enumerate(feed(numbered(events), CPU)):
        events.append(f"use {number}")
    assert events == ["load 0", "use 0", "load 1", "use 1", "load 2", "use 2"]


def test_only_the_loading_counts_as_waiting():
    events = []

    @contextmanager
    def timed():
        events.append("wait")
        yield
        events.append("go on")

    for _ in feed(numbered(events, 1), CPU, timed):
        events.append("use")
    assert events[:4] == ["wait", "load 0", "go on", "use"]


def test_an_error_of_the_loader_is_raised():
    def broken():
        yield {"image": torch.zeros(1), "targets": {}}
        raise ValueError("a.png is damaged")

    batches = feed(broken(), CPU)
    next(batches)
    with pytest.raises(ValueError, match="is damaged"):
        next(batches)


def test_micro_batches_have_their_samples_part_of_every_entry():
    batch = {"image": torch.arange(4.0), "targets": {"a": torch.arange(4)}, "error": ["", "one", "", "three"]}
    first, second = micro_batches(batch, 2)
    assert first["error"] + second["error"] == batch["error"]
    assert second["targets"]["a"].tolist() == [2, 3]
    assert first["image"].tolist() == [0, 1]


def test_with_cuda_a_batch_is_copied_on_its_own_stream_and_its_memory_is_kept_for_the_other(monkeypatch):
    """Which calls are made, and in which order: no machine with CUDA is needed."""
    calls = []

    class Moved:
        is_cuda = True

        def record_stream(self, stream):
            calls.append(f"kept for {stream.name}")

    class Stream:
        def __init__(self, name):
            self.name = name if isinstance(name, str) else "side"

        def record_event(self):
            calls.append(f"event on {self.name}")
            return f"event {len(calls)}"

        def wait_event(self, event):
            calls.append(f"{self.name} waits for {event}")

    @contextmanager
    def on(stream):
        calls.append(f"on {stream.name}")
        yield
        calls.append("off")

    def on_device(batch, *, non_blocking):
        assert non_blocking
        calls.append("copy")
        return {"image": Moved(), "targets": {"depth": batch["targets"]["depth"]}}  # a target that no task has

    main = Stream("main")
    for name, value in (("Stream", Stream), ("stream", on), ("current_stream", lambda device: main)):
        monkeypatch.setattr(torch.cuda, name, value)
    batches = feed(numbered(calls, 2), SimpleNamespace(device=torch.device("cuda"), on_device=on_device))
    copied = ["on side", "copy", "event on side", "off"]
    next(batches)
    assert calls == [
        *("load 0", *copied),
        *("load 1", *copied),  # begun before the first one is used
        *("main waits for event 4", "kept for main"),  # and not for the copy of the second one
    ]


def test_what_no_task_needs_stays_where_it_is():
    predictor = Predictor(torch.nn.Identity(), {"depth": None}, None, torch.device("meta"), "fp32")
    batch = {"image": torch.zeros(1), "targets": {"depth": torch.zeros(1), "normals": torch.zeros(1)}, "error": [""]}
    moved = predictor.on_device(batch)
    places = {name: value.device.type for name, value in (("image", moved["image"]), *moved["targets"].items())}
    assert places == {"image": "meta", "depth": "meta", "normals": "cpu"}
    assert moved["error"] == [""]
