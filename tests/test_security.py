"""SECURITY.md: which files can run code, and which cannot."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mtlkit import Experiment
from mtlkit.cli.main import main
from mtlkit.run.checksums import seal

SMALL = ["scenes", "model.encoder=test_resnet", "model.levels=[1,2]", "data.size=[64,48]", "output_dir=run"]
SMALL += ["data.train_size=4", "data.val_size=4", "data.batch_size=4"]


class Code:
    """Makes the file `ran` when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_would_run_if_it_were_let() -> None:
    pickle.loads(pickle.dumps(Code()))
    assert Path("ran").exists()


def test_a_file_of_pretrained_weights_runs_no_code(capsys: pytest.CaptureFixture) -> None:
    torch.save({"conv1.weight": Code()}, "weights.pth")
    assert main(["train", *SMALL, "model.pretrained=weights.pth"]) == 2
    assert "weights.pth cannot be loaded into 'test_resnet'" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_the_state_of_training_runs_no_code(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *SMALL, "trainer.max_steps=1"]) == 0
    path = Path("run/checkpoints/last/training.pt")
    torch.save({**torch.load(path, weights_only=True), "step": Code()}, path)
    seal(path.parent)  # whoever writes such a file can write its checksum
    resume = ["train", *SMALL, "trainer.max_steps=2", "--resume"]
    assert main(resume) == 2
    assert f"{path} is damaged, or holds what mtlkit did not write" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_yaml_builds_no_objects(capsys: pytest.CaptureFixture) -> None:
    path = Path("run/config.yaml")
    path.parent.mkdir()
    path.write_text("seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [ran]]")
    for command in (["train", str(path)], ["evaluate", "run"]):
        assert main(command) == 2
        assert str(path) in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("words", "imports"),
    [
        (["evaluate", "run"], True),
        (["predict", "run", "picture.png", "--out", "out"], False),
        (["train", "run/config.yaml", "output_dir=other"], True),
        (["data", "show", "run/config.yaml"], True),
        (["report", "run"], False),
        (["explain", "run"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_which_commands_import_the_plug_ins_of_a_run(
    words: list[str], imports: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The plug-in raises an error when it is imported, so the command stops there."""
    Experiment.compose("scenes").config.save(folder / "config.yaml")
    Image.new("RGB", (64, 48)).save("picture.png")
    text = (folder / "config.yaml").read_text().replace("plugins: []", "plugins: [hidden_module]")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(text)
    (folder / "hidden_module.py").write_text("open('ran', 'w').close()\nraise ValueError('this far')\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert "hidden_module" in text
    main(words)
    assert Path("ran").exists() == ("this far" in capsys.readouterr().err) == imports
