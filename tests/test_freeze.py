"""A frozen encoder (`model.freeze`): what stands still, what still learns, and what the balancer can do."""

import pytest
import torch
from safetensors.torch import load_file
from tolerances import SINGLE

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.config.composition import compose as compose_config
from mtlkit.engine.freeze import freeze
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.network import DECODERS
from mtlkit.run.experiment import Experiment

TINY = [
    "task=[segmentation,attributes]",
    "data.size=[32,32]",
    "data.train_size=8",
    "data.val_size=4",
    "data.batch_size=4",
    "model.encoder=test_resnet",
    "model.levels=null",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "trainer.log_every=1",
    "trainer.schedule=constant",
    "trainer.eval_every=2",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(cache, tmp_path):
    """Trains two steps. Returns which tensors changed since step 0, and the sentences about the model."""
    from mtlkit.run import checkpoint

    def run(*words):
        kept = []
        with pytest.MonkeyPatch.context() as patch:
            save = checkpoint.write_checkpoint

            def saved(snapshot, path, **options):
                save(snapshot, path, **options)
                kept.append(load_all(path))

            patch.setattr(checkpoint, "write_checkpoint", saved)
            own = [f"data.root={cache}", f"output_dir={tmp_path / 'run'}"]
            Experiment.compose("scenes", [*TINY, *own, *words]).run()
        records = log.read_log(tmp_path / "run" / "metrics.jsonl")
        info = {key: value for record in records if record["split"] == "info" for key, value in record.items()}
        moved = {name for name, tensor in kept[0].items() if not torch.equal(tensor, kept[-1][name])}
        return moved, info["model"], [record for record in records if record["split"] == "train"]

    return run


def load_all(path):
    return load_file(path / "model.safetensors") | {
        f"balancer.{name}": tensor for name, tensor in load_file(path / "balancer.safetensors").items()
    }


def network(encoder="test_resnet"):
    shared = build_encoder(encoder, image_size=(64, 64))
    return MultiTaskModel(shared, {"depth": DECODERS.build("conv", shared.info, 1, width=8)}).train()


def test_a_frozen_encoder_stands_still_and_the_decoders_learn(train):
    moved, text, records = train("model.freeze=true", "balancer=uniform")
    assert not [name for name in moved if name.startswith("encoder.")]  # batch-norm statistics neither
    assert {name.split(".")[1] for name in moved} == {"segmentation", "attributes"}
    assert text[-1] == (
        "The encoder gets no gradient, so uniform has no effect: each decoder learns from its own loss alone, as with "
        "any balancer."
    )
    assert all(record["grad_norm/segmentation"] > 0 for record in records)  # at the features, for the log
    assert "lr/encoder" not in records[0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["balancer=rotograd"], "so rotograd only adapts the features of each task."),
        (["balancer=nash", "trainer.decoder_gradients=weighted"], "so nash only weighs the gradients of the decoders."),
        (["balancer=cosreg", "balancer.space=features"], "so cosreg only reaches the decoders by its objective."),
        (["balancer=adversarial"], "so adversarial only "),
        (["balancer=graddrop"], "so graddrop has no effect"),
    ],
)
def test_what_a_balancer_can_still_do_is_said_and_done(train, words, text):
    moved, said, records = train("model.freeze=true", *words)
    assert text in said[-1]
    assert not [name for name in moved if name.startswith("encoder.")]
    if words == ["balancer=rotograd"]:
        assert any(name.startswith("balancer.rotation.") for name in moved)
    if "nash" in words[0]:
        assert records[0]["weight/segmentation"] != records[0]["weight/attributes"]


@pytest.mark.parametrize(("encoder", "most"), [("test_resnet", 4), ("test_vit", 6), ("test_convnext", 4)])
def test_the_stem_and_the_first_stages_are_frozen(encoder, most):
    stem = {"test_resnet": ("conv1", "bn1"), "test_vit": ("pos", "cls", "patch"), "test_convnext": ("stem",)}[encoder]
    stages = {"test_resnet": "layer{}", "test_vit": "blocks.{}", "test_convnext": "stages_{}"}[encoder]
    first = 1 if encoder == "test_resnet" else 0
    for number in (1, 2, most):
        model = network(encoder)
        freeze(model, number)
        names = tuple(f"{stages.format(first + i)}." for i in range(number))
        for name, parameter in model.encoder.named_parameters():
            frozen = name.removeprefix("net.").removeprefix("model.").startswith((*stem, *names))
            assert parameter.requires_grad != frozen, name
    with pytest.raises(ValueError, match=f"model.freeze={most + 1}: this encoder has {most} stages behind its stem"):
        freeze(network(encoder), most + 1)


def test_frozen_modules_stay_in_eval_mode_and_others_do_not():
    model = network()
    freeze(model, 2)
    model.train()
    modes = {name: module.training for name, module in model.encoder.net.named_modules() if name.count(".") == 0}
    assert {name for name, training in modes.items() if not training} == {"bn1", "conv1", "layer1", "layer2"}
    assert not any(module.training for module in model.encoder.net.layer2.modules())
    assert model.decoders.training
    freeze(other := network(), True)
    other.train()
    assert not any(module.training for module in other.encoder.modules())


def test_an_encoder_of_one_stage_has_one_stage():
    model = network()
    matcher = {"stem": r"^net\.(?:conv1|bn1)", "blocks": r"^net\.layer"}
    model.encoder.group_matcher = lambda coarse: matcher
    with pytest.raises(ValueError, match=r"has 1 stage behind its stem. Take 1, or true for the whole encoder\."):
        freeze(model, 2)


@pytest.mark.parametrize(
    "words",
    [
        ["balancer=nash", "balancer.space=parameters"],
        ["balancer=cosreg"],
        ["balancer=graddrop"],
    ],
    ids=" ".join,
)
def test_some_stages_learn_and_some_do_not(train, words):
    moved, text, _ = train("model.freeze=2", *words)
    parts = {name.split(".")[2] for name in moved if name.startswith("encoder.")}
    assert parts == {"layer3", "layer4"}
    assert len(text) == 1
    assert text[0].startswith("Frozen: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.freeze=9"], "model.freeze=9: this encoder has 4 stages behind its stem"),
        (["model.freeze=0"], "model.freeze: expected true or false or an integer >= 1, found 0"),
        (
            ["model.freeze=true", "balancer=nash", "balancer.space=parameters"],
            "the balancer 'nash' (space 'parameters') compares gradients of parameters of the encoder, but these are "
            "frozen. Take balancer.space=features",
        ),
        (["model.freeze=4", "balancer=gradnorm", "balancer.space=last_layer"], "(space 'last_layer')"),
    ],
)
def test_what_cannot_be_frozen_is_refused(cache, tmp_path, capsys, words, message):
    own = [f"data.root={cache}", f"output_dir={tmp_path / 'run'}"]
    assert main(["train", "scenes", *TINY, *own, *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_encoder_without_stages_is_frozen_whole_or_not_at_all(toys):
    encoder = toys.ToyEncoder()
    model = MultiTaskModel(encoder, {name: task.decoder(encoder.info) for name, task in toys.make_tasks().items()})
    with pytest.raises(ValueError, match="ToyEncoder does not say which layer and stage its parameters belong to"):
        freeze(model, 1)
    freeze(model, True)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_settings_of_an_encoder_that_does_not_learn_have_no_effect():
    with pytest.warns(UserWarning, match=r"trainer.encoder_lr .* has no effect: model.freeze is true"):
        compose_config("scenes", ["model.freeze=true", "trainer.encoder_lr=0.1"])


def test_gradients_at_frozen_levels_count_for_nothing(toys):
    """The finer level comes from frozen layers. So the Gram matrix is that of the gradients at the coarser level."""
    engine = toys.make_engine("nash")
    engine.network.encoder.first.requires_grad_(False)
    step = engine.train_step(batch := toys.make_batch(0))
    twin = toys.make_engine("nash").network
    image, targets = engine.prepare(batch)
    fine, coarse = twin.encoder(image)
    rows = []
    for name in step.tasks:
        own = coarse.detach().requires_grad_()
        total, count = engine.tasks[name].loss(resized(twin.decoders[name]([fine, own]), targets[name]), targets[name])
        rows.append(torch.autograd.grad(total / count, own)[0].flatten().double())
    expected = torch.stack(rows) @ torch.stack(rows).T
    assert torch.allclose(step.gram, expected, rtol=SINGLE)


def resized(output, target):
    if output.dim() == 2:
        return output
    return torch.nn.functional.interpolate(output, size=target.shape[-2:], mode="bilinear", align_corners=False)
