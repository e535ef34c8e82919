"""The state of `mtlkit.Balanced`: saved, loaded, copied, moved, and hidden from optimizers and wrappers."""

import copy
import io
from pathlib import Path

import pytest
import torch
from loops import Loop
from safetensors.torch import load_file, save_file
from torch import nn

import mtlkit
from mtlkit import BALANCERS

SHARED = Path(__file__).parents[2] / "shared"
SETTINGS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]


def make(toys, name, space=None):
    options = {} if space in (None, BALANCERS.get(name).spaces[0]) else {"space": space}
    return Loop(toys.make_engine(name, options=options), name, options)


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value.nan_to_num(7), two[key].nan_to_num(7)), key


@pytest.mark.parametrize(("name", "space"), SETTINGS)
def test_a_resumed_loop_goes_on_as_if_it_had_never_stopped(toys, tmp_path, name, space):
    """The state goes through safetensors, which holds nothing but tensors."""
    loop, other = make(toys, name, space), make(toys, name, space)
    for i in range(3):
        loop.step(toys.make_batch(i))
    save_file({key: value.contiguous() for key, value in loop.net.state_dict().items()}, tmp_path / "state")
    buffer = io.BytesIO()
    torch.save(loop.optimizer.state_dict(), buffer)
    other.step(toys.make_batch(9))  # what it has now must go
    other.net.load_state_dict(load_file(tmp_path / "state"))
    other.optimizer.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert other.balanced.number == 3
    for i in range(3, 6):
        loop.step(toys.make_batch(i))
        other.step(toys.make_batch(i))
    assert_same(loop.state(), other.state())


def test_the_state_alone_through_torch_save(toys):
    loop, other = make(toys, "gradnorm"), make(toys, "gradnorm")
    loop.step(toys.make_batch(0))
    buffer = io.BytesIO()
    torch.save(loop.balanced.state_dict(), buffer)
    other.balanced.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert_same(loop.balanced.state_dict(), other.balanced.state_dict())
    assert {"number", "balancer.weight.depth", "optimizer.weight.depth.exp_avg"} <= loop.balanced.state_dict().keys()
    loop.step(toys.make_batch(1))  # what was saved is a copy
    assert int(other.balanced.state_dict()["number"]) == 1


def test_a_state_that_does_not_fit(toys):
    loop = make(toys, "gradnorm")
    loop.step(toys.make_batch(0))
    state = loop.net.state_dict()
    for changed, words in (
        ({k: v for k, v in state.items() if k != "balanced.number"}, r'Missing key.*"balanced\.number"'),
        ({k: v for k, v in state.items() if "balancer.weight.depth" not in k}, r"balanced\.balancer\.weight\.depth"),
        (state | {"balanced.other": torch.zeros(())}, r'Unexpected key.*"balanced\.other"'),
        (state | {"balanced.optimizer.no.step": torch.zeros(())}, r'Unexpected.*"balanced\.optimizer\.no\.step"'),
        (state | {"balanced.balancer.extra": torch.zeros(())}, r'Unexpected.*"balanced\.balancer\.extra"'),
        (state | {"balanced.balancer.weight.depth": torch.zeros(3)}, r"size mismatch for weight\.depth"),
    ):
        with pytest.raises(RuntimeError, match=words):
            loop.net.load_state_dict(changed)


def test_no_optimizer_and_no_wrapper_sees_the_methods_parameters(toys):
    loop = make(toys, "uncertainty")
    names = [name for name, _ in loop.net.named_parameters()]
    assert not any("balanced" in name for name in names)
    assert not list(loop.balanced.parameters())
    assert not list(loop.balanced.buffers())
    loop.net.requires_grad_(False)
    assert all(p.requires_grad for p in loop.balanced.balancer.log_variance.values())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["rotograd", "gradnorm", "moco", "db_mtl", "uncertainty"])
def test_copies_have_the_state_and_follow_nothing(toys, name, way):
    loop = make(toys, name)
    for i in range(2):
        loop.step(toys.make_batch(i))
    loop.backward(toys.make_batch(2))  # in the middle of a step

    def copied(net):
        if way == "deepcopy":
            return copy.deepcopy(net)
        buffer = io.BytesIO()
        torch.save(net, buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)

    net = copied(loop.net)
    assert_same(net.state_dict(), loop.net.state_dict())
    assert net.balanced.number == 2
    other = make(toys, name)
    other.net, other.balanced = net, net.balanced
    with pytest.raises(ValueError, match=r"Call balanced\.follow\(optimizer\) once"):
        other.backward(toys.make_batch(2))
    groups = [{"params": list(part.parameters()), "lr": 1e-2} for part in (net.encoder, net.heads)]
    other.optimizer = type(loop.optimizer)(groups, weight_decay=loop.optimizer.defaults["weight_decay"])
    other.optimizer.load_state_dict(copy.deepcopy(loop.optimizer.state_dict()))
    before = {key: value.clone() for key, value in loop.state().items()}
    net.zero_grad()
    net.balanced.follow(other.optimizer)
    other.step(toys.make_batch(2))
    assert_same(before, loop.state())  # the copy moved nothing of the original
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    assert_same(other.state(), loop.state())


def test_the_state_goes_where_the_module_goes():
    balanced = mtlkit.Balanced("d_grad", tasks=("a", "b"), features=4)
    net = nn.ModuleDict({"balanced": balanced, "encoder": nn.Linear(3, 4)})
    for kind, expected in (
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),  # never less precise than float32
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
    ):
        net.to(kind)
        assert {p.dtype for p in balanced.balancer.parameters()} == {expected}
    net.to("meta")
    assert {p.device.type for p in balanced.balancer.parameters()} == {"meta"}
    numbers = mtlkit.Balanced("gradnorm", tasks=("a", "b")).to("meta").balancer  # stay on the host
    assert {p.device.type for p in numbers.parameters()} == {"cpu"}


def test_adams_averages_go_along(toys):
    loop = make(toys, "gradnorm")
    loop.step(toys.make_batch(0))
    for move, expected in (
        (loop.net.float, torch.float32),
        (loop.net.half, torch.float32),
        (loop.net.double, torch.float64),
    ):
        move()
        assert {v.dtype for k, v in loop.balanced.state_dict().items() if k.endswith("exp_avg")} == {expected}
    loop.step(toys.make_batch(1))


def test_features_in_double_precision_take_the_state_along():
    balanced = mtlkit.Balanced("rotograd", tasks=("a", "b"), features=4)
    balanced(torch.rand(2, 4, dtype=torch.float64, requires_grad=True))
    assert balanced.balancer.rotation["a"].dtype == torch.float64


def test_a_loops_own_random_numbers_are_left_alone(toys):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = mtlkit.Balanced("rotograd", tasks=("a", "b"), features=4)
    assert torch.equal(torch.rand(2), expected)
    two = mtlkit.Balanced("rotograd", tasks=("a", "b"), features=4)
    other = mtlkit.Balanced("rotograd", tasks=("a", "b"), features=4, seed=1)
    assert_same(one.state_dict(), two.state_dict())
    assert not torch.equal(one.balancer.rotation["a"], other.balancer.rotation["a"])
    loop = make(toys, "graddrop")
    torch.manual_seed(3)
    loop.step(toys.make_batch(0))
    assert torch.equal(torch.rand(2), expected)


def test_a_second_follow_replaces_the_first(toys):
    loop = make(toys, "gradnorm")
    loop.balanced.follow(loop.optimizer)
    loop.step(toys.make_batch(0))
    assert loop.balanced.number == 1
    assert "gradnorm, tasks=(" in repr(loop.net)
