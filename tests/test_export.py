"""`mtlkit export`: programs that equal the model, adapters and normalisation included, and encoders for timm."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from leaving import PLUGIN, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tolerances import SINGLE_SUM

import mtlkit
from mtlkit.balancer import BALANCERS
from mtlkit.cli.main import main
from mtlkit.engine.model import build_encoder
from mtlkit.run import export, graph

ONNX = all(importlib.util.find_spec(name) for name in export.FORMATS["onnx"])
needs_onnx = pytest.mark.skipif(not ONNX, reason="onnx is not installed (pip install 'mtlkit[export]')")
FORMATS = [pytest.param("onnx", marks=needs_onnx), "pt2"]


def read(path: Path):
    """The program of a file, by ONNX Runtime or torch alone, and its metadata."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        text = session.get_modelmeta().custom_metadata_map["mtlkit"]
        (given,) = session.get_inputs()
        assert given.name == "image"

        def run(image):
            return dict(zip(names, map(torch.from_numpy, session.run(None, {"image": image.numpy()})), strict=True))

        return run, json.loads(text)
    files = {"mtlkit.json": ""}
    return torch.export.load(path, extra_files=files).module(), json.loads(files["mtlkit.json"])


@pytest.mark.parametrize("format_", FORMATS)
def test_an_exported_program_equals_the_model(left, format_, tmp_path, capsys):
    """RotoGrad's run: without the rotations and the normalisation, the numbers would be others (the tests below)."""
    path = tmp_path / f"model.{format_}"
    assert main(["export", str(left), "--format", format_, "--out", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: image (B, 3, H, W) in [0, 1] -> seg, depth, flags"
    assert "on random images" in lines[2]  # the plug-in of the data is gone
    printed = {line.split(":")[0].strip(): float(line.split(":")[1].split()[0]) for line in lines[3:]}
    assert printed.keys() == {"seg", "depth", "flags"}
    assert max(printed.values()) <= export.TOLERANCE
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    run, about = read(path)
    model = mtlkit.load(left, device="cpu")
    for batch in (1, 5):
        image = torch.rand(batch, 3, 64, 96)
        found, expected = run(image), model(image)
        assert list(found) == ["seg", "depth", "flags"]
        assert found["seg"].dtype == torch.int64
        assert float((found["seg"] != expected["seg"]).double().mean()) <= export.CLASSES_TOLERANCE
        for task in ("depth", "flags"):
            torch.testing.assert_close(found[task].detach(), expected[task], rtol=0, atol=SINGLE_SUM)
    assert about["mtlkit"] == mtlkit.__version__
    assert about["input"]["shape"] == ["batch", 3, 64, 96]
    assert about["input"]["range"] == [0, 1]
    assert about["outputs"]["seg"]["classes"] == ["a", "b", "c"]
    assert about["outputs"]["seg"]["values"] == "the number of a class in `classes`, from 0"
    assert about["outputs"]["depth"]["unit"] == "m"
    assert "values" not in about["outputs"]["depth"]
    assert about["outputs"]["flags"]["classes"] == ["p", "q"]
    assert about["outputs"]["flags"]["values"] == "one number for each of `classes`, along axis 1"
    assert about["checked_on"] == "random images"
    assert about["balancer"] == {"name": "rotograd", "adapters_in_graph": True}
    assert (about["checkpoint"], about["step"]) in {("best", 2), ("best", 4)}


@pytest.mark.parametrize(("channels", "format_"), [pytest.param(1, "onnx", marks=needs_onnx), (4, "pt2")])
def test_images_of_other_channels(channels, format_, tmp_path):
    """The channels are those of the data: the program, `mtlkit.load` and the metadata have the same number."""
    plugin = PLUGIN.replace("torch.rand(3, 64, 96", f"torch.rand({channels}, 64, 96")
    run = train(tmp_path, "~task.seg", "~task.flags", "trainer.max_steps=1", "trainer.eval_every=1", plugin=plugin)
    path = tmp_path / f"model.{format_}"
    assert main(["export", str(run), "--format", format_, "--out", str(path)]) == 0
    program, about = read(path)
    assert about["input"]["shape"] == ["batch", channels, 64, 96]
    assert about["input"]["colours"] is None
    image = np.random.default_rng(0).random((64, 96, channels), dtype=np.float32)
    model = mtlkit.load(run, device="cpu")
    found = program(torch.from_numpy(image).permute(2, 0, 1)[None].contiguous())["depth"]
    torch.testing.assert_close(found.detach()[0], model(image)["depth"], rtol=0, atol=SINGLE_SUM)
    with pytest.raises(ValueError, match=rf"\(H, W, {channels}\)"):
        model(image[..., [0, 0]])


def without_rotations(monkeypatch):
    monkeypatch.setattr(BALANCERS.get("rotograd"), "adapt", lambda self, z: dict.fromkeys(self.tasks, z))


def without_normalisation(monkeypatch):
    encoder = mtlkit.ENCODERS.get("timm")
    monkeypatch.setattr(encoder, "forward", lambda self, image: self.net(image))


@pytest.mark.parametrize("spoil", [without_rotations, without_normalisation])
def test_a_program_that_differs_is_refused(left, spoil, tmp_path, monkeypatch, capsys):
    """The file would hold another model. It is not written, and the message has the figures."""
    original = graph.Graph.forward

    def forward(self, image):
        with monkeypatch.context() as spoiled:  # only the graph: the model that it is compared with stays right
            spoil(spoiled)
            return original(self, image)

    monkeypatch.setattr(graph.Graph, "forward", forward)
    path = tmp_path / "model.pt2"
    assert main(["export", str(left), "--format", "pt2", "--out", str(path)]) == 2
    said = capsys.readouterr().err
    assert "The exported program differs from the model: " in said
    assert "depth" in said
    assert "Nothing was written" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_", FORMATS)
def test_a_dynamic_size(left, format_, tmp_path):
    path = tmp_path / f"model.{format_}"
    assert main(["export", str(left), "--format", format_, "--out", str(path), "--dynamic-size"]) == 0
    run, about = read(path)
    assert about["input"]["shape"] == ["batch", 3, "height", "width"]
    model = mtlkit.load(left, device="cpu")
    for height, width in ((64, 96), (160, 128)):
        image = torch.rand(2, 3, height, width)
        expected = model.predictor.predictions(image, {})
        assert expected["depth"].shape == (2, 1, height, width)
        torch.testing.assert_close(run(image)["depth"].detach(), expected["depth"], rtol=0, atol=SINGLE_SUM)


def test_a_size_that_the_encoder_does_not_take_is_refused_first(left, tmp_path, monkeypatch, capsys):
    def refuse(self, width, height):
        if (width, height) != (96, 64):
            raise ValueError(f"This encoder takes no images of {width}x{height}.")

    monkeypatch.setattr(mtlkit.ENCODERS.get("timm"), "check_size", refuse)
    monkeypatch.setattr(torch.export, "export", None)  # it would fail
    words = ["export", str(left), "--format", "pt2", "--out", str(tmp_path / "a.pt2"), "--dynamic-size"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "This encoder takes no images of 192x192" in said
    assert "Leave it out: the program then takes 96 x 64" in said


def test_a_program_that_takes_no_other_size_is_refused_with_the_ways_out(left, tmp_path, monkeypatch, capsys):
    def writer(graph, shape, dynamic, text):
        def program(image):
            if image.shape[-1] != 96:
                raise ValueError("Guard failed: image.size()[2] <= 63")
            with torch.no_grad():
                return graph(image)

        return b"", program

    monkeypatch.setitem(export.WRITERS, "pt2", writer)
    words = ["export", str(left), "--format", "pt2", "--out", str(tmp_path / "a.pt2"), "--dynamic-size"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "Guard failed: image.size()[2] <= 63. (For 1 images of 192 x 192.) Nothing was written." in said
    assert "train with a data.size in multiples of 8 (the largest stride of the encoder) above 8." in said
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_exported_is_said(left, tmp_path, monkeypatch, capsys):
    def forward(self, image):
        if float(image.sum()) > 0:  # depends on numbers that an exporter does not have
            return {"depth": image}
        return {}

    monkeypatch.setattr(graph.Graph, "forward", forward)
    assert main(["export", str(left), "--format", "pt2", "--out", str(tmp_path / "a.pt2")]) == 2
    assert "This network cannot become a program of the format pt2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.onnx"], "--out FILE and --format onnx|pt2 go together"),
        (["--format", "pt2"], "--out FILE and --format onnx|pt2 go together"),
        ([], "There is nothing to write"),
        (["--encoder", "e.safetensors", "--dynamic-size"], "--dynamic-size goes with --out"),
        (["--encoder", "e.safetensors", "--check", "there.pt2"], "--check goes with --out"),
        (["--format", "pt2", "--out", "a.pt2", "--check", "there.pt2"], "there.pt2"),
        (["--format", "pt2", "--out", "a.pt2", "--check", "no.png"], "There is no image no.png"),
        (["--format", "pt2", "--out", "a.pt2", "--check", "."], "The folder . holds no image"),
        (["--format", "pt2", "--out", "there.pt2"], "there.pt2 exists already"),
        (["--encoder", "there.pt2"], "there.pt2 exists already"),
        (["--format", "pt2", "--out", "."], ". exists already"),
        (["--format", "pt2", "--out", "nowhere/a.pt2"], "there is no folder nowhere"),
        (["--format", "pt2", "--out", "there.pt2/a.pt2"], "there is no folder there.pt2"),
        (["--format", "pt2", "--out", "/proc/a.pt2"], "/proc/a.pt2 cannot be written: no file can be made in /proc"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(left, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("kept")
    assert main(["export", str(left), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert Path("there.pt2").read_text() == "kept"


def test_a_package_that_is_not_installed_is_named_first(left, monkeypatch, capsys, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else found(name))
    assert main(["export", str(left), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]) == 2
    said = capsys.readouterr().err
    assert "needs onnx and onnxscript and onnxruntime. Call: pip install 'mtlkit[export]'" in said


def test_the_metadata_say_where_normals_point_to(left):
    """No task of the run has vectors, so one of them becomes `normals` here."""
    model = mtlkit.load(left, device="cpu")
    for task in model.tasks.values():
        task.kind = mtlkit.KINDS.build("normals" if task.name == "depth" else "segmentation", ("a",))
    about = export.metadata(model, {name: torch.zeros(1) for name in model.tasks}, dynamic_size=False)
    assert about["outputs"]["depth"]["frame"].startswith("the camera's: x right, y down, z forward")
    assert about["outputs"]["seg"]["frame"] == ""


def test_differences_are_measured():
    one, two = torch.tensor([1.0, -4.0]), torch.tensor([1.0, -5.0])
    assert export.difference(one, two) == pytest.approx(0.2)
    assert export.difference(torch.zeros(2), torch.zeros(2)) == 0
    assert export.difference(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert export.difference(one, torch.ones(2, 1)) == float("inf")
    assert export.difference(one.long(), one) == float("inf")
    assert not export.difference(torch.tensor([1.0, torch.nan]), two) <= 1


def test_the_encoder_of_a_run_starts_timm_and_another_run(left, tmp_path, capsys):
    path = tmp_path / "encoder.safetensors"
    assert main(["export", str(left), "--encoder", str(path)]) == 0
    assert "the names are timm's, of 'test_resnet'" in capsys.readouterr().out
    with safe_open(path, "pt") as file:
        assert file.metadata()["encoder"] == "test_resnet"
    trained = mtlkit.load(left, device="cpu").predictor.model.encoder
    image = torch.rand(1, 3, 64, 96)
    theirs = timm.create_model("test_resnet", features_only=True, out_indices=[1, 2])
    keys = theirs.load_state_dict(load_file(path), strict=False)
    assert not keys.missing_keys
    assert not keys.unexpected_keys
    expected = trained(image)
    for found, level in zip(theirs.eval()((image - trained.mean) / trained.std), expected, strict=True):
        assert torch.equal(found, level)
    ours = build_encoder("test_resnet", image_size=(96, 64), pretrained=path, levels=[1, 2]).eval()
    assert all(torch.equal(found, level) for found, level in zip(ours(image), expected, strict=True))


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_encoders_of_every_make_have_timms_names(name, tmp_path):
    """timm renames the parts of these when it takes features, in three ways."""
    size = (64, 48)
    encoder = build_encoder(name, image_size=size).eval()
    weights, words = encoder.portable_weights()
    assert words == f"the names are timm's, of {name!r}"
    options = {"img_size": (48, 64)} if name == "test_vit" else {}
    whole = timm.create_model(name, **options)
    assert not whole.load_state_dict(weights, strict=False).unexpected_keys
    save_file(weights, tmp_path / "encoder.safetensors")
    again = build_encoder(name, image_size=size, pretrained=tmp_path / "encoder.safetensors").eval()
    image = torch.rand(1, 3, 48, 64)
    assert all(torch.equal(a, b) for a, b in zip(encoder(image), again(image), strict=True))


def test_other_encoders_keep_their_own_names():
    encoder = build_encoder("lenet", image_size=(28, 28))
    weights, words = encoder.portable_weights()
    assert words == "the names are those of mtlkit's encoder"
    assert weights.keys() == encoder.state_dict().keys()
