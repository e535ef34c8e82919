"""`mtlkit.Balanced` between networks that `torch.compile` compiled: the same numbers, and no new compilation."""

import copy
import functools
import os
import shutil

import pytest
import torch
import torch._inductor.config
from loops import Loop
from torch._dynamo.testing import CompileCounterWithBackend

from mtlkit import BALANCERS

OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}
METHODS = [name for name in BALANCERS.names() if "features" in BALANCERS.get(name).spaces]
TWICE = [name for name in METHODS if "create_graph" in BALANCERS.get(name).needs]
COMPILER = os.environ.get("CXX", "g++")
INDUCTOR = pytest.param(
    "inductor", marks=pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"inductor needs {COMPILER}")
)
STEPS = 5

# torch.compile looks at `.grad` of every input, and hides the warning that follows, except where it is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    """Forgets compiled code before and after."""
    torch._dynamo.reset()
    # Many networks here have the same `forward`. What is compiled too often runs uncompiled, which would hide what the
    # tests look for.
    limits = torch._dynamo.config.patch(recompile_limit=100, fail_on_recompile_limit_hit=True)
    with limits, torch._inductor.config.patch(compile_threads=1):  # else each test process starts compilers beside it
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def compiled(toys):
    """`compiled(backend)` returns an encoder and heads, each compiled by itself, and a counter of compilations.

    All methods use the same ones, as compiling takes seconds.
    """

    @functools.cache
    def make(backend):
        network, counter = make_engine(toys, "uniform").network, CompileCounterWithBackend(backend)
        for part in (network.encoder, *network.decoders.values()):
            part.compile(backend=counter)
        return (network.encoder, network.decoders), counter

    return make


def options_of(method):
    own = {} if BALANCERS.get(method).spaces[0] == "features" else {"space": "features"}
    return OPTIONS.get(method, {}) | own


def make_engine(toys, method):
    # SGD, because Adam makes a large step of a tiny gradient, and so of its rounding.
    return toys.make_engine(method, options=options_of(method), precision="fp32", optimizer="sgd", lr=0.1)


def batches(toys):
    made = [toys.make_batch(i) for i in range(STEPS)]
    made[3] = toys.without(made[3], "depth")
    return made


def assert_same(plain, loop):
    expected, found = plain.state(), loop.state()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        value, other = value.double().nan_to_num(7), found[name].double().nan_to_num(7)
        # A few numbers are near zero by nature: the rest of a rounded sum.
        assert (value - other).abs().max() <= 1e-5 * value.abs().max() + 1e-7, name


def run(toys, plain, loop, counter):
    """Makes the same steps with both. Returns the number of compilations after each step."""
    counts = []
    for batch in batches(toys):
        plain.step(batch)
        loop.step(batch)
        counts.append(counter.frame_count)
    return counts


@pytest.mark.parametrize("backend", ["aot_eager", INDUCTOR])
@pytest.mark.parametrize("method", METHODS)
def test_compiled_parts_have_the_same_numbers_and_are_not_compiled_again(toys, compiled, method, backend):
    (encoder, heads), counter = compiled(backend)
    engine = make_engine(toys, method)
    if method in TWICE:  # see below: their heads must stay as they are
        heads = copy.deepcopy(engine.network.decoders)
    plain = Loop(engine, method, options_of(method))
    loop = Loop(engine, method, options_of(method), parts=(encoder, heads))
    counts = run(toys, plain, loop, counter)
    assert counts[1] == counts[-1]
    assert_same(plain, loop)


@pytest.mark.parametrize("method", TWICE)
def test_heads_that_must_be_differentiated_twice_must_not_be_compiled(toys, compiled, method):
    parts, _ = compiled("aot_eager")
    loop = Loop(make_engine(toys, method), method, options_of(method), parts=parts)
    with pytest.raises(ValueError, match=r"Leave the head and the loss of task 'segmentation' uncompiled\. .*encoder"):
        loop.backward(toys.make_batch())


def test_torch_still_refuses_to_differentiate_compiled_code_twice():
    # When it no longer does, our own message has no reason any more.
    x = torch.ones(2, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.compile(torch.sin, backend="aot_eager")(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        slope.sum().backward()


def copies(engine):
    return copy.deepcopy((engine.network.encoder, engine.network.decoders))


def one_module(toys, method, backend, told):
    """Returns a plain loop, and one whose encoder, `Balanced` and heads are one compiled module, and a counter."""
    engine, loops = make_engine(toys, method), []
    for _ in range(2):
        parts = copies(engine)
        loops.append(Loop(engine, method, options_of(method), parts=parts, **({"heads": parts[1]} if told else {})))
    plain, loop = loops
    counter = CompileCounterWithBackend(backend)
    loop.net = torch.compile(loop.net, backend=counter)
    return plain, loop, counter


@pytest.mark.parametrize(
    ("method", "backend", "told"),
    [
        *((method, "aot_eager", False) for method in ("uniform", "pcgrad", "graddrop", "rotograd")),
        *((method, "aot_eager", True) for method in ("mgda", "famo")),
        pytest.param("mgda", "inductor", True, marks=(*INDUCTOR.marks, pytest.mark.long)),
    ],
)
def test_encoder_balanced_and_heads_may_be_one_compiled_module(toys, method, backend, told):
    plain, loop, counter = one_module(toys, method, backend, told)
    counts = run(toys, plain, loop, counter)
    assert counts[0] > 0
    assert counts[1] == counts[-1]
    assert_same(plain, loop)


def test_a_method_with_weights_must_be_told_the_heads_of_one_compiled_module(toys):
    _, loop, _ = one_module(toys, "mgda", "aot_eager", told=False)
    with pytest.raises(ValueError, match=r"compiled together\. Pass heads=\{\.\.\.\} to mtlkit\.Balanced"):
        loop.backward(toys.make_batch())


@pytest.mark.parametrize("method", ["uniform", "mgda", "famo"])
def test_balanced_may_be_told_compiled_modules(toys, method):
    engine = make_engine(toys, method)
    encoder, heads = copies(engine)
    backend = CompileCounterWithBackend("aot_eager")
    outer = torch.compile(encoder, backend=backend)
    outer_heads = torch.nn.ModuleDict({name: torch.compile(head, backend=backend) for name, head in heads.items()})
    plain = Loop(engine, method)
    loop = Loop(engine, method, parts=(encoder, heads), encoder=outer, heads=outer_heads)
    loop.net.encoder, loop.net.heads = outer, outer_heads
    counts = run(toys, plain, loop, backend)
    assert counts[1] == counts[-1] > 0
    loop.net.encoder, loop.net.heads = encoder, heads  # with the names that the plain loop has
    assert_same(plain, loop)


@pytest.mark.parametrize("method", ["rotograd", "famo"])
def test_the_step_of_the_optimizer_may_be_compiled(toys, method):
    engine = make_engine(toys, method)
    plain, loop = Loop(engine, method), Loop(engine, method)
    loop.optimizer.step = torch.compile(loop.optimizer.step, backend="aot_eager")
    for batch in batches(toys):
        plain.step(batch)
        loop.step(batch)
    assert loop.balanced.number == STEPS
    assert_same(plain, loop)
