"""Export of a run with adapters in its encoder (`model.lora`): they are merged, and nothing of peft is left."""

import pytest
import timm
import torch
from leaving import train
from safetensors.torch import load_file
from tolerances import SINGLE_SUM

import mtlkit
from mtlkit.cli.main import main

pytest.importorskip("peft", reason="peft is not installed (pip install 'mtlkit[lora]')")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A ViT with LoRA and RotoGrad, trained with a high rate, so that the adapters matter."""
    words = ["model.encoder=test_vit", "model.levels=null", "model.lora={rank: 2, targets: [qkv, proj]}"]
    return train(tmp_path_factory.mktemp("lora"), *words, "trainer.eval_every=4")


@pytest.fixture(scope="module")
def model(run):
    return mtlkit.load(run, device="cpu")


def test_the_exported_program_equals_the_model(run, model, tmp_path):
    path = tmp_path / "model.pt2"
    assert main(["export", str(run), "--format", "pt2", "--out", str(path)]) == 0
    program = torch.export.load(path).module()
    image = torch.rand(3, 3, 64, 96)
    expected, found = model(image), program(image)
    assert set(found) == {"seg", "depth", "flags"}
    for task in ("depth", "flags"):
        torch.testing.assert_close(found[task].detach(), expected[task], rtol=0, atol=SINGLE_SUM)
    assert not [name for name, _ in program.named_parameters() if "lora" in name]
    # Without adapters and rotations, the numbers are others, so the lines above can fail.
    with torch.no_grad():
        for name, parameter in model.predictor.model.named_parameters():
            if ".lora_B." in name:
                assert parameter.abs().max() > 0
        plain = mtlkit.load(run, device="cpu")
        for name, parameter in plain.predictor.model.named_parameters():
            if ".lora_B." in name:
                parameter.zero_()
        assert (plain(image)["depth"] - expected["depth"]).abs().max() > 100 * SINGLE_SUM
        rotated = plain.predictor.balancer
        plain.predictor.balancer = None
        assert rotated is not None
        assert (plain(image)["depth"] - expected["depth"]).abs().max() > 100 * SINGLE_SUM


def test_the_encoder_alone_is_a_plain_one_of_timm(run, model, tmp_path):
    path = tmp_path / "encoder.safetensors"
    assert main(["export", str(run), "--encoder", str(path)]) == 0
    weights, encoder = load_file(path), model.predictor.model.encoder
    theirs = timm.create_model("test_vit", img_size=(64, 96))
    assert weights.keys() <= theirs.state_dict().keys()
    missing = theirs.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if name.startswith(("blocks.", "patch_embed.", "pos_embed", "cls_token"))]
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = encoder(image)
        found = theirs.eval().forward_intermediates(
            (image - encoder.mean) / encoder.std,
            indices=list(encoder.net.feature_info.out_indices),
            norm=False,
            intermediates_only=True,
        )
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=SINGLE_SUM * float(two.abs().max()))
