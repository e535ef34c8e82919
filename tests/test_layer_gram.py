"""Gram matrices of layers without their gradients: against one backward pass per task, in float64."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from test_distributed import launch
from test_space import encoder_gradient
from test_space import textbook as gradients_of
from tolerances import NETWORK, ROUNDING, SINGLE_SUM, SMALL
from torch import nn
from torch.utils.checkpoint import checkpoint

from mtlkit import Balanced, GramBalancer
from mtlkit.balancer import Balancer
from mtlkit.engine import parameter_gram
from mtlkit.engine.encoder_graph import EncoderGraph
from mtlkit.engine.layer_gram import Layer, layer_of
from mtlkit.engine.parameter_gram import gram_over
from mtlkit.engine.parameter_space import ParameterGramSpace, ParameterSpace
from mtlkit.networks import TimmEncoder
from mtlkit.sample_group import SampleGroup

K = 3
FAMILIES = [
    ("resnet18", (64, 48), {}),
    ("resnet18", (64, 64), {"output_stride": 8, "levels": [-1]}),
    ("test_resnet", (75, 50), {}),
    ("test_convnext", (96, 72), {}),
    ("test_efficientnet", (96, 72), {}),
    ("test_mambaout", (64, 64), {}),
    ("test_vit", (48, 64), {}),
]


@pytest.fixture(params=["where it pays", "everywhere"])
def everywhere(request, monkeypatch):
    """Takes the formula for all layers that it covers, and cuts at every border."""
    if request.param == "everywhere":
        monkeypatch.setattr(Layer, "pays", lambda *_: True)
        monkeypatch.setattr(Layer, "cost", lambda *_: 0)
        stages = EncoderGraph.stages
        monkeypatch.setattr(EncoderGraph, "stages", lambda graph, size, limit: stages(graph, size, 0))
    return request.param == "everywhere"


def random_rows(levels, k=K):
    generator = torch.Generator().manual_seed(1)
    rows = [
        [torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z.dtype) for z in levels] for _ in range(k)
    ]
    rows[0][0] = None if len(levels) > 1 else rows[0][0]  # a task that does not use a level
    return rows


def textbook(levels, rows, parameters):
    """Returns the Gram matrix by one backward pass per task over all parameters."""
    found = []
    for row in rows:
        used = [i for i, g in enumerate(row) if g is not None]
        gradients = torch.autograd.grad(
            [levels[i] for i in used], parameters, [row[i] for i in used], retain_graph=True, allow_unused=True
        )
        found.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, gradients, strict=True)
                ]
            )
        )
    jacobian = torch.stack(found).double()
    return jacobian @ jacobian.T


def check(levels, parameters, tolerance=NETWORK):
    rows = random_rows(levels)
    expected = textbook(levels, rows, parameters)
    found = gram_over(levels, rows, parameters, SampleGroup())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def covered(levels, module):
    """Returns the names of the weights that the formula covers."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    graph = EncoderGraph(levels, parameters)
    return {names[i] for i, p in enumerate(parameters) if layer_of(graph, i, p) is not None}


@pytest.mark.parametrize(("name", "size", "options"), FAMILIES)
def test_encoders_of_timm(everywhere, name, size, options):
    torch.manual_seed(0)
    encoder = TimmEncoder(name, image_size=size, **options).double()
    levels = encoder(torch.rand(2, 3, *size[::-1], dtype=torch.float64))
    check(levels, list(encoder.parameters()))
    check(levels, [encoder.last_layer.weight])
    if everywhere:
        plain = [m for m in encoder.modules() if isinstance(m, nn.Linear) or (type(m) is nn.Conv2d and m.groups == 1)]
        assert len(covered(levels, encoder)) == len(plain)


class Net(nn.Module):
    """A few layers of each kind, and what the formula does not cover."""

    def __init__(self, case="plain"):
        super().__init__()
        self.case = case
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.dilated = nn.Conv2d(4, 4, (3, 1), dilation=2, padding=(2, 0), bias=False)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, groups=2)
        self.back = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4, bias=case != "no bias")
        if case == "parametrised":
            nn.utils.parametrizations.weight_norm(self.mix)
        if case == "hook":
            self.mix.weight.register_hook(lambda g: 2 * g)

    def forward(self, x):
        x = torch.tanh(self.dilated(torch.tanh(self.stem(x))))
        x = self.norm(torch.tanh(self.back(self.grouped(x))).movedim(1, -1))
        if self.case == "checkpointed":
            y = checkpoint(lambda z: torch.tanh(self.mix(z)), x, use_reentrant=False)
        else:
            y = torch.tanh(self.mix(x))
        if self.case == "twice":
            y = torch.tanh(self.mix(y))
        if self.case == "outside":
            y = y * self.mix.weight.square().sum()
        return [x, y]


FALLS_BACK = ("parametrised", "hook", "checkpointed", "twice", "outside")


@pytest.mark.parametrize("case", ["plain", "no bias", *FALLS_BACK])
def test_what_is_not_covered_takes_the_plain_way(everywhere, case):
    torch.manual_seed(0)
    net = Net(case).double()
    levels = net(torch.randn(2, 3, 9, 12, dtype=torch.float64))
    check(levels, list(net.parameters()))
    expected = {"stem.weight", "dilated.weight"} | (set() if case in FALLS_BACK else {"mix.weight"})
    assert covered(levels, net) == expected


def test_frozen_layers(everywhere):
    net = Net().double()
    net.dilated.requires_grad_(False)
    net.norm.requires_grad_(False)
    check(net(torch.randn(2, 3, 9, 12, dtype=torch.float64)), [p for p in net.parameters() if p.requires_grad])


def test_parts_without_a_path_have_no_gradient(everywhere):
    net = Net().double()
    levels = net(torch.randn(2, 3, 9, 12, dtype=torch.float64))
    check([levels[0]], list(net.parameters()))  # behind the first level, `mix` is not used


def test_half_precision_and_channels_last(everywhere):
    torch.manual_seed(0)
    net = Net().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 9, 12).contiguous(memory_format=torch.channels_last)
    check(net(image), list(net.parameters()), tolerance=SINGLE_SUM)
    with torch.autocast("cpu", torch.bfloat16):
        levels = net(image)
    assert "mix.weight" in covered(levels, net)
    check(levels, list(net.parameters()), tolerance=2e-2)  # bfloat16 rounds to 2**-8


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_squares_out_of_the_range_of_float32(everywhere, factor):
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    x = torch.randn(6, 5)
    rows = [[factor ** (j % 2) * g for g in row] for j, row in enumerate(random_rows(net(x)[None]))]
    found = gram_over([net(x)], rows, list(net.parameters()), SampleGroup())
    exact = copy.deepcopy(net).double()
    expected = textbook([exact(x.double())], [[row[0].double()] for row in rows], list(exact.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)  # float32, few terms of which some cancel


def test_the_encoder_is_cut_into_stages_and_left_as_it_was():
    torch.manual_seed(0)
    encoder = TimmEncoder("test_resnet", image_size=(64, 64)).double()
    levels = encoder(torch.rand(2, 3, 64, 64, dtype=torch.float64))
    parameters = list(encoder.parameters())
    graph = EncoderGraph(levels, parameters)
    stages = graph.stages(lambda i: parameters[i].numel(), 1000)
    assert len(stages) > 3
    assert sorted(i for stage in stages for i in stage.parameters) == list(range(len(parameters)))
    assert graph.stages(lambda i: parameters[i].numel(), 10**9)[0].parameters  # one stage where there is room
    gram_over(levels, random_rows(levels), parameters, SampleGroup())
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in encoder.modules())
    pickle.dumps(copy.deepcopy(encoder))


def test_no_task_has_a_gradient_over_a_covered_weight(monkeypatch):
    """The largest tensors are the weight's own: 64 tasks times its size never exist."""
    net = nn.Sequential(nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 200))
    levels = [net(torch.randn(4, 200))]
    rows = random_rows(levels, k=64)
    sizes = []
    put = parameter_gram._Kept.put

    def watch(kept, task, found):
        sizes.extend(g.numel() for g in found if g is not None)
        put(kept, task, found)

    monkeypatch.setattr(parameter_gram._Kept, "put", watch)
    found = gram_over(levels, rows, list(net.parameters()), SampleGroup())
    assert max(sizes) == 4 * 200
    expected = textbook(levels, rows, list(net.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.max().item())  # float32


def test_two_processes_with_unequal_samples_and_graphs(tmp_path):
    launch(2, str(Path(__file__).parent / "gram_worker.py"), str(tmp_path / "found"))
    for rank in range(2):
        errors = json.loads((tmp_path / f"found.{rank}").read_text())
        assert len(errors) == 8
        assert max(errors.values()) < NETWORK, errors


def test_steps_in_the_space_parameters(everywhere, toys):
    class InverseNorm(GramBalancer):
        """Gives every task the same gradient length."""

        def weights(self, gram):
            return 1 / gram.diagonal().sqrt()

    engine = toys.make_engine(InverseNorm(toys.TASK_NAMES, space="parameters"), accumulation=2)
    engine._update = lambda *_: None
    total = 0.0
    for number in range(2):
        batch = toys.without(toys.make_batch(number), "depth") if number else toys.make_batch()
        _, gradients = gradients_of(engine, batch)
        gradients = gradients[[0, 2]] if number else gradients
        step = engine.train_step(batch)
        torch.testing.assert_close(step.gram, gradients @ gradients.T, rtol=NETWORK, atol=SMALL)
        total = total + step.weights @ gradients / 2
        assert isinstance(step.gradients, ParameterGramSpace if everywhere else ParameterSpace)
    torch.testing.assert_close(encoder_gradient(engine), total, rtol=NETWORK, atol=ROUNDING)


def test_a_gradient_of_its_own_needs_the_jacobian(everywhere, toys):
    class Given(Balancer):
        """Returns a gradient, but asks only for the Gram matrix."""

        spaces, needs = ("parameters",), frozenset({"gram"})

        def combine(self, step):
            return [torch.zeros(1)]

    engine = toys.make_engine(Given(toys.TASK_NAMES, space="parameters"))
    if everywhere:
        with pytest.raises(ValueError, match=r"must declare that it needs .*'jacobian'"):
            engine.train_step(toys.make_batch())


@pytest.mark.parametrize("method", ["cosreg", "gradnorm"])
def test_steps_in_the_last_layer(monkeypatch, toys, method):
    states = []
    for pays in (False, True):
        monkeypatch.setattr(Layer, "pays", lambda *_, pays=pays: pays)
        engine = toys.make_engine(method, options={"space": "last_layer"})
        for number in range(3):
            engine.train_step(toys.make_batch(number))
        states.append(engine.network.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=NETWORK, atol=ROUNDING)


def test_somebody_elses_loop(monkeypatch):
    found = []
    for pays in (False, True):
        monkeypatch.setattr(Layer, "pays", lambda *_, pays=pays: pays)
        monkeypatch.setattr(Layer, "cost", lambda *_: 0)
        torch.manual_seed(0)
        net, heads = Net().double(), nn.ModuleDict({"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}).double()
        optimizer = torch.optim.SGD([*net.parameters(), *heads.parameters()], lr=0.0)
        balanced = Balanced("mgda", tasks=("a", "b"), encoder=net, space="parameters")
        balanced.follow(optimizer)
        z = balanced(net(torch.randn(2, 3, 9, 12, dtype=torch.float64))[1])
        balanced.loss({name: heads[name](z[name]).square().mean() for name in heads}).backward()
        found.append([p.grad for p in [*net.parameters(), *heads.parameters()]])
        pickle.dumps(copy.deepcopy(net))
    for plain, formula in zip(*found, strict=True):
        torch.testing.assert_close(formula, plain, rtol=NETWORK, atol=ROUNDING)
