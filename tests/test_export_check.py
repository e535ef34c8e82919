"""On which images `mtlkit export` compares the program with the model. The exporter is replaced by the graph itself."""

import json

import numpy as np
import pytest
import torch
from leaving import PLUGIN, plugin_there
from PIL import Image
from tolerances import SINGLE

import mtlkit
from mtlkit.cli.main import main
from mtlkit.run import export


@pytest.fixture
def exported(left, tmp_path, monkeypatch, capsys):
    """Exports. Returns the batches that the program got, the metadata and the lines that were printed."""

    def run(*words):
        batches = []

        def writer(graph, shape, dynamic, text):
            def program(image):
                batches.append(image)
                with torch.no_grad():
                    return graph(image)

            return text.encode(), program

        path = tmp_path / "model.pt2"
        path.unlink(missing_ok=True)
        monkeypatch.setitem(export.WRITERS, "pt2", writer)
        assert main(["export", str(left), "--format", "pt2", "--out", str(path), *words]) == 0
        return batches, json.loads(path.read_text()), capsys.readouterr().out.splitlines()

    return run


def noise(number):
    """The picture of the data set 'noise' with this number."""
    g = torch.Generator().manual_seed(number)
    torch.randint(0, 3, (64, 96), generator=g), torch.rand(1, 64, 96, generator=g)
    return torch.rand(3, 64, 96, generator=g)


def test_by_default_they_are_those_of_the_validation_data(exported, tmp_path):
    with plugin_there(tmp_path):
        batches, about, lines = exported("--trust-plugins")
    zero, one = noise(0), noise(1)  # there are two, so they come again
    assert torch.equal(batches[0], zero[None])
    assert torch.equal(batches[1], torch.stack([one, zero, one]))
    assert len(batches) == 2
    assert about["checked_on"] == "2 images of the run's split 'val'"
    assert lines[1].startswith("Largest difference to the model on 2 images of the run's split 'val' (")
    assert [line.split(":")[0].strip() for line in lines[2:]] == ["seg", "depth", "flags"]


def test_given_ones_are_read_as_predict_reads_them(exported, tmp_path):
    """Even if the data could be opened. Those of a folder count, too, and the first four are enough."""
    folder = tmp_path / "photos" / "day"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 96, 3), dtype=np.uint8)
    for number, values in enumerate(pixels[1:]):
        Image.fromarray(values).save(folder / f"{number}.png")
    Image.fromarray(pixels[0]).save(tmp_path / "first.png")
    with plugin_there(tmp_path):
        batches, about, lines = exported("--check", str(tmp_path / "first.png"), str(folder.parent))
    expected = torch.from_numpy(pixels[:4]).permute(0, 3, 1, 2) / 255
    assert torch.allclose(torch.cat(batches), expected, rtol=0, atol=SINGLE)
    assert about["checked_on"] == "4 images of --check"
    assert "on 4 images of --check (" in lines[1]


def test_one_photo_of_another_size_is_resized_and_used_for_both_batches(exported, tmp_path):
    Image.new("RGB", (33, 21), (255, 0, 51)).save(tmp_path / "red.png")
    batches, about, _ = exported("--check", str(tmp_path / "red.png"), "--dynamic-size")
    assert [tuple(batch.shape) for batch in batches] == [
        (b, 3, h, w) for h, w in ((64, 96), (192, 192)) for b in (1, 3)
    ]
    for batch in batches:  # also where they are enlarged to another size
        assert torch.allclose(batch, torch.tensor([1, 0, 0.2]).view(1, 3, 1, 1).expand_as(batch), rtol=0, atol=SINGLE)
    assert about["checked_on"] == "1 image of --check"


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        ("", "noise_plugin"),
        (
            PLUGIN.replace("64, 96", "32, 48"),
            "its images have 3 channels of 48 x 32, and the model takes 3 channels of",
        ),
        (
            PLUGIN.replace("self.n = limit or 4", "raise OSError('the disk is\\nasleep.')"),
            "OSError: the disk is asleep).",
        ),
        (PLUGIN.replace("return self.n", "return 0"), "The data set has no samples"),
    ],
    ids=["no plug-in", "other size", "broken", "empty"],
)
def test_random_ones_and_why_the_data_could_not_be_opened(exported, tmp_path, plugin, why):
    if plugin:
        with plugin_there(tmp_path, plugin):
            batches, about, lines = exported("--trust-plugins")
    else:
        batches, about, lines = exported()
    assert [len(batch) for batch in batches] == [1, 3]
    assert all(0 <= float(batch.min()) < 0.01 and 0.99 < float(batch.max()) <= 1 for batch in batches)
    assert about["checked_on"] == "random images"
    assert lines[1].startswith("The run's validation data could not be opened (")
    assert why in lines[1]
    assert lines[1].endswith("--check IMAGES takes other images.")
    assert lines[2].startswith("Largest difference to the model on random images (")


def test_a_damaged_photo_ends_it_before_any_work(left, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(export.WRITERS, "pt2", None)  # it would fail
    (tmp_path / "bad.png").write_bytes(b"nothing")
    words = ["export", str(left), "--format", "pt2", "--out", str(tmp_path / "a.pt2")]
    assert main([*words, "--check", str(tmp_path / "bad.png")]) == 2
    said = capsys.readouterr().err
    assert "bad.png" in said
    assert said.count("\n") == 1


def test_a_model_of_the_hub_opens_no_data(left, tmp_path, monkeypatch):
    """Its config.yaml names a module. That one is here, and would be imported."""
    model = mtlkit.load(left, device="cpu")
    model.from_hub = True
    monkeypatch.setitem(export.WRITERS, "pt2", lambda graph, shape, dynamic, text: (b"", graph))
    monkeypatch.setattr("mtlkit.run.check_images.read_config", None)  # it would fail
    with plugin_there(tmp_path), torch.no_grad():
        done = export.export_model(model, tmp_path / "a.pt2", "pt2")
    assert done.images == "random images"
    assert done.why_not.startswith("it is from the hub")
