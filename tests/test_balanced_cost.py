"""What `mtlkit.Balanced` costs beside the engine: backward passes, waits for the device, memory.

`test_tools.py` compares the memory of whole steps.
"""

import importlib
from pathlib import Path

import pytest
import torch
from loops import Loop
from torch import nn

from mtlkit import BALANCERS, Balanced

METHODS = [name for name in BALANCERS.names() if "features" in BALANCERS.get(name).spaces]
ONCE = [name for name in METHODS if "create_graph" not in BALANCERS.get(name).needs]
OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}


def pair(toys, method):
    own = {} if BALANCERS.get(method).spaces[0] == "features" else {"space": "features"}
    options = OPTIONS.get(method, {}) | own
    # No step computes anything for the log. Adam would read its own numbers.
    engine = toys.make_engine(method, options=options, log_every=10**9, optimizer="sgd", momentum=0.0)
    return engine, Loop(engine, method, options)


def count_passes(modules):
    """Returns a dictionary that counts the backward passes through each module, by the first of its outputs."""
    passes = dict.fromkeys(modules, 0)

    def watch(name, module):
        def count(_):
            passes[name] += 1

        def after_forward(module, inputs, output):
            if torch.is_grad_enabled():  # FAMO looks a second time, without gradients
                (output[-1] if isinstance(output, list) else output).grad_fn.register_prehook(count)

        module.register_forward_hook(after_forward)

    for name, module in modules.items():
        watch(name, module)
    return passes


@pytest.mark.parametrize("method", ONCE)
def test_one_backward_pass_runs_through_the_encoder_and_each_head(toys, method):
    _, loop = pair(toys, method)
    passes = count_passes({"encoder": loop.net.encoder, **loop.net.heads})
    for number in range(1, 3):
        loop.backward(toys.make_batch(number), divide=2)
        assert passes == dict.fromkeys(["encoder", *toys.TASK_NAMES], number)
    loop.optimizer.step()
    assert passes == dict.fromkeys(["encoder", *toys.TASK_NAMES], number)


def live_bytes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    return importlib.import_module("bench_step").LiveBytes()


@pytest.mark.parametrize("shape", [(4, 50, 16), (4, 16, 5, 10)], ids=["tokens", "channels last"])
def test_the_features_are_not_copied(monkeypatch, shape):
    features = torch.rand(shape)
    if features.dim() == 4:
        features = features.to(memory_format=torch.channels_last)
    features.requires_grad_()
    balanced = Balanced("mgda", tasks=("a", "b"))
    balanced.follow(torch.optim.SGD([features], lr=0.1))
    with live_bytes(monkeypatch) as memory:
        z = balanced(2 * features)
        memory.peak = memory.now
        loss = balanced.loss({name: own.sum() for name, own in z.items()})
        assert loss.requires_grad
        assert memory.peak < 1.1 * features.nbytes


def test_after_the_step_only_its_figures_are_left(monkeypatch):
    encoder, heads = nn.Linear(8, 64), nn.ModuleDict({"a": nn.Linear(64, 1), "b": nn.Linear(64, 1)})
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
    balanced = Balanced("rotograd", tasks=("a", "b"), features=64)
    balanced.follow(optimizer)
    with live_bytes(monkeypatch) as memory:
        z = balanced(encoder(torch.rand(32, 8)))
        balanced.loss({name: heads[name](z[name]).square().mean() for name in z}).backward()
        optimizer.step()
        optimizer.zero_grad()
        del z
        # RotoGrad notes a matrix of this size for each task.
        own = balanced.balancer
        kept = [*encoder.parameters(), *heads.parameters(), *own.parameters(), *own.buffers()]
        assert memory.now < sum(tensor.nbytes for tensor in kept) + 64 * 64 * 4
    assert "weight/a" in balanced.scalars()
