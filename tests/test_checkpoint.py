"""Checkpoints: what is restored, which folder is used, and what a failed write leaves behind."""

import os
import re
import shutil
import stat
from copy import deepcopy

import pytest
import torch
from damage import damage
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from torch import nn

from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.optimizer_state import load_named_state, named_state
from mtlkit.run import checkpoint, checkpoint_folder, checksums, saving
from mtlkit.testing import toys as kit

FILES = ["balancer.safetensors", "checksums.json", "model.safetensors", "training.pt"]


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


def test_only_the_main_process_writes(toys, tmp_path, monkeypatch):
    engine = trained(toys, steps=0)
    monkeypatch.setattr("mtlkit.distributed.rank", lambda: 1)
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


def test_the_checkpoint_before_the_last_one_stays_and_stands_for_it_after_a_kill(toys, tmp_path):
    folder, engine = tmp_path / "checkpoints" / "last", trained(toys, steps=0)
    for number in range(3):
        checkpoint.save_checkpoint(engine, folder, keep="previous")
        engine.train_step(toys.make_batch(number))
    assert files_of(folder.parent) == ["last", "previous"]
    assert checkpoint.steps(tmp_path) == {"last": 2, "previous": 1}
    folder.rename(folder.with_name("last.tmp"))  # as a kill between the two renamings leaves it
    with pytest.warns(UserWarning, match=r"checkpoints/last is missing: 'previous' of step 1 stands for it"):
        assert checkpoint.find_checkpoint(tmp_path, "last") == folder.with_name("previous")
    assert checkpoint.steps(tmp_path) == {"last": 1}
    checkpoint.save_checkpoint(engine, folder, keep="previous")
    assert checkpoint.steps(tmp_path) == {"last": 3, "previous": 1}
    saving.put_in_place(folder.with_name("previous"))
    assert checkpoint.steps(tmp_path) == {"last": 1, "previous": 1}
    saving.drop_previous(tmp_path)
    assert files_of(folder.parent) == ["last"]
    assert files_of(folder) == FILES


def test_all_is_on_the_disk_before_it_gets_its_name_and_the_name_after(toys, tmp_path, monkeypatch):
    folder, done = tmp_path / "checkpoints" / "last", []
    own = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(os.readlink(f"/proc/self/fd/{number}")), own(number)))
    rename = type(folder).rename
    monkeypatch.setattr(type(folder), "rename", lambda path, to: (done.append(f"to {to}"), rename(path, to))[1])
    checkpoint.save_checkpoint(trained(toys, steps=0), folder)
    temporary = str(folder) + ".tmp"
    assert set(done[: done.index(f"to {folder}")]) == {temporary, *(f"{temporary}/{file}" for file in FILES)}
    assert done[done.index(f"to {folder}") + 1 :] == [str(folder.parent), str(tmp_path)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_checkpoint_is_read_and_replaced_and_its_folder_is_refused(toys, tmp_path):
    folder, engine = tmp_path / "checkpoints" / "last", trained(toys)
    checkpoint.save_checkpoint(engine, folder)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o500)
    checkpoint_folder.check_writable(tmp_path)
    checkpoint.load_checkpoint(engine, folder)
    checkpoint.save_checkpoint(engine, folder)
    assert files_of(folder.parent) == ["last"]
    folder.parent.chmod(0o500)
    checkpoint.load_checkpoint(engine, folder)
    with pytest.raises(PermissionError, match=r"checkpoints can be read, but nothing can be written there \("):
        checkpoint_folder.check_writable(tmp_path)
    with pytest.raises(OSError, match=r"Could not write the checkpoint .*last: .*Permission denied"):
        checkpoint.save_checkpoint(engine, folder)
    folder.parent.chmod(0o700)


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

    monkeypatch.setattr(torch, "save", full)
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


def test_a_checkpoint_whose_step_cannot_be_read_is_listed_without_it(toys, tmp_path):
    checkpoint.save_checkpoint(trained(toys, steps=1), tmp_path / "checkpoints" / "best")
    put(tmp_path, LAST)
    assert checkpoint.steps(tmp_path) == {"best": 1, "last": None}
    save_file({"w": torch.ones(1)}, tmp_path / "checkpoints" / LAST)  # this file does not say the step
    assert checkpoint.steps(tmp_path) == {"best": 1, "last": None}
    assert checkpoint.find_checkpoint(tmp_path, "last") == tmp_path / "checkpoints" / "last"


# Damage


def test_a_checkpoint_of_another_model_is_said(toys, tmp_path):
    checkpoint.save_checkpoint(trained(toys), tmp_path / "last")
    with pytest.raises(ValueError, match=r"last does not fit the run's config\.yaml or is damaged"):
        checkpoint.load_checkpoint(trained(toys, steps=0, balancer="rotograd"), tmp_path / "last")


def test_no_damage_is_loaded_as_another_state(toys, tmp_path):
    """Twenty-eight of them: seven ways for each of the four files. What is loaded all the same is what was saved."""
    engine, whole, other = trained(toys), tmp_path / "whole" / "last", tmp_path / "whole" / "best"
    checkpoint.save_checkpoint(engine, other)
    engine.train_step(toys.make_batch(2))
    checkpoint.save_checkpoint(engine, whole)
    expected = [tensors(engine.network), tensors(engine.balancer), moments(engine.optimizer)]
    loaded = []
    for number in range(28):
        folders = [shutil.copytree(path, tmp_path / str(number) / path.name) for path in (whole, other)]
        words = damage(*folders[:1], number, folders[1] if number % 2 else None)
        said = ""
        try:
            checkpoint.load_checkpoint(engine, folders[0])
        except (ValueError, UserWarning) as problem:  # here, a warning ends the call when all is loaded
            said = str(problem)
        if f"{folders[0]}/" in said:  # it names the file
            assert re.search("is (damaged|missing)", said), words
            continue
        loaded.append((words, said))
        found = [tensors(engine.network), tensors(engine.balancer), moments(engine.optimizer)]
        assert all(same(one, two) for one, two in zip(found, expected, strict=True)), words
    ((words, said),) = loaded
    assert words == "checksums.json: removed"
    assert "last has no checksums.json" in said


def test_damage_is_named_and_another_checkpoint_is_offered(toys, tmp_path):
    engine, folders = trained(toys, steps=1), [tmp_path / "checkpoints" / name for name in ("best", "last")]
    (tmp_path / "config.yaml").touch()
    for number, folder in enumerate(folders, start=1):
        checkpoint.save_checkpoint(engine, folder)
        engine.train_step(toys.make_batch(number))
    (folders[1] / "notes.txt").touch()  # nobody reads it, so it is no matter
    checkpoint.load_checkpoint(engine, folders[1])
    file = folders[1] / "training.pt"
    whole = file.read_bytes()
    command = rf"mtlkit train '{tmp_path}/config\.yaml' 'output_dir={tmp_path}' --resume-from best$"
    offer = rf"Intact: 'best' of step 1\. To take 'best': {command}"
    file.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    sums = r"its SHA-256 is [0-9a-f]{64}, and checksums\.json beside it says [0-9a-f]{64}\."
    with pytest.raises(ValueError, match=rf"last/training\.pt is damaged: {sums} {offer}"):
        checkpoint.load_checkpoint(engine, folders[1])
    file.write_bytes(whole[:500])
    sums = rf"its number of bytes is 500, and checksums\.json beside it says {len(whole)}\."
    with pytest.raises(ValueError, match=rf"last/training\.pt is damaged: {sums} {offer}"):
        checkpoint.load_checkpoint(engine, folders[1])
    file.unlink()
    with pytest.raises(ValueError, match=rf"last/training\.pt is missing: .* copied in part.*{offer}"):
        checkpoint.load_checkpoint(engine, folders[1])
    checkpoint.load_weights(engine.network, engine.balancer, folders[1])  # does not need it
    (folders[1] / "checksums.json").write_text('{"files": {}}')
    with pytest.raises(ValueError, match=r"model\.safetensors is not a file of this .*'best': --checkpoint best$"):
        checkpoint.load_weights(engine.network, engine.balancer, folders[1])
    (folders[0] / "checksums.json").unlink()
    with pytest.raises(ValueError, match=r"Intact: 'best' of step 1 \(it has no checksums\)\. To take 'best': "):
        checkpoint.load_weights(engine.network, engine.balancer, folders[1])
    (folders[0] / "model.safetensors").write_bytes(b"nothing that anybody could load")
    (folders[1] / "checksums.json").write_text("[]")
    with pytest.raises(ValueError, match=r"checksums\.json is damaged: .* No other checkpoint of the run is intact"):
        checkpoint.load_weights(engine.network, engine.balancer, folders[1])


def test_a_checkpoint_of_an_earlier_version_is_loaded_and_said(toys, tmp_path):
    engine, folder = trained(toys), tmp_path / "last"
    checkpoint.save_checkpoint(engine, folder)
    expected = moments(engine.optimizer)
    state = torch.load(folder / "training.pt", weights_only=True)
    for name in ("optimizer", "balancer_optimizer"):
        del state[name]["names"]
    torch.save(state, folder / "training.pt")
    (folder / "checksums.json").unlink()
    engine.train_step(toys.make_batch(3))
    with pytest.warns(
        UserWarning, match=r"has no checksums\.json .* has no names of parameters .* in the order of then"
    ) as said:
        checkpoint.load_checkpoint(engine, folder)
    assert len(said) == 1
    assert same(moments(engine.optimizer), expected)
    with pytest.warns(UserWarning, match=r"last has no checksums\.json \(earlier versions"):
        checkpoint.load_weights(engine.network, None, folder)


# By name


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd"])
def test_a_trial_of_the_optimizer_changes_nothing(name):
    """LAMB counts its steps in a tensor of the group."""
    network = nn.Linear(2, 3)
    made = [create_optimizer_v2(network, opt=name, lr=0.1) for _ in range(2)]
    network(torch.ones(2)).sum().backward()
    made[0].step()
    before, weights = deepcopy(named_state(made[0], network)), tensors(network)
    load_named_state(made[1], network, before)
    assert str(named_state(made[1], network)) == str(before)
    assert same(tensors(network), weights)


def test_tasks_that_changed_places_keep_their_own_momenta(tmp_path):
    """The tasks are alike, so torch would load each one's momenta into another one without a word."""
    method = kit.Method("gradnorm")  # it has an optimizer of its own
    one, swapped = kit.make_engine(method), kit.make_engine(method, kit.TASKS[::-1])
    kit.train_steps(one, 3)
    checkpoint.save_checkpoint(one, tmp_path / "last")
    checkpoint.load_checkpoint(swapped, tmp_path / "last")
    for optimizer, module in (("optimizer", "network"), ("balancer_optimizer", "balancer")):
        theirs = [dict(getattr(engine, module).named_parameters()) for engine in (one, swapped)]
        states = [getattr(engine, optimizer).state for engine in (one, swapped)]
        assert [*theirs[0]] != [*theirs[1]] or module == "balancer"  # torch sorts the names in a `ParameterDict`
        for name, parameter in theirs[0].items():
            assert same(states[0][parameter], states[1][theirs[1][name]])
    for number in (3, 4):
        for engine in (one, swapped):
            engine.train_step(kit.make_batch(number))
    # The tasks are added up in another order.
    kit.assert_same(kit.state_of(one), kit.state_of(swapped), "between two orders of the tasks", tolerance=1e-12)


def test_the_state_of_other_parameters_or_groups_is_refused():
    def made(*names, groups=1):
        model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in names})
        parameters = [*model.parameters()]
        parts = [parameters] if groups == 1 else [parameters[:1], parameters[1:]]
        return torch.optim.SGD([{"params": p, "lr": 0.1 * i} for i, p in enumerate(parts, 1)], momentum=0.9), model

    state = named_state(*made("a", "b", groups=2))
    with pytest.raises(ValueError, match=r"other parameters\. Only there: b\.weight\. Only here: c\.weight, d\.weight"):
        load_named_state(*made("a", "c", "d"), state)
    with pytest.raises(ValueError, match=r"groups were made of other parameters\. .* is now a\.weight, b\.weight"):
        load_named_state(*made("a", "b"), state)
    optimizer, model = made("b", "a", groups=2)
    load_named_state(optimizer, model, state)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]  # each group its own rate


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("run by the checkpoint",)


def test_a_checkpoint_runs_no_code(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_checkpoint(trained(toys), tmp_path / "last")
    torch.save(Code(), tmp_path / "last" / "training.pt")
    checksums.seal(tmp_path / "last")  # whoever writes such a file can write its checksum
    with pytest.raises(ValueError, match=r"training\.pt is damaged, or .* did not write \(UnpicklingError\)\.$"):
        checkpoint.load_checkpoint(trained(toys, steps=0), tmp_path / "last")
    assert files_of(tmp_path) == ["last"]


def test_a_state_of_training_of_a_wrong_form_is_said(toys, tmp_path):
    engine, folder = trained(toys), tmp_path / "last"
    checkpoint.save_checkpoint(engine, folder)
    state = torch.load(folder / "training.pt", weights_only=True)
    optimizer, monitor = state["optimizer"], state["monitor"]
    (first, *_), group = optimizer["names"], optimizer["param_groups"][0]
    wrong = {
        r"a list in the place of entries": [state],
        r"no entry 'step'": {name: value for name, value in state.items() if name != "step"},
        r"'step' cannot be -1": state | {"step": -1},
        r"'step' cannot be '2'": state | {"step": "2"},
        r"step 5, and the weights beside it are of step 2": state | {"step": 5},
        r"'monitor' cannot be None": state | {"monitor": None},
        r"'without_gain' cannot be True": state | {"monitor": monitor | {"without_gain": True}},
        r"could not convert": state | {"monitor": monitor | {"initial": {"loss/depth": "high"}}},
        r"AttributeError|ValueError|TypeError|unpack": state | {"first_losses": {"depth": 1}},
        r"'optimizer' cannot be \[\]": state | {"optimizer": []},
        r"KeyError: 'param_groups'": state | {"optimizer": {"names": []}},
        r"Only here: decoders.attributes": state | {"optimizer": optimizer | {"names": []}},
        r"TypeError": state | {"optimizer": optimizer | {"names": 3}},
        r"Only there: evil": state | {"optimizer": optimizer | {"names": [[*first, "evil"], *optimizer["names"][1:]]}},
        r"longer|shorter": state | {"optimizer": optimizer | {"param_groups": [group | {"params": [0]}] * 2}},
        r"balancer with another kind of state": state | {"balancer_optimizer": None},
    }
    for message, value in wrong.items():
        torch.save(value, folder / "training.pt")
        checksums.seal(folder)
        with pytest.raises(ValueError, match=rf"last/training\.pt (is|does) .*({message})"):
            checkpoint.load_checkpoint(engine, folder)
