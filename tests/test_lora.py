"""Adapters in a frozen encoder (`model.lora`): what learns, what the space `parameters` compares, and merging."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from tolerances import SINGLE_SUM

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.config.schema import LoraConfig
from mtlkit.engine.lora import add_lora, merge_lora, merged
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.engine.shared import shared_parameters
from mtlkit.network import DECODERS
from mtlkit.run.experiment import Experiment
from mtlkit.run.inference import evaluate_run

pytest.importorskip("peft", reason="peft is not installed (pip install 'mtlkit[lora]')")

TINY = [
    "task=[segmentation,attributes]",
    "data.size=[32,32]",
    "data.train_size=8",
    "data.val_size=4",
    "data.batch_size=4",
    "model.encoder=test_vit",
    "model.levels=null",
    "trainer.max_epochs=null",
    "trainer.log_every=1",
    "trainer.eval_every=2",
    "trainer.schedule=constant",
]
LORA = "model.lora={rank: 2, targets: [qkv, attn.proj], alpha: 4}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def train(folder):
    def run(name, *words, resume=False):
        own = [f"data.root={folder / 'cache'}", f"output_dir={folder / name}"]
        return Experiment.compose("scenes", [*TINY, *own, *words]).run(resume=resume)

    return run


@pytest.fixture(scope="module")
def adapted(train):
    """A run of two steps that compares gradients over the adapters."""
    return train("adapted", LORA, "balancer=pcgrad", "balancer.space=parameters", "trainer.max_steps=2")


def weights(run, name="last"):
    return load_file(run / "checkpoints" / name / "model.safetensors")


def said(run):
    return next(record["model"] for record in log.read_log(run / "metrics.jsonl") if "model" in record)


def network(encoder="test_vit"):
    torch.manual_seed(0)
    shared = build_encoder(encoder, image_size=(32, 32))
    return MultiTaskModel(shared, {"depth": DECODERS.build("conv", shared.info, 1, width=8)})


def trained_a_little(model):
    """Gives the adapters other values, as training does: B starts at 0."""
    for name, parameter in model.encoder.named_parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) / 10)
    return model.eval()


def test_only_the_adapters_learn_and_the_space_parameters_compares_only_them(train, adapted):
    start = train("start", LORA, "balancer=pcgrad", "balancer.space=parameters", "trainer.max_steps=1")
    before, after = weights(start), weights(adapted)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    encoder = {name for name in moved if name.startswith("encoder.")}
    layers = [f"encoder.net.model.blocks.{i}.attn.{name}" for i in range(6) for name in ("qkv", "proj")]
    assert encoder == {f"{layer}.lora_{half}.default.weight" for layer in layers for half in "AB"}
    assert any(name.startswith("decoders.attributes.") for name in moved)
    count = 6 * 2 * (64 + 192 + 64 + 64)  # rank 2: A and B of qkv (64 -> 192) and of proj (64 -> 64), in six blocks
    assert f"LoRA of rank 2 in 12 layers (6 called qkv, 6 called attn.proj): {count:,} parameters learn." in said(
        adapted
    )
    model = network()
    add_lora(model, LoraConfig(rank=2, targets=("qkv", "attn.proj")))
    assert sum(parameter.numel() for parameter in shared_parameters(model.encoder)) == count
    model.train()
    block = model.encoder.net.model.blocks[0]
    assert (block.norm1.training, block.attn.qkv.training) == (False, True)


def test_a_new_model_computes_what_it_does_without_adapters():
    plain, model = network(), network()
    add_lora(model, LoraConfig(rank=4))
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval()(image)["depth"], plain.eval()(image)["depth"])


def test_adapters_change_no_random_number_that_is_drawn_later():
    network()
    expected = torch.rand(3)
    add_lora(network(), LoraConfig(rank=4))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("encoder", "targets"), [("test_vit", ("qkv", "proj")), ("test_resnet", ("conv1.0", "conv1.3"))]
)
def test_merging_gives_the_same_outputs_under_plain_names(encoder, targets):
    plain, model = network(encoder), network(encoder)
    config = LoraConfig(rank=2, targets=targets, alpha=6)
    add_lora(model, config)
    trained_a_little(model)
    image = torch.rand(2, 3, 32, 32)
    expected = model(image)["depth"]
    assert not torch.allclose(plain.eval()(image)["depth"], expected, rtol=1e-3)  # far above rounding
    tensors = merged(model.encoder.state_dict(), config.scale)
    merge_lora(model.encoder)
    names = plain.encoder.state_dict().keys()
    assert model.encoder.state_dict().keys() == names == tensors.keys()
    assert torch.allclose(model(image)["depth"], expected, rtol=SINGLE_SUM, atol=SINGLE_SUM)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.allclose(tensors[name].float(), tensor.float(), rtol=SINGLE_SUM, atol=SINGLE_SUM), name
    merge_lora(model.encoder)  # nothing is left to merge
    assert model.encoder.state_dict().keys() == names


def test_two_steps_and_two_after_a_resume_equal_four_and_evaluate_agrees(train, adapted):
    words = (LORA, "balancer=pcgrad", "balancer.space=parameters", "trainer.max_steps=4", "trainer.ema=0.5")
    whole = train("whole", *words)
    train("half", *words, "trainer.max_steps=2")
    half = train("half", *words, resume=True)
    one, two = weights(whole), weights(half)
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    logged = [record for record in log.read_log(adapted / "metrics.jsonl") if record["split"] == "val"][-1]
    assert all(logged[name] == value for name, value in evaluate_run(adapted, name="last").items())


def test_adapters_start_from_a_plain_run_and_a_plain_run_from_adapters(train, adapted):
    same = train("same", LORA, f"model.init_from={adapted}", "trainer.max_steps=1")
    assert "Encoder: taken, all" in said(same)[1]
    plain = train("plain", f"model.init_from={adapted}", "trainer.max_steps=1")
    assert said(plain)[1].startswith("Encoder: taken, all")
    assert said(plain)[2] == "The adapters there (model.lora of rank 2) were merged into the encoder's weights."
    other = train("other", "model.lora.rank=3", f"model.init_from={plain}", "trainer.max_steps=1")
    text = said(other)[1]
    assert "new are net.model.patch_embed.proj.lora_A.default.weight" in text
    assert "left there" not in text
    key = "encoder.net.model.blocks.0.attn.qkv"
    assert torch.equal(weights(other)[f"{key}.base_layer.weight"], weights(plain, "best")[f"{key}.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.lora={rank: 2, targets: [qvk]}"], "of this encoder is called 'qvk'. Did you mean 'qkv'?"),
        (["model.lora={rank: 2, targets: []}"], "model.lora.targets: it names no layer"),
        (["model.lora={rank: 0}"], "model.lora.rank: expected an integer >= 1, found 0"),
        (["model.lora={targets: [qkv]}"], "model.lora.rank: missing"),
        (["model.lora={rnk: 2}"], "model.lora.rnk: unknown key"),
        (["model.lora=8"], "model.lora: expected a mapping of keys, such as rank and targets, found 8"),
        ([LORA, "model.freeze=true"], "model.freeze: it does not go with model.lora"),
        (
            [LORA, "balancer=gradnorm", "balancer.space=last_layer"],
            "but these are frozen. Take balancer.space=features",
        ),
    ],
)
def test_what_cannot_be_adapted_is_refused(folder, capsys, words, message):
    own = [f"data.root={folder / 'cache'}", f"output_dir={folder / 'refused'}", "trainer.max_steps=2"]
    assert main(["train", "scenes", *TINY, *own, *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    shutil.rmtree(folder / "refused", ignore_errors=True)


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"model.lora needs peft. Call: pip install 'mtlkit\[lora\]'"):
        add_lora(network(), LoraConfig(rank=2))
