"""`trainer.compile` and `model.channels_last`: the same numbers to rounding, and nothing is compiled without end."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from mtlkit import BALANCERS
from mtlkit.engine import faster
from mtlkit.report.history import History
from mtlkit.run.experiment import Experiment
from mtlkit.run.export import export_model
from mtlkit.run.inference import evaluate_run, load_run

sys.path.insert(0, str(Path(__file__).parent))
from test_distributed import launch
from tolerances import SINGLE_SUM

OPTIONS = {"stch": {"warmup_epochs": 0}, "adversarial": {"ramp_epochs": 3}, "torchjd": {"weighting": "UPGrad"}}
TWICE = [name for name in BALANCERS.names() if "create_graph" in BALANCERS.get(name).needs]
PAIRS = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]
#: What `make test` has of these: every space, a method with weights, and one that looks at the losses again.
SHORT = [("mgda", "features"), ("famo", "features"), ("gradnorm", "last_layer"), ("cagrad", "parameters")]
COMPILER = os.environ.get("CXX", "g++")

# torch.compile looks at `.grad` of every input, and hides the warning that follows, except where it is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


def others(pairs):
    return [pytest.param(*pair, marks=() if pair in SHORT else pytest.mark.long) for pair in pairs]


@pytest.fixture(scope="module")
def counter():
    """Counts what is compiled. Networks of the same form share their code, also over tests."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(faster, "BACKEND", counter)
        yield counter
    torch._dynamo.reset()


def make_engine(toys, method, space, **more):
    options = OPTIONS.get(method, {}) | ({"space": space} if len(BALANCERS.get(method).spaces) > 1 else {})
    # SGD, because Adam makes a large step of a tiny gradient, and so of its rounding.
    return toys.make_engine(method, options=options, optimizer="sgd", lr=0.1, **{"precision": "fp32"} | more)


def assert_same(plain, engine):
    for one, two in ((plain.network, engine.network), (plain.balancer, engine.balancer)):
        expected, found = one.state_dict(), two.state_dict()
        assert expected.keys() == found.keys()  # a compiled module must not have names of its own
        for name, value in expected.items():
            value, other = value.double().nan_to_num(7), found[name].double().nan_to_num(7)
            # A few numbers are near zero by nature: the rest of a rounded sum.
            assert (value - other).abs().max() <= SINGLE_SUM * value.abs().max() + 1e-7, name


def train(toys, counter, plain, engine):
    """Makes the same steps with both, and evaluations of many sizes. Returns the compilations after each step."""
    counts = []
    for number in range(5):
        batch = toys.make_batch(number)
        if number == 3:
            batch = toys.without(batch, "depth")
        for one in (plain, engine):
            one.train_step(batch)
        image = torch.rand(1 + number % 2, 3, 8 + 4 * number, 12 + 8 * number)
        expected, found = (one.predictor.outputs(one.predictor.image(image), {}) for one in (plain, engine))
        # Ten times what the parameters may differ.
        torch.testing.assert_close(found, expected, rtol=10 * SINGLE_SUM, atol=10 * SINGLE_SUM)
        counts.append(counter.frame_count)
    return counts


@pytest.mark.parametrize(("method", "space"), others([pair for pair in PAIRS if pair[0] not in TWICE]))
def test_a_compiled_network_has_the_same_numbers_and_is_not_compiled_again(toys, counter, method, space):
    plain, engine = (make_engine(toys, method, space, compile=compile) for compile in (False, True))
    counts = train(toys, counter, plain, engine)
    assert 0 < counts[1] == counts[-1]
    assert_same(plain, engine)


@pytest.mark.parametrize("more", [{"precision": "bf16", "accumulation": 2, "ema": 0.5}, {"encoder": "late"}], ids=str)
def test_compiled_code_goes_with_the_rest(toys, counter, more):
    more = more | ({"encoder": toys.ToyLateEncoder} if "encoder" in more else {})
    plain, engine = (make_engine(toys, "mgda", "features", compile=compile, **more) for compile in (False, True))
    counts = train(toys, counter, plain, engine)
    assert counts[1] == counts[-1]
    assert_same(plain, engine)


def test_every_decoder_is_compiled_and_a_smaller_batch_once_more(toys, counter):
    """Torch counts all decoders as one function, of which it compiles eight by default, and then no more."""
    engine = make_engine(toys, "uniform", "features", compile=True)
    assert torch._dynamo.config.recompile_limit >= 8 * 4
    torch._dynamo.reset()
    counts = [counter.frame_count]
    for size in (8, 8, 4, 6, 5, 3, 8):
        engine.train_step(toys.make_batch(size, size=size))
        counts.append(counter.frame_count)
        engine.predictor.outputs(torch.rand(1, 3, 8 * size, 12), {})  # is not compiled
        assert counter.frame_count == counts[-1]
    assert counts[1] - counts[0] == 4  # the encoder and three decoders
    assert counts[3] > counts[2] == counts[1]
    assert counts[-1] == counts[3]  # the second version takes any size


@pytest.mark.parametrize("method", TWICE)
def test_methods_that_differentiate_twice_are_refused(toys, method):
    space = BALANCERS.get(method).spaces[0]
    with pytest.raises(ValueError, match=r"trainer\.compile: \w+ differentiates gradients once more.*another balancer"):
        make_engine(toys, method, space, compile=True)


def test_a_machine_without_a_compiler_is_refused(toys, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(faster, "BACKEND", broken)
    with pytest.raises(ValueError, match=r"trainer\.compile: .*not work on this machine.*compiler.*compile=false"):
        make_engine(toys, "uniform", "features", compile=True)


@pytest.mark.long
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"inductor needs {COMPILER}")
@pytest.mark.parametrize(("method", "space"), SHORT)
def test_inductor_has_the_same_numbers(toys, monkeypatch, method, space):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    monkeypatch.setattr(faster, "BACKEND", counter)
    with torch._inductor.config.patch(compile_threads=1):
        plain, engine = (make_engine(toys, method, space, compile=compile) for compile in (False, True))
        counts = train(toys, counter, plain, engine)
    assert counts[1] == counts[-1]
    assert_same(plain, engine)


@pytest.mark.parametrize(("method", "space"), others(PAIRS))
def test_channels_last_has_the_same_numbers(toys, method, space):
    plain = make_engine(toys, method, space)
    engine = make_engine(toys, method, space, shard=lambda model: faster.set_channels_last(model.float()))
    given = []
    engine.network.encoder.second.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    train(toys, SimpleNamespace(frame_count=0), plain, engine)
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in given)
    assert_same(plain, engine)


def test_channels_last_is_refused_with_fsdp(toys):
    model = make_engine(toys, "uniform", "features").network
    faster.set_channels_last(model)
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
    config = make_engine(toys, "uniform", "features").config
    with pytest.raises(ValueError, match=r"model\.channels_last: FSDP splits kernels only.*channels_last=false"):
        faster.set_up(model, None, config, accelerator)


# -- two processes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(once):
    worker = str(Path(__file__).parent / "memory_worker.py")
    folder = once("memory", lambda folder: launch(2, worker, str(folder / "found.json")))
    return json.loads((folder / "found.json").read_text())


def test_an_overflow_on_one_process_skips_the_step_on_both(found):
    """In fp16, with a loss scaler. The second of four steps overflows on the second process."""
    for own in found:
        for case in own["overflow"].values():
            assert case["spread"] == 0
            assert case["scales"] == [1024, 512, 512, 512]
            assert [moved > 0 for moved in case["moved"]] == [True, False, True, True]  # model and balancer


def test_an_overflow_on_one_process_stops_both_without_a_scaler(found):
    """In bf16. A process that went on would wait for the other one for ever."""
    for own in found:
        for case in own["stopped"].values():
            assert case["error"].startswith("The gradient is nan at step 0")
            assert case["moved"] == 0


def test_compiled_code_and_checkpointing_go_with_ddp_and_fsdp(found):
    for own in found:
        for case in own["same"].values():
            assert case["gap"] <= SINGLE_SUM
            assert case["spread"] == 0
            assert case["counts"][1] == case["counts"][-1]
    assert any(case["counts"][-1] for case in found[0]["same"].values())


# -- a whole run ---------------------------------------------------------------------------------------------------


def test_a_run_has_all_three_and_may_go_on_without(tmp_path, counter, no_report):
    words = [
        *("task=[segmentation,attributes]", "data.size=[32,32]", "data.train_size=8", "data.val_size=4"),
        *("data.batch_size=4", f"data.root={tmp_path / 'cache'}", "model.encoder=test_resnet", "model.levels=[1,2]"),
        *("model.batch_norm=local", "trainer.max_steps=2", "trainer.eval_every=1", "balancer=mgda"),
        *("balancer.space=parameters", f"output_dir={tmp_path / 'run'}"),
    ]
    keys = ("model.channels_last", "model.checkpointing", "trainer.compile")
    plain = Experiment.compose("scenes", [*words, f"output_dir={tmp_path / 'plain'}"]).run()
    before = counter.frame_count
    run = Experiment.compose("scenes", [*words, *(f"{key}=true" for key in keys)]).run()
    assert counter.frame_count > before
    assert History(run).notes == [
        "Without model.channels_last and trainer.compile, the figures are the same only up to rounding."
    ]
    ends = [[r for r in History(folder).records if r["split"] == "val"][-1] for folder in (plain, run)]
    # Adam makes a large step of a tiny gradient, and so of its rounding; another model differs by tenths.
    for key, value in ends[0].items():
        assert ends[1][key] == (pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value), key
    assert evaluate_run(run)["loss/segmentation"] == ends[1]["loss/segmentation"]  # to the last digit
    one, two = (load_file(folder / "checkpoints/last/model.safetensors") for folder in (plain, run))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    image = torch.rand(3, 32, 32)
    model = load_run(run)
    # As above.
    torch.testing.assert_close(model(image), load_run(plain)(image), rtol=1e-2, atol=1e-3)
    export_model(model, tmp_path / "model.pt2", "pt2")
    Experiment.compose("scenes", [*words, *(f"{key}=false" for key in keys), "trainer.max_steps=3"]).run(resume=True)
    records = History(run).records
    assert [set(r["computed_by"]) for r in records if "computed_by" in r] == [set(keys), set()]
