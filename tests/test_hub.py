"""Runs on the Hugging Face hub. A local folder stands for the hub, and no test uses a network."""

import fnmatch
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

import mtlkit
from mtlkit.cli.main import main
from mtlkit.run import hub
from mtlkit.run.card import model_card

IMAGE = np.full((50, 70, 3), 90, np.uint8)
NAME = "somebody/a-model"


class Hub:
    """The two doors that mtlkit uses: `HfApi` and `snapshot_download`, over a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.private: dict[str, bool | None] = {}

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if (self.root / repo_id).exists() and not exist_ok:
            error = HfHubHTTPError.__new__(HfHubHTTPError)
            error.args, error.response = ("exists",), SimpleNamespace(status_code=409)
            raise error
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        self.private[repo_id] = private
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        for path in self.files(repo_id):
            if any(fnmatch.fnmatch(path, pattern) for pattern in delete_patterns):
                (self.root / repo_id / path).unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, allow_patterns):
        self.asked.append(repo_id)
        if not (self.root / repo_id).is_dir():
            raise LocalEntryNotFoundError("404, no such repository")
        cache = self.root / "cache" / repo_id
        shutil.rmtree(cache, ignore_errors=True)
        for path in self.files(repo_id):
            if any(fnmatch.fnmatch(path, pattern) for pattern in allow_patterns):
                (cache / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.root / repo_id / path, cache / path)
        cache.mkdir(parents=True, exist_ok=True)
        return str(cache)

    def files(self, repo_id):
        folder = self.root / repo_id
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch) -> Hub:
    there = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: there)
    monkeypatch.setattr(hub, "snapshot_download", there.snapshot_download)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return there


def test_a_run_goes_to_the_hub_and_comes_back(left, there, capsys):
    assert main(["push", str(left), NAME, "--licence", "cc-by-4.0"]) == 0
    weights = [f"checkpoints/best/{name}" for name in ("balancer.safetensors", "checksums.json", "model.safetensors")]
    assert there.files(NAME) == ["README.md", *weights, "config.yaml", "data.json", "metrics.jsonl"]
    said = capsys.readouterr().out.splitlines()
    assert said == [f"https://huggingface.co/{NAME}", *(f"  {name}" for name in there.files(NAME))]
    found, expected = mtlkit.load(NAME, device="cpu")(IMAGE), mtlkit.load(left, device="cpu")(IMAGE)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert there.asked == [NAME]
    assert there.private == {NAME: None}


def test_the_card_says_what_was_trained_and_measured(left, there):
    hub.push_run(left, NAME, licence="cc-by-4.0")
    card = (there.root / NAME / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "mtlkit",
        "license": "cc-by-4.0",
        "tags": ["multi-task-learning", "segmentation", "depth", "multilabel"],
    }
    assert f'mtlkit.load("{NAME}")' in text
    for row in (
        "| seg | segmentation | a, b, c |  |",
        "| depth | depth | a value | m |",
        "| data | noise |",
        "| balancer | rotograd |",
        "| protocol | strict |",
        "| images | 96 x 64, RGB in [0, 1] |",
    ):
        assert row in text, row
    record = [r for r in map(yaml.safe_load, (left / "metrics.jsonl").read_text().splitlines()) if r.get("best")][-1]
    (figure,) = [line for line in text.splitlines() if line.startswith("| depth | abs")]
    assert f"| {record['depth/abs']:.4g} |" in figure
    assert "The model: cc-by-4.0." in text
    assert "Only for tests | of mtlkit." in text
    assert "`noise_plugin`" in text
    hub.push_run(left, "somebody/other")
    card = (there.root / "somebody/other" / "README.md").read_text()
    assert "license:" not in card
    assert "Nobody has given this model a licence" in card


@pytest.mark.parametrize(("channels", "said"), [(1, "1 channel in"), (3, "RGB in"), (4, "4 channels in")])
def test_the_card_says_which_channels_the_images_have(left, channels, said):
    model = mtlkit.load(left, device="cpu")
    model.description = replace(model.description, channels=channels)
    assert f"| images | 96 x 64, {said} [0, 1] |" in model_card(left, model, NAME, None)


def test_what_is_on_the_hub_is_replaced_only_if_asked(left, there, capsys):
    words = ["push", str(left), NAME]
    assert main([*words, "--private", "--training-state"]) == 0
    assert there.private == {NAME: True}
    assert "checkpoints/best/training.pt" in there.files(NAME)
    assert main([*words, "--checkpoint", "last"]) == 2
    assert "is on the Hugging Face hub already. --update adds a version" in capsys.readouterr().err
    assert main([*words, "--checkpoint", "last", "--update"]) == 0
    found = [name for name in there.files(NAME) if name.startswith("checkpoints")]
    weights = ("balancer.safetensors", "checksums.json", "model.safetensors")
    assert found == [f"checkpoints/last/{name}" for name in weights]
    with pytest.warns(UserWarning, match="'last' stands for the results"):
        mtlkit.load(NAME)


def test_a_damaged_run_is_not_uploaded(left, there, tmp_path, capsys):
    run = shutil.copytree(left, tmp_path / "run")
    file = run / "checkpoints" / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert main(["push", str(run), NAME]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not there.files(NAME)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.yaml", "has no config.yaml"),
        ("data.json", "has no data.json"),
        ("checkpoints/best/model.safetensors", "has no checkpoints/best/model.safetensors or last"),
        ("checkpoints/best/balancer.safetensors", "balancer.safetensors"),
    ],
)
def test_a_missing_file_is_named(left, there, file, message):
    hub.push_run(left, NAME)
    (there.root / NAME / file).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        mtlkit.load(NAME)


def test_a_model_that_is_not_there_is_said_with_the_reason(there):
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing is no folder here, and .* 404, no such repository"):
        mtlkit.load("nobody/nothing")


def test_a_misspelt_run_never_becomes_a_strangers_model(left, there):
    hub.push_run(left, "runs/b")
    Path("runs").mkdir()
    with pytest.raises(FileNotFoundError, match="runs/b is not the folder of a run: it does not exist"):
        mtlkit.load("runs/b")
    for name in ("./runs/b", "b", "/runs/b", "runs/b/c", "../b"):
        with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
            mtlkit.load(name)
    assert not there.asked


def test_code_of_the_hub_is_neither_downloaded_nor_imported(left, there, monkeypatch):
    """Not even a module of this machine that its config.yaml names, although Python would find it."""
    hub.push_run(left, NAME)
    folder = there.root / NAME
    code = "from pathlib import Path\nPath('ran').touch()\n"
    (folder / "evil.py").write_text(code)
    (folder / "checkpoints/best/training.pt").write_bytes(b"evil")
    text = (folder / "config.yaml").read_text().replace("noise_plugin", "evil")
    (folder / "config.yaml").write_text(text)
    Path("evil.py").write_text(code)
    monkeypatch.syspath_prepend(Path.cwd())
    mtlkit.load(NAME)  # it needs no plug-in
    (folder / "config.yaml").write_text(text.replace("type: depth", "type: evil_depth"))
    message = (
        r"needs the task 'evil_depth'\. mtlkit never imports a module because .* This one names evil\. If you have"
    )
    with pytest.raises(LookupError, match=message):
        mtlkit.load(NAME)
    assert not Path("ran").exists()
    assert "evil" not in sys.modules
    downloaded = {path.name for path in (there.root / "cache").rglob("*") if path.is_file()}
    assert downloaded == {"config.yaml", "data.json", "model.safetensors", "balancer.safetensors", "checksums.json"}


def forbidden():
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.args, error.response = ("403 Forbidden: no rights",), SimpleNamespace(status_code=403)
    return error


@pytest.mark.parametrize(
    "error", [forbidden(), HfHubHTTPError.__bases__[0]("no network")], ids=["refused", "unplugged"]
)
def test_trouble_with_the_hub_is_one_message(left, there, monkeypatch, capsys, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(there, "upload_folder", refuse)
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    assert main(["push", str(left), NAME]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mtlkit: {NAME} could not be uploaded to the Hugging Face hub: ")
    assert said.count("\n") == 1
    with pytest.raises(FileNotFoundError, match="the Hugging Face hub does not give a model of that name"):
        mtlkit.load(NAME)
