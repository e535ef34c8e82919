"""`trainer.compile` and `model.channels_last`: the same numbers to rounding, and no compilation without end."""

import copy

import pytest
import torch
from loops import Loop  # noqa: F401
from torch._dynamo.testing import CompileCounterWithBackend

from mtlkit import BALANCERS
from mtlkit.engine import faster
from mtlkit.engine.faster import set_channels_last

OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}
PAIRS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]
TWICE = [name for name in BALANCERS.names() if "create_graph" in BALANCERS.get(name).needs]

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(scope="module")
def counter():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(faster, "BACKEND", counter)
        yield counter
    torch._dynamo.reset()


def make_engine(toys, method, space, **more):
    options = OPTIONS.get(method, {}) | ({"space": space} if len(BALANCERS.get(method).spaces) > 1 else {})
    return toys.make_engine(method, options=options, precision="fp32", optimizer="sgd", lr=0.1, **more)


@pytest.mark.parametrize(("method", "space"), PAIRS)
def test_compiled(toys, counter, method, space):
    if method in TWICE:
        with pytest.raises(ValueError, match="trainer.compile"):
            make_engine(toys, method, space, compile=True)
        return
    plain = make_engine(toys, method, space)
    engine = make_engine(toys, method, space, compile=True)
    counts = []
    for number in range(5):
        batch = toys.make_batch(number)
        if number == 3:
            batch = toys.without(batch, "depth")
        plain.train_step(batch)
        engine.train_step(batch)
        for size in (3, 5):
            image = torch.rand(1, 3, 8 * size, 12 + 4 * size)
            engine.predictor.outputs(image, {})
        counts.append(counter.frame_count)
    print(counts)
    assert counts[0] > 0 and counts[1] == counts[-1]
    for a, b in ((plain.network, engine.network), (plain.balancer, engine.balancer)):
        a, b = a.state_dict(), b.state_dict()
        assert a.keys() == b.keys()
        for name, value in a.items():
            v, w = value.double().nan_to_num(7), b[name].double().nan_to_num(7)
            assert (v - w).abs().max() <= 1e-5 * v.abs().max() + 1e-7, name


def test_late(toys, counter):
    engine = make_engine(toys, "mgda", "features", compile=True, encoder=toys.ToyLateEncoder)
    plain = make_engine(toys, "mgda", "features", encoder=toys.ToyLateEncoder)
    counts=[]
    for number in range(5):
        engine.train_step(toys.make_batch(number)); plain.train_step(toys.make_batch(number))
        counts.append(counter.frame_count)
    print(counts)
    for name, value in plain.network.state_dict().items():
        assert (value-engine.network.state_dict()[name]).abs().max()<1e-5
    assert counts[1]==counts[-1]

@pytest.mark.parametrize("accum", [1,2])
@pytest.mark.parametrize("precision", ["bf16","fp64"])
def test_more(toys, counter, accum, precision):
    res=[]
    for comp in (True,False):
        torch.manual_seed(0)
        e=toys.make_engine("famo", precision=precision, compile=comp, accumulation=accum, optimizer="sgd",lr=.1,ema=.5)
        counts=[]
        for n in range(5):
            for a in range(accum): 
                e.train_step(toys.make_batch(n*accum+a, size=8 if n!=3 else 6))
            counts.append(counter.frame_count)
        print(counts)
        res.append(e.network.state_dict())
    for n,v in res[0].items():
        print((v-res[1][n]).abs().max())
    assert 0

@pytest.mark.parametrize(("method", "space"), PAIRS)
def test_cl(toys, method, space):
    plain = make_engine(toys, method, space)
    engine = make_engine(toys, method, space, shard=lambda m: set_channels_last(m.float()))
    for number in range(3):
        plain.train_step(toys.make_batch(number))
        engine.train_step(toys.make_batch(number))
    assert engine.network.channels_last and engine.network.encoder.first.weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in ((plain.network, engine.network), (plain.balancer, engine.balancer)):
        a, b = a.state_dict(), b.state_dict()
        for name, value in a.items():
            v, w = value.double().nan_to_num(7), b[name].double().nan_to_num(7)
            assert (v - w).abs().max() <= 1e-5 * v.abs().max() + 1e-7, name
