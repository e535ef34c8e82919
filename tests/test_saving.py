"""Checkpoints that are written while training goes on."""

import threading

import pytest
import torch
from torch import nn

from mtlkit.data.children import Loader
from mtlkit.observer import Observer
from mtlkit.run import checkpoint
from mtlkit.run.saving import Saver
from mtlkit.run.snapshot import Snapshot, snapshot_of


@pytest.fixture
def engine(toys):
    engine = toys.make_engine("gradnorm")
    engine.train_step(toys.make_batch())
    return engine


@pytest.fixture
def gate(monkeypatch):
    """Holds every write back until it is set."""
    gate, own = threading.Event(), checkpoint.write_checkpoint

    def write(*args, **options):
        assert gate.wait(60)
        own(*args, **options)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)
    yield gate
    gate.set()


def fail_from(monkeypatch, number):
    """Lets all writes from that one on fail."""
    written, own = [], checkpoint.write_checkpoint

    def write(snapshot, folder, **options):
        written.append(folder.name)
        if len(written) >= number:
            raise OSError("the disk is full")
        own(snapshot, folder, **options)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)
    return written


def test_the_files_of_a_copy_are_those_of_the_engine_itself(engine, toys, tmp_path):
    checkpoint.write_checkpoint(snapshot_of(engine), tmp_path / "one")
    copied = snapshot_of(engine).copy()
    engine.train_step(toys.make_batch(1))
    checkpoint.write_checkpoint(copied, tmp_path / "two")
    for file in ("model.safetensors", "balancer.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    states = [torch.load(tmp_path / name / "training.pt", weights_only=True) for name in ("one", "two")]
    assert states[0].pop("seconds") <= states[1].pop("seconds")
    assert str(states[0]) == str(states[1])


def test_a_copy_keeps_ties_and_layouts_and_nothing_of_the_original():
    layer = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
    weights = {"a": layer.weight.detach(), "b": layer.weight.detach(), "part": layer.weight.detach()[1]}
    copied = Snapshot(1, weights, {}, {"rates": [(0.1, {"step": layer.bias.detach()})]}).copy()
    assert copied.weights["a"].data_ptr() == copied.weights["b"].data_ptr() != weights["a"].data_ptr()
    assert copied.weights["a"].is_contiguous(memory_format=torch.channels_last)
    expected, bias = weights["a"].clone(), layer.bias.detach().clone()
    weights["a"].zero_()
    layer.bias.data.zero_()
    assert torch.equal(copied.weights["a"], expected)
    assert torch.equal(copied.weights["part"], expected[1])
    assert torch.equal(copied.training["rates"][0][1]["step"], bias)


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(engine, toys, tmp_path, gate):
    gate.set()
    with Saver(engine, tmp_path) as save:
        save(False)
        assert checkpoint.steps(tmp_path) == {"last": 1}  # the first one is waited for
        gate.clear()
        engine.train_step(toys.make_batch(1))
        save(True)
        weight = engine.network.encoder.first.weight.detach().clone()
        engine.train_step(toys.make_batch(2))
        assert checkpoint.steps(tmp_path) == {"last": 1}
        threading.Timer(0.2, gate.set).start()
        save(False)  # it waits for the one of step 2
        assert checkpoint.steps(tmp_path)["best"] == 2
    assert checkpoint.steps(tmp_path) == {"best": 2, "last": 3, "previous": 2}
    checkpoint.load_checkpoint(engine, tmp_path / "checkpoints" / "best")
    assert engine.step == 2
    assert torch.equal(engine.network.encoder.first.weight, weight)


def test_a_stop_waits_until_its_checkpoint_is_on_the_disk(engine, toys, tmp_path):
    save = Saver(engine, tmp_path)
    save(False)
    engine.train_step(toys.make_batch(1))
    save.now()
    assert checkpoint.steps(tmp_path) == {"last": 2, "previous": 1}


def test_a_failed_write_is_raised_by_the_next_call_or_at_the_end(engine, tmp_path, monkeypatch):
    written = fail_from(monkeypatch, 2)
    save = Saver(engine, tmp_path)
    save(False)
    save(True)
    with pytest.raises(OSError, match="the disk is full"):
        save(False)
    assert written == ["last", "best"]  # after `best` failed, `last` was not tried
    save.wait()  # said once
    with pytest.raises(OSError, match="the disk is full"), save:
        save(False)


def test_another_error_keeps_its_place_and_the_log_has_the_failed_write(engine, tmp_path, monkeypatch):
    noted = []

    class Notes(Observer):
        def note(self, record):
            noted.append(record["incident"])

    def interrupted():
        with save:
            save(False)
            raise KeyboardInterrupt

    engine.observer = Notes()
    fail_from(monkeypatch, 2)
    save = Saver(engine, tmp_path)
    save(False)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert noted == ["the disk is full"]


def test_workers_start_when_the_checkpoint_is_complete(engine, tmp_path, gate):
    gate.set()
    save = Saver(engine, tmp_path)
    save(False)
    gate.clear()
    save(False)
    threading.Timer(0.2, gate.set).start()
    batches = iter(Loader([1.0, 2.0], num_workers=1))
    assert checkpoint.steps(tmp_path) == {"last": 1, "previous": 1}
    assert len(list(batches)) == 2
