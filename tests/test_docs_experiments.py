"""docs/reference/configuration.md: tests write its files, run its commands, and compare its ways to write one thing."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from pages import commands_of, files_of, page_of

from mtlkit.cli.main import main
from mtlkit.config.composition import compose, read_config
from mtlkit.config.schema import LoraConfig

PAGE = page_of("docs/reference/configuration.md")
FILES, COMMANDS = files_of(PAGE), commands_of(PAGE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_pages_commands_run(page: Path, capsys: pytest.CaptureFixture):
    assert len(COMMANDS) == PAGE.count("\nmtlkit ") >= 8
    for command in COMMANDS:
        program, *words = shlex.split(command, comments=True)
        assert (program, main(words)) == ("mtlkit", 0), (command, capsys.readouterr().err)
    runs = page / "runs"
    assert len((runs / "observed" / "losses.txt").read_text().splitlines()) == 2  # of the first and the last step
    assert read_config(runs / "rotograd" / "config.yaml").balancer.options["burn_in"] == 2
    assert list(read_config(runs / "area" / "config.yaml").task) == ["area"]
    assert len(list((runs / "sweep").glob("*/config.yaml"))) == 2
    assert read_config(runs / "preset" / "config.yaml").balancer.options["weight_decay"] == 1e-5
    mine, again, other = (read_config(runs / name / "config.yaml") for name in ("mine", "again", "uniform"))
    assert (mine.task["area"].decoder, mine.task["flags"].decoder) == ("conv", "linear")
    assert mine.trainer.max_epochs == 3  # the value of the resumed run
    assert replace(again, output_dir="", trainer=mine.trainer) == replace(mine, output_dir="")
    assert replace(other, output_dir="", trainer=mine.trainer, balancer=mine.balancer) == replace(mine, output_dir="")
    assert other.balancer == compose("scenes").balancer
    assert read_config(runs / "frozen" / "config.yaml").model.freeze is True
    assert "Starts from runs/mine, checkpoint" in (runs / "tuned" / "report.html").read_text(encoding="utf-8")


def test_the_pages_other_files_compose_as_it_says(page: Path):
    files = {
        name.removesuffix(".yaml"): compose(name) for name in FILES if name.endswith(".yaml") and name != "mine.yaml"
    }
    words = ("balancer=X", "+balancer=X", "++balancer=X", "balancer.name=X", "balancer={name: X}")
    assert all(f"`{word.replace('X', 'rotograd')}`" in PAGE.replace("'", "") for word in words)
    balancers = [compose("scenes", [word.replace("X", "rotograd")]).balancer for word in words]
    balancers += [files.pop(name).balancer for name in ("short", "mapping", "list")]
    assert balancers == [balancers[0]] * 8
    assert balancers[0].name == "rotograd"
    assert sorted(files) == ["adapters", "parts", "preset", "rooms", "tuned"]
    assert (files["preset"].balancer.options["c"], files["preset"].balancer.options["rescale"]) == (0.3, "c2")
    assert files["preset"].trainer.clip_encoder == 1.0
    assert files["adapters"].model.lora == LoraConfig(rank=8, targets=("qkv", "attn.proj"))
    assert files["tuned"].trainer.optimizer_options == {"betas": [0.9, 0.98]}
    assert files["rooms"].model.encoder == "resnet34"
    assert files["rooms"].model.options == compose("scenes").model.options
    assert files["rooms"].task["depth"].options == {"loss": "l1"}
    assert list(files["parts"].task) == ["depth", "normals"]
    assert list(compose("scenes", ["task=[depth]", "+task=[normals]"]).task) == ["depth", "normals"]
