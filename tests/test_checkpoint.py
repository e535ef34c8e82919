"""Checkpoints: what is restored, which folder is used, and what a failed write leaves behind."""

import os
import stat
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from mtlkit.config.schema import TrainerConfig
from mtlkit.run import checkpoint

FILES = ["balancer.safetensors", "model.safetensors", "training.pt"]


def trained(toys, steps=2, balancer="gradnorm"):
    """Returns an engine after some steps. The default is GradNorm, because it has its own optimizer."""
    engine = toys.make_engine(balancer, normalize_losses=3)
    for number in range(steps):
        engine.train_step(toys.make_batch(number))
    return engine


def scaler(scale):
    return torch.amp.GradScaler("cpu", init_scale=scale)


def tensors(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moments(optimizer):
    """Returns Adam's averages of every parameter."""
    state = optimizer.state_dict()["state"]
    return {(i, name): torch.as_tensor(value).clone() for i, found in state.items() for name, value in found.items()}


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


def test_all_of_an_engine_comes_back(toys, tmp_path):
    first, second = trained(toys), trained(toys, steps=0)
    first.accelerator.scaler, second.accelerator.scaler = scaler(8.0), scaler(4.0)
    first.monitor.best, first.monitor.without_gain, first.monitor.initial = 0.5, 3, {"loss/depth": 2.0}
    checkpoint.save_checkpoint(first, tmp_path / "last")
    checkpoint.load_checkpoint(second, tmp_path / "last")
    assert same(tensors(first.network), tensors(second.network))
    assert same(tensors(first.balancer), tensors(second.balancer))
    for optimizer in ("optimizer", "balancer_optimizer"):
        one, two = (moments(getattr(engine, optimizer)) for engine in (first, second))
        assert len(one) > 3
        assert same(one, two)
    assert second.first_losses.sums == first.first_losses.sums != {}
    assert second.step == 2
    assert second.accelerator.scaler.get_scale() == 8.0
    assert vars(second.monitor) == vars(first.monitor)


def test_what_an_engine_does_not_have_is_not_asked_for(toys, tmp_path):
    engine = trained(toys, balancer="uniform")
    assert engine.balancer_optimizer is None
    assert engine.accelerator.scaler is None
    checkpoint.save_checkpoint(engine, tmp_path / "last")
    checkpoint.load_checkpoint(engine, tmp_path / "last")
    assert engine.step == 2


def test_only_the_main_process_writes(toys, tmp_path):
    engine = trained(toys, steps=0)
    engine.accelerator = SimpleNamespace(is_main_process=False)
    checkpoint.save_checkpoint(engine, tmp_path / "last")
    assert files_of(tmp_path) == []


def test_what_killed_processes_left_is_cleared_away(toys, tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "last"  # does not exist yet
    engine = trained(toys, steps=1)
    checkpoint.save_checkpoint(engine, folder)
    for name in ("last.tmp", "last.old"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "rest").touch()
    engine.train_step(toys.make_batch(1))
    checkpoint.save_checkpoint(engine, folder)
    assert files_of(folder.parent) == ["last"]
    assert files_of(folder) == FILES
    assert checkpoint.steps(tmp_path / "run") == {"last": 2}


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_every_file_has_the_mode_that_the_umask_gives(toys, tmp_path, mask):
    engine, before = trained(toys, steps=0), os.umask(mask)
    try:
        checkpoint.save_checkpoint(engine, tmp_path / "last")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "last").iterdir()} == {0o666 & ~mask}


def test_a_failed_write_keeps_the_older_checkpoint_and_leaves_nothing(toys, tmp_path, monkeypatch):
    engine = trained(toys, steps=1)
    checkpoint.save_checkpoint(engine, tmp_path / "last")

    def full(*args):
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match=r"Could not write the checkpoint .*last: No space left.*An older one is intact"):
        checkpoint.save_checkpoint(engine, tmp_path / "last")
    assert files_of(tmp_path) == ["last"]
    assert files_of(tmp_path / "last") == FILES
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Could not write the checkpoint"):  # even its folder cannot be made
        checkpoint.save_checkpoint(engine, tmp_path / "file" / "last")


# Which folder


def put(run, *paths):
    for path in paths:
        (run / "checkpoints" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / path).touch()
    return run


def config(selection):
    return TrainerConfig(max_steps=1, selection=selection)


BEST, LAST = "best/model.safetensors", "last/model.safetensors"


@pytest.mark.parametrize(
    ("selection", "paths", "expected", "remark"),
    [
        ("best", (BEST, LAST), "best", False),
        ("best", (BEST,), "best", False),
        ("best", (LAST,), "last", True),
        ("best", ("best/training.pt", LAST), "last", True),  # a checkpoint without weights does not count
        ("best", ("best.old/model.safetensors", LAST), "best.old", False),  # from a process killed while it saved
        ("best", ("best.old/model.safetensors", BEST), "best", False),
        ("last", (BEST, LAST), "last", False),
        ("last10", (BEST, LAST), "last", False),
    ],
)
def test_the_checkpoint_of_the_results(tmp_path, selection, paths, expected, remark):
    folder, words = checkpoint.of_results(put(tmp_path, *paths), config(selection))
    assert folder == tmp_path / "checkpoints" / expected
    assert ("'last' stands for the results" in words) == bool(words) == remark


@pytest.mark.parametrize(
    ("selection", "paths", "message"),
    [
        ("best", (), "no checkpoint 'best'; it has none"),
        ("last", (BEST,), "no checkpoint 'last'; it has best"),
        ("best", ("last/training.pt",), "no checkpoint 'best'; it has none"),
    ],
)
def test_a_checkpoint_that_is_missing_is_named(tmp_path, selection, paths, message):
    with pytest.raises(FileNotFoundError, match=message):
        checkpoint.of_results(put(tmp_path, *paths), config(selection))


def test_only_a_checkpoint_with_the_state_of_training_can_be_gone_on_from(tmp_path):
    assert checkpoint.resumable(put(tmp_path, LAST, "best/training.pt")) is None
    assert checkpoint.resumable(put(tmp_path, "last.old/training.pt")) == tmp_path / "checkpoints" / "last.old"
    assert checkpoint.resumable(put(tmp_path, "last/training.pt")) == tmp_path / "checkpoints" / "last"


def test_a_checkpoint_whose_step_cannot_be_read_is_listed_without_it(toys, tmp_path):
    checkpoint.save_checkpoint(trained(toys, steps=1), tmp_path / "checkpoints" / "best")
    put(tmp_path, LAST)
    assert checkpoint.steps(tmp_path) == {"best": 1, "last": None}
    save_file({"w": torch.ones(1)}, tmp_path / "checkpoints" / LAST)  # this file does not say the step
    assert checkpoint.steps(tmp_path) == {"best": 1, "last": None}
    assert checkpoint.find_checkpoint(tmp_path, "last") == tmp_path / "checkpoints" / "last"


# Damage


def test_a_file_that_is_damaged_or_of_another_model_is_named(toys, tmp_path):
    folder = tmp_path / "last"
    checkpoint.save_checkpoint(trained(toys), folder)
    with pytest.raises(ValueError, match=r"last does not fit the run's config\.yaml or is damaged"):
        checkpoint.load_checkpoint(trained(toys, steps=0, balancer="rotograd"), folder)
    (folder / "training.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last/training\.pt is damaged"):
        checkpoint.load_checkpoint(trained(toys, steps=0), folder)
    for name in ("balancer.safetensors", "model.safetensors"):
        checkpoint.save_checkpoint(trained(toys), folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=r"last does not fit .* or is damaged"):
            checkpoint.load_checkpoint(trained(toys, steps=0), folder)


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("run by the checkpoint",)


def test_a_checkpoint_runs_no_code(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_checkpoint(trained(toys), tmp_path / "last")
    torch.save(Code(), tmp_path / "last" / "training.pt")
    with pytest.raises(ValueError, match=r"last/training\.pt is damaged"):
        checkpoint.load_checkpoint(trained(toys, steps=0), tmp_path / "last")
    assert files_of(tmp_path) == ["last"]
