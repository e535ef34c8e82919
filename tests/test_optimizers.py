"""The optimizers of timm by their names, with their options, and layer-wise decay of the encoder's learning rate."""

from dataclasses import replace

import pytest
import torch

from mtlkit.config.composition import compose
from mtlkit.config.optimizers import optimizer_options
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.freeze import freeze
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.engine.optim import check_optimizer, model_optimizer
from mtlkit.network import DECODERS
from mtlkit.run import checkpoint
from mtlkit.run.experiment import Experiment


def network(encoder="test_convnext"):
    shared = build_encoder(encoder, image_size=(64, 64))
    return MultiTaskModel(shared, {"depth": DECODERS.build("conv", shared.info, 1, width=8)})


def optimizer(model=None, **trainer):
    return model_optimizer(model or network(), TrainerConfig(max_steps=1, **trainer))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", lambda groups, **given: torch.optim.SGD(groups, momentum=0.9, **given)),
    ],
)
def test_the_usual_names_are_torchs_own_with_torchs_defaults(name, expected):
    found = optimizer(optimizer=name, lr=0.1, encoder_lr=0.01, weight_decay=0.2)
    groups = [{"params": group["params"], "lr": group["lr"]} for group in found.param_groups]
    other = expected(groups, weight_decay=0.2)
    assert type(found) is type(other)
    for one, two in zip(found.param_groups, other.param_groups, strict=True):
        assert {key: value for key, value in one.items() if key not in ("name", "initial_lr", "params")} == {
            key: value for key, value in two.items() if key != "params"
        }
    assert [group["lr"] for group in found.param_groups] == [0.01, 0.1]


def test_options_reach_the_optimizer():
    found = optimizer(optimizer="lamb", optimizer_options={"betas": [0.8, 0.9], "trust_clip": True})
    assert type(found).__name__ == "Lamb"
    assert list(found.param_groups[0]["betas"]) == [0.8, 0.9]
    assert found.param_groups[1]["trust_clip"] is True


@pytest.mark.parametrize("name", ["lamb", "lion", "adafactor", "muon", "madgrad", "mars"])
def test_a_resumed_optimizer_goes_on_exactly(toys, tmp_path, name):
    whole, half, resumed = (toys.make_engine(optimizer=name, lr=1e-3) for _ in range(3))
    for number in range(4):
        whole.train_step(toys.make_batch(number))
    for number in range(2):
        half.train_step(toys.make_batch(number))
    start = {key: value.clone() for key, value in half.network.state_dict().items()}
    checkpoint.save_checkpoint(half, tmp_path / "last")
    checkpoint.load_checkpoint(resumed, tmp_path / "last")
    for number in range(2, 4):
        resumed.train_step(toys.make_batch(number))
    expected = whole.network.state_dict()
    for key, value in resumed.network.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert any(not torch.equal(start[key], value) for key, value in expected.items())


def test_an_optimizer_with_random_numbers_is_asked_for_an_exact_resume():
    """It compiles itself, which takes minutes. timm promises the rest."""
    assert optimizer_options(TrainerConfig(optimizer="kron")) == {"deterministic": True}
    own = TrainerConfig(optimizer="kron", optimizer_options={"deterministic": False})
    assert optimizer_options(own) == {"deterministic": False}
    assert optimizer_options(TrainerConfig(optimizer="lamb")) == {}


def test_each_layer_learns_with_a_part_of_the_next_ones_rate():
    model = network("test_resnet")
    found = optimizer(model, lr=0.5, encoder_lr=0.1, layer_decay=0.7, weight_decay=0.3)
    layers = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    rates = {id(p): group["lr"] for group in found.param_groups for p in group["params"]}
    for name, parameter in model.encoder.named_parameters():
        number = next(i for i, names in enumerate(layers) if name.split(".")[1] in names)
        assert rates[id(parameter)] == pytest.approx(0.1 * 0.7 ** (4 - number)), name
    assert {rates[id(p)] for p in model.decoders.parameters()} == {0.5}
    assert [group["name"] for group in found.param_groups] == [*(f"encoder_{i}" for i in range(5)), "decoders"]
    assert {group["weight_decay"] for group in found.param_groups} == {0.3}  # as without layer_decay


def test_layers_of_a_vit_are_its_blocks_and_frozen_ones_are_left_out():
    model = network("test_vit")
    freeze(model, 4)
    found = optimizer(model, lr=1.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in found.param_groups for p in group["params"]}
    for name, parameter in model.encoder.named_parameters():
        block = next((int(part) for part in name.split(".") if part.isdigit()), -1)
        assert rates.get(id(parameter)) == (0.5 ** (5 - block) if block >= 4 else None), name


def test_layer_decay_needs_an_encoder_that_has_layers(toys):
    with pytest.raises(ValueError, match="ToyEncoder does not say which layer"):
        toys.make_engine(layer_decay=0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.optimizer=lambb"], r"trainer.optimizer: no optimizer of timm.optim is called 'lambb'. Did you mean"),
        (["trainer.optimizer=addam"], "Did you mean 'adam'"),
        (["trainer.optimizer=adahessian"], "needs second derivatives"),
        (
            ["trainer.optimizer=lamb", "trainer.optimizer_options={beta: 1}"],
            r"trainer.optimizer_options.beta: lamb has no such option. Did you mean 'betas'",
        ),
        (["trainer.optimizer_options={nesterov: true}"], "adam has no such option"),
        (["trainer.optimizer_options={lr: 1}"], r"trainer.optimizer_options.lr: it is the key trainer.lr"),
        (
            ["trainer.optimizer_options={amsgrad: 'no'}"],
            r"trainer.optimizer_options.amsgrad: expected true or false, found 'no'",
        ),
        (["trainer.layer_decay=0"], r"trainer.layer_decay: expected a number > 0 and <= 1 or null, found 0"),
        (["trainer.optimizer={name: lamb}"], "trainer.optimizer: expected text"),
    ],
)
def test_what_no_optimizer_has_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        compose("multimnist", words)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            {"optimizer": "adamw", "optimizer_options": {"betas": 3}},
            r"optimizer=adamw .*\{'betas': 3\}: timm cannot make it",
        ),
        ({"optimizer_options": {"betas": [2.0, 0.9]}}, "Invalid beta parameter"),
    ],
)
def test_a_value_that_the_optimizer_refuses_is_named(trainer, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**trainer)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"betas": [0.9, "a"]}, "'<=' not supported"),
        ("adam", {"eps": "x"}, "'<=' not supported"),
        ("adamw", {"betas": 0.9}, "not subscriptable"),
        ("lamb", {"betas": [0.9, "a"]}, r"'str' .*\(The defaults are betas=\(0.9, 0.999\).\)"),
        ("lamb", {"betas": 0.9}, r"it cannot take a step\. TypeError: .*unpack"),
        ("lamb", {"betas": [0.9]}, r"it cannot take a step\. ValueError: not enough values to unpack"),
        ("lamb", {"eps": "x", "max_grad_norm": 1.0}, r"could not convert.*defaults are eps=1e-06, max_grad_norm=1"),
        ("lion", {"betas": [0.9, "a"]}, "lion"),
        ("madgrad", {"eps": [1]}, "madgrad"),
        ("adafactor", {"eps": "x"}, "adafactor"),
        ("muon", {"eps": "x"}, "muon"),
        ("sgd", {"dampening": "x"}, "it cannot take a step"),
        ("rmsprop", {"alpha": "x"}, "rmsprop"),
    ],
)
def test_an_option_of_a_wrong_type_ends_before_the_data_are_opened(name, options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlkit.run.experiment.build_dataset", None)  # calling it would be a TypeError
    experiment = Experiment.compose("multimnist", [f"trainer.optimizer={name}", f"output_dir={tmp_path / 'run'}"])
    experiment.config = replace(
        experiment.config, trainer=replace(experiment.config.trainer, optimizer_options=options)
    )
    with pytest.raises(ValueError, match=message) as caught:
        experiment.run()
    assert f"trainer.optimizer={name} with trainer.optimizer_options={options}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"betas": [0.8, 0.9], "amsgrad": True}),
        ("sgd", {"dampening": 0.1}),
        ("lamb", {"eps": 1e-7}),
        ("muon", {"nesterov": True}),
        ("adafactorbv", {}),
        ("kron", {"deterministic": True}),  # it compiles itself, which takes minutes: not for the trial
    ],
)
def test_what_an_optimizer_takes_passes_and_moves_no_random_number(name, options):
    before = torch.get_rng_state()
    check_optimizer(TrainerConfig(optimizer=name, optimizer_options=options), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_optimizer_of_an_absent_package_is_named():
    if torch.cuda.is_available():
        pytest.skip("it may be there on a machine with CUDA")
    with pytest.raises(ValueError, match=r"optimizer=fusedlamb .* timm cannot make it here. AssertionError: CUDA"):
        optimizer(optimizer="fusedlamb")


def test_a_momentum_without_effect_is_named():
    with pytest.warns(UserWarning, match="trainer.momentum .* has no effect: the optimizer lion has none"):
        compose("multimnist", ["trainer.optimizer=lion", "trainer.momentum=0.5"])
