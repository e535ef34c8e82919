"""What a method says that a step of it costs: against counted operations, and in the log of a run."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mtlkit import Experiment
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.network import DECODERS
from mtlkit.run.cost import forward_operations

sys.path.insert(0, str(Path(__file__).parent))
from test_rotograd import make_batch, make_engine


def counted(name, options, width):
    """Returns the operations of a step in products of matrices, also of those inside torch's functions."""
    engine = make_engine(name, options, width, precision="fp32", names=("a", "b", "c"))
    for number in range(1, 4):  # the first lengths, and no correction of rounding errors
        engine.train_step(make_batch(number))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        engine.train_step(make_batch(4))
    total = 0
    for event in found.events():
        place = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "baddbmm_": 1}.get(event.name.removeprefix("aten::"))
        if place is not None:
            left, right = event.input_shapes[place : place + 2]
            total += 2 * math.prod(left) * right[-1]
    return total


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({}, 128),  # 8 samples: factors
        ({}, 30),  # whole matrices
        ({"update": "adam"}, 64),
    ],
)
def test_rotograd_knows_its_own_operations(options, width):
    engine = make_engine("rotograd", options, width)
    told = engine.balancer.operations(engine.network.encoder.info, 8)
    own = counted("rotograd", options, width) - counted("uniform", {}, width)
    # Small terms are left out, and torch's exponential takes more products for larger matrices.
    assert told[""] == pytest.approx(own, rel=0.3)
    assert list(told) == ["", *(["balancer.update=geodesic"] if options else [])]
    assert all(number < told[""] for words, number in told.items() if words)


def test_methods_without_matrices_of_their_own_say_nothing():
    for name, options in (("uniform", {}), ("rotograd", {"scale_only": True})):
        engine = make_engine(name, options)
        assert engine.balancer.operations(engine.network.encoder.info, 8) == {}


def test_the_operations_of_a_network_are_those_of_its_layers():
    encoder = build_encoder("lenet", image_size=(28, 28))
    model = MultiTaskModel(encoder, {"digit": DECODERS.build("linear", encoder.info, 10)}).train()
    layers = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda own, _, out: layers.append(2 * out[0].numel() * own.weight[0].numel()))
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda own, _, out: layers.append(2 * own.weight.numel()))
    found = forward_operations(model, (28, 28), 3)
    assert found == sum(layers) > 0
    assert model.training


@pytest.mark.parametrize("update", ["adam", "geodesic"])
def test_a_run_says_before_it_begins_where_the_method_needs_more_than_the_network(tmp_path, no_report, update):
    words = ["data.size=[32,32]", "data.train_size=4", "data.val_size=2", "data.batch_size=2", "trainer.max_steps=1"]
    words += ["model.encoder=test_resnet", "model.levels=null", "trainer.max_epochs=null", f"data.root={tmp_path}"]
    words += ["balancer=rotograd", f"balancer.update={update}", f"output_dir={tmp_path / 'run'}"]
    run = Experiment.compose("scenes", words).run()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said = [
        (number, r["incident"]) for number, r in enumerate(records) if "rotograd itself needs" in r.get("incident", "")
    ]
    assert len(said) == (update == "adam")
    for number, text in said:
        assert "times the network's" in text
        assert "`balancer.update=geodesic` needs" in text
        assert number < next(k for k, r in enumerate(records) if r["split"] == "train")
