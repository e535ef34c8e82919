"""`mtlkit.load`: a trained model in use, without data, plug-in or state of training."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from leaving import PLUGIN, train
from PIL import Image
from safetensors.torch import load_file
from tolerances import SINGLE_SUM
from torch.nn import functional as F

import mtlkit
from mtlkit.config.schema import TrainerConfig
from mtlkit.data.files import image_tensor, resize
from mtlkit.data.pictures import read_picture
from mtlkit.run.build import make_accelerator
from mtlkit.run.description import Description
from mtlkit.run.inference import evaluate_run
from mtlkit.run.predicting import predict_files

SIZE = (96, 64)  # of the run, (width, height)


@pytest.fixture
def photo(tmp_path):
    """A photo of another size than the run's, stored on its side: upright it is 70 x 50 (width x height)."""
    pixels, exif = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


def by_hand(run, pixels):
    """The predictions for (H, W, 3) uint8 from the files of weights: encoder, rotation, decoder, resizing, meaning."""
    model, rotations = mtlkit.load(run, device="cpu"), load_file(run / "checkpoints/best/balancer.safetensors")
    network = model.predictor.model
    weights = load_file(run / "checkpoints/best/model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items() if name in weights)
    shared = network.encoder(image_tensor(resize(pixels, SIZE))[None])
    found = {}
    for task in ("seg", "depth", "flags"):
        turned = torch.einsum("ij,bjhw->bihw", rotations[f"rotation.{task}"], shared[-1])
        found[task] = network.decoders[task]([shared[0], turned])[:1]
    height, width = pixels.shape[:2]
    maps = {t: F.interpolate(found[t], size=(height, width), mode="bilinear") for t in ("seg", "depth")}
    return {"seg": maps["seg"].argmax(1)[0], "depth": maps["depth"][0], "flags": found["flags"].sigmoid()[0]}


def test_a_model_works_from_any_folder_without_data_plug_in_or_state(left, photo, tmp_path, monkeypatch):
    run = tmp_path / "elsewhere"
    for file in (
        "config.yaml",
        "data.json",
        "checkpoints/best/model.safetensors",
        "checkpoints/best/balancer.safetensors",
        "checkpoints/best/checksums.json",
    ):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(left / file, run / file)
    monkeypatch.chdir(tmp_path)
    model = mtlkit.load("elsewhere", device="cpu")
    assert "noise" not in mtlkit.DATASETS.names()
    assert model.device == torch.device("cpu")
    assert model.size == SIZE
    assert model.classes == {"seg": ("a", "b", "c"), "depth": (), "flags": ("p", "q")}
    assert model.units == {"seg": "", "depth": "m", "flags": ""}
    assert not model.predictor.model.training
    assert not any(
        p.requires_grad for p in [*model.predictor.model.parameters(), *model.predictor.balancer.parameters()]
    )
    found, expected = model("photo.png"), by_hand(left, read_picture(photo))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "seg": (50, 70),
        "depth": (1, 50, 70),
        "flags": (2,),
    }
    assert torch.equal(found["seg"], expected["seg"])
    for task in ("depth", "flags"):
        torch.testing.assert_close(found[task], expected[task], rtol=0, atol=SINGLE_SUM)


def test_predict_writes_what_load_gives(left, photo, tmp_path):
    (folder,) = predict_files(left, [photo], tmp_path / "out")
    for task, value in mtlkit.load(left)(photo).items():
        assert np.array_equal(np.load(folder / f"{task}.npy"), value.cpu().numpy())


def test_every_form_of_an_image_gives_the_same(left, photo):
    model, pixels = mtlkit.load(left, device="cpu"), read_picture(photo)
    expected = model(photo)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    for given in (str(photo), Image.open(photo), Image.fromarray(pixels), pixels):
        assert all(torch.equal(value, expected[name]) for name, value in model(given).items())
    # Bytes are rounded after they are resized, and floats are not.
    floats = model(tensor)
    assert all(torch.equal(value, floats[name]) for name, value in model(tensor.permute(1, 2, 0).numpy()).items())
    assert float((floats["depth"] - expected["depth"]).abs().max()) < 0.05 * float(expected["depth"].abs().max())
    both = model([photo, tensor])
    assert torch.equal(both[0]["depth"], expected["depth"])
    assert torch.equal(both[1]["depth"], floats["depth"])
    batch = model(torch.stack([tensor, tensor.flip(2)]))
    assert batch["seg"].shape == (2, 50, 70)
    # A batch adds in another order than one image.
    torch.testing.assert_close(batch["depth"][0], floats["depth"], rtol=0, atol=SINGLE_SUM)
    torch.testing.assert_close(batch["depth"][1], model(tensor.flip(2))["depth"], rtol=0, atol=SINGLE_SUM)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"Expected an image: .* Found a tensor \(3, 4, 5\) of torch.uint8"),
        (torch.zeros(4, 5, 3), r"Found a tensor \(4, 5, 3\)"),
        (torch.full((3, 4, 5), 200.0), r"values from 200 to 200, expected numbers in \[0, 1\]. Divide it by 255"),
        (torch.full((3, 4, 5), torch.nan), "values from nan"),
        (torch.zeros(0, 3, 4, 5), "The batch has no image"),
        (torch.zeros(3, 0, 5), "no pixels"),
        (np.zeros((4, 5), np.uint8), r"Found an array \(4, 5\) of uint8"),
        (np.zeros((4, 5, 3), np.int64), "Found an array .* of int64"),
        ({"image": 1}, "Found dict"),
        (".", "is a folder, expected an image"),
        ("nowhere.png", "There is no image nowhere.png"),
        (Image.new("F", (5, 4)), "The picture is a PIL picture of mode F, .* black and white"),
    ],
)
def test_what_is_no_image_is_refused(left, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mtlkit.load(left, device="cpu")(given)


def test_a_device_that_is_not_there_is_refused(left):
    for name in ("cdua", "cuda:77"):
        with pytest.raises(ValueError, match=f"There is no device '{name}' here, only cpu"):
            mtlkit.load(left, device=name)


def test_loading_moves_nothing_of_the_callers(left):
    """Neither random numbers nor the state that all Accelerators of a process share."""
    accelerator = make_accelerator(TrainerConfig(precision="bf16", max_steps=1))
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    mtlkit.load(left)
    assert torch.equal(torch.rand(3), first)
    assert accelerator.mixed_precision == "bf16"
    assert accelerator.state.mixed_precision == "bf16"


def test_the_checkpoint_of_the_results_or_the_one_asked_for(left):
    for name in (None, "best", "last"):
        model = mtlkit.load(left, checkpoint=name)
        weights = load_file(left / "checkpoints" / (name or "best") / "model.safetensors")
        assert torch.equal(model.predictor.model.decoders["flags"].linear.bias, weights["decoders.flags.linear.bias"])
    with pytest.raises(FileNotFoundError, match="no checkpoint 'worst'; it has best, last"):
        mtlkit.load(left, checkpoint="worst")


def test_a_run_for_other_devices_loads_here(left, tmp_path):
    """`batch_norm: sync` and `fp16` train on a GPU only. Their models are used anywhere."""
    run = shutil.copytree(left, tmp_path / "run")
    text = (run / "config.yaml").read_text().replace("batch_norm: local", "batch_norm: sync")
    (run / "config.yaml").write_text(text.replace("precision: fp32", "precision: fp16"))
    image = np.full((64, 96, 3), 100, np.uint8)
    found, expected = (mtlkit.load(path, device="cpu")(image)["depth"] for path in (run, left))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)  # it computes in fp16, as the run did
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # a rounding of fp16 is 5e-4; a dozen layers


OWN = """
from mtlkit.balancer import BALANCERS, Balancer

@BALANCERS.register("own")
class Own(Balancer):
    '''Plain summing, with or without a map of the features.'''
"""
ADAPTER = """
    def adapter(self, task, features):
        return [2 * level for level in features]
"""


def test_a_balancer_of_ones_own_is_needed_only_if_it_changes_features(tmp_path, monkeypatch):
    image = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "plain").mkdir()
    plain = train(tmp_path / "plain", "balancer=own", "trainer.max_steps=1", plugin=PLUGIN + OWN)
    assert mtlkit.load(plain, device="cpu").predictor.balancer is None
    (tmp_path / "adapted").mkdir()
    adapted = train(tmp_path / "adapted", "balancer=own", "trainer.max_steps=1", plugin=PLUGIN + OWN + ADAPTER)
    message = r"the model needs the balancer 'own'\. .* Python finds no module noise_plugin\. Call mtlkit in the folder"
    with pytest.raises(LookupError, match=message):
        mtlkit.load(adapted, trust_plugins=True)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "noise_plugin.py").write_text(PLUGIN + OWN + ADAPTER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    with pytest.raises(LookupError, match=r"no installed package provides noise_plugin\..*If you trust that code"):
        mtlkit.load(adapted)
    assert "noise_plugin" not in sys.modules
    with_balancer = mtlkit.load(adapted, device="cpu", trust_plugins=True)
    assert "noise_plugin" in sys.modules
    network = with_balancer.predictor.model
    doubled = [2 * level for level in network.encoder(torch.zeros(1, 3, 64, 96))]
    expected = network.decoders["flags"](doubled).sigmoid()[0]
    torch.testing.assert_close(with_balancer(image)["flags"], expected)
    monkeypatch.undo()
    sys.modules.pop("noise_plugin")
    with pytest.raises(ValueError, match="the module 'noise_plugin', and there is no such"):  # it needs the data set
        evaluate_run(plain)


def test_a_description_of_an_older_version_means_that_the_balancer_is_needed(left, tmp_path):
    run = shutil.copytree(left, tmp_path / "run")
    described = json.loads((run / "data.json").read_text())
    assert described.pop("adapters") is True
    (run / "data.json").write_text(json.dumps(described))
    image = np.full((64, 96, 3), 100, np.uint8)
    assert torch.equal(mtlkit.load(run)(image)["depth"], mtlkit.load(left)(image)["depth"])
    del described["targets"]["depth"]
    (run / "data.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"data.json has no target 'depth'"):
        mtlkit.load(run)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  levels:\n  - ", "  levels:\n  - 99", "has the levels 0 to"),
        ("type: depth", "type: segmentation", "'depth' needs the names of its classes"),
    ],
)
def test_values_of_which_no_model_can_be_built_are_refused_with_the_name_of_their_file(
    left, tmp_path, old, new, message
):
    run = shutil.copytree(left, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=rf"run/config\.yaml.*{message}"):
        mtlkit.load(run, device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", [-5, 5], r"size: expected \[an integer >= 1"),
        ("size", [10**9, 10**9], "size is too large"),
        ("channels", 0, "channels: expected an integer >= 1 and <= 10000, found 0"),
        ("bounds", [1], "bounds: expected .*found \\[1\\]"),
        ("bounds", [2, 1], "bounds: expected the values of black and white, ascending"),
        ("adapters", "no", "adapters: expected true or false, found 'no'"),
        ("targets", {"depth": {"type": "depth", "classes": "abc"}}, r"targets\.depth\.classes: expected a list"),
        ("targets", {"depth": {"type": 3}}, r"targets\.depth\.type: expected text"),
        ("targets", [1], "targets: expected a mapping"),
        ("resizing", "none", "resizing: expected one of area, torchvision"),
    ],
)
def test_a_description_of_another_form_is_refused(left, tmp_path, key, value, message):
    described = json.loads((left / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(described | {key: value, "of a later version": 1}))
    with pytest.raises(ValueError, match=message):
        Description.read(tmp_path)
    for text in ("[]", "3", "[" * 100_000, "{"):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(ValueError, match=r"data\.json is damaged"):
            Description.read(tmp_path)
