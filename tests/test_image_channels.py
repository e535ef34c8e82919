"""Images of 1, 3, 4 and 6 channels, from the file to the report and to a prediction."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlkit.cli.main import main
from mtlkit.data.bands import read_bands
from mtlkit.data.dataset import BadSampleError
from mtlkit.data.files import resize
from mtlkit.engine.model import build_encoder
from mtlkit.log import read_log
from mtlkit.waits import TIMES

YAML = """
data:
  name: folder
  root: .
  images: images/*
  labels: {mask: {type: segmentation, files: masks/*.png, classes: [a, b]}}
  splits: {block: 1, gap: 0}
  augment: true
  augmentation: {colour: 0, scale: [1.0, 1.5]}
  batch_size: 4
model: {encoder: test_resnet, levels: [1, 2]}
task: {mask: {type: segmentation}}
trainer: {max_steps: 1}
"""


@pytest.mark.parametrize(
    ("channels", "ending", "words"),
    [
        (1, "png", ["data.channels=1"]),
        (4, "png", ["data.channels=4"]),
        (4, "npy", []),
        (6, "npy", ["data.size=[48,32]"]),
    ],
)
def test_from_files_to_a_report_and_a_prediction(
    channels: int, ending: str, words: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    draw = np.random.default_rng(0)
    for n in range(10):
        pixels = draw.integers(0, 256, (64, 96, channels), np.uint8)
        Image.fromarray(draw.integers(0, 2, (64, 96), np.uint8)).save(f"masks/{n}.png")
        if ending == "npy":
            np.save(f"images/{n}.npy", pixels)
        else:
            Image.fromarray(pixels.squeeze()).save(f"images/{n}.png")
    (tmp_path / "bands.yaml").write_text(YAML)
    assert main(["train", "bands.yaml", "output_dir=run", *words]) == 0, capsys.readouterr().err
    assert f"with {channels} channel" in (tmp_path / "run/report.html").read_text()
    assert main(["evaluate", "run"]) == 0
    assert main(["predict", "run", f"images/0.{ending}", "--out", "out"]) == 0, capsys.readouterr().err
    assert np.load("out/0/mask.npy").shape == (64, 96)
    shown = np.asarray(Image.open("run/pictures/0/image.png"))
    assert shown.shape[2] == 3
    assert (shown[..., 0] == shown[..., 1]).all() == (channels == 1)
    colours = main(["train", "bands.yaml", "output_dir=run2", "data.augmentation.colour=0.2", *words])
    if channels != 1:
        assert colours == 2
        assert f"these have {channels}. Set data.augmentation.colour=0" in capsys.readouterr().err
    assert main(["train", "bands.yaml", "output_dir=run3", "model=lenet", *words]) == 2
    assert f"takes images of 3 channels, and those of the data set have {channels}" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 4])
def test_training_on_prepared_images_is_training_on_the_files(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    draw = np.random.default_rng(0)
    for n in range(8):
        Image.fromarray(draw.integers(0, 256, (32, 48, channels), np.uint8).squeeze()).save(f"images/{n}.png")
        Image.fromarray(draw.integers(0, 2, (32, 48), np.uint8)).save(f"masks/{n}.png")
    (tmp_path / "bands.yaml").write_text(YAML)
    words = ["bands.yaml", f"data.channels={channels}", "trainer.log_every=1"]
    assert main(["data", "prepare", *words, "--out", "fast"]) == 0, capsys.readouterr().err
    records = []
    for run, root in (("files", "."), ("prepared", "fast")):
        assert main(["train", *words, f"data.root={root}", f"output_dir={run}"]) == 0, capsys.readouterr().err
        log = [record for record in read_log(tmp_path / run / "metrics.jsonl") if record["split"] != "info"]
        records.append([{key: value for key, value in record.items() if key not in TIMES} for record in log])
    assert records[0] == records[1]
    assert {record["split"] for record in records[0]} == {"val_constant", "val", "train"}


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_encoders_take_any_number_of_channels(name: str, channels: int) -> None:
    encoder = build_encoder(name, image_size=(64, 48), in_channels=channels)
    assert encoder.mean.shape == encoder.std.shape == (channels, 1, 1)
    image = torch.rand(2, channels, 48, 64, requires_grad=True)
    encoder(image)[-1].square().sum().backward()
    assert (image.grad.abs().amax(dim=(0, 2, 3)) > 0).all()  # every channel matters


def test_mean_and_deviation_of_other_channels() -> None:
    colours = build_encoder("resnet18", image_size=(64, 64)).mean.flatten().tolist()
    mean = {n: build_encoder("resnet18", image_size=(64, 64), in_channels=n).mean.flatten().tolist() for n in (1, 4)}
    assert mean[4] == [*colours, colours[0]]
    assert mean[1] == pytest.approx([sum(colours) / 3])


def test_pretrained_weights_are_adapted(tmp_path: Path) -> None:
    three = build_encoder("test_resnet", image_size=(64, 64))
    weights = dict(three.net.state_dict())
    torch.save(weights, tmp_path / "weights.pth")
    one = build_encoder("test_resnet", image_size=(64, 64), in_channels=1, pretrained=str(tmp_path / "weights.pth"))
    (name,) = (key for key, value in weights.items() if value.ndim == 4 and value.shape[1] == 3)
    torch.testing.assert_close(one.net.state_dict()[name], weights[name].sum(1, keepdim=True))


def test_bands(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[[0, 5000, 10000]]], np.uint16))
    assert read_bands(tmp_path / "a.npy", None, (0, 10000)).tolist() == [[[0, 0.5, 1]]]
    with pytest.raises(BadSampleError, match=r"a\.npy holds values from 0 to 10000, expected 0 to 5000"):
        read_bands(tmp_path / "a.npy", None, (0, 5000))
    with pytest.raises(BadSampleError, match=r"a\.npy holds an array \(1, 1, 3\), expected \(height, width, 4\)"):
        read_bands(tmp_path / "a.npy", 4)
    np.save(tmp_path / "b.npy", np.array([[0, 300]], np.int32))
    with pytest.raises(BadSampleError, match="holds int32, which does not say which values are black and white"):
        read_bands(tmp_path / "b.npy", None)
    Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(BadSampleError, match=r"c\.png holds colours, expected an image of 1 channels"):
        read_bands(tmp_path / "c.png", 1)


@pytest.mark.skipif(importlib.util.find_spec("tifffile") is None, reason="the package tifffile is not installed")
def test_a_tiff_of_many_bands(tmp_path: Path) -> None:
    import tifffile

    values = np.random.default_rng(0).integers(0, 65536, (6, 5, 4), np.uint16)
    tifffile.imwrite(tmp_path / "first.tif", values, photometric="minisblack")
    tifffile.imwrite(tmp_path / "last.tif", values.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig")
    for name in ("first.tif", "last.tif"):
        found = read_bands(tmp_path / name, 6)
        assert (found == (values.transpose(1, 2, 0) / 65535).astype(np.float32)).all()


@pytest.mark.parametrize("how", ["area", "torchvision"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_channel_is_resized_as_alone(how: str, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 255, (12, 16, 6)).astype(dtype)
    found = resize(values, (8, 6), how=how)
    alone = [resize(values[..., [i] * 3], (8, 6), how=how)[..., 0] for i in range(6)]
    assert np.abs(found.astype(float) - np.stack(alone, 2)).max() <= 1  # the last bit may differ in 8 bits
