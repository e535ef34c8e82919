"""The comparison with public code. Here, small files that the tests write replace the public code."""

import importlib
from pathlib import Path

import pytest
import torch
from pages import REPOSITORY, page_of

TOOLS = REPOSITORY / "tools"
OWN = {"celeba", "demo", "digits", "multimnist", "nyuv2", "scenes"}  # experiments that repeat no published protocol


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("compare_protocols")


@pytest.fixture
def base(tool):
    return importlib.import_module("published.base")


@pytest.fixture
def clones(tool):
    return importlib.import_module("published.clones")


def write(folder: Path, **files: str) -> Path:
    """Writes files of a clone. `__` in a name stands for a slash."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# -- the command ----------------------------------------------------------------------------------------------------


def test_without_clones_nothing_is_compared_and_nothing_fails(tool, tmp_path, capsys):
    page = tmp_path / "page.md"
    assert tool.main([str(tmp_path), "--write", str(page)]) == 0
    said = capsys.readouterr().out
    for name, protocol in tool.PROTOCOLS.items():
        assert f"no clone of {protocol.repository} in {tmp_path}" in said
        assert f"| `{name}` | {protocol.repository} | 0 | 0 | 1 |" in page.read_text()
    assert "same" not in said


def test_a_path_that_does_not_exist_is_an_error(tool, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        tool.main([str(tmp_path / "absent")])
    assert error.value.code == 2
    assert f"{tmp_path / 'absent'} is no folder. Name the folder that holds the clones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "answer"), [("cl_r", "Did you mean 'cl_rr'"), ("sunrgbd", "No public code of CosReg is known")]
)
def test_an_experiment_without_a_comparison_is_refused(tool, tmp_path, capsys, name, answer):
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), "--only", name])
    assert answer in capsys.readouterr().err


LOSS = """
import wandb
from torch.nn import functional as F

wandb.init()
raise RuntimeError("a training starts")

def nll(prediction, target):
    print("computing")
    return {factor} * F.nll_loss(prediction, target)
"""


@pytest.mark.parametrize(("factor", "status"), [(1, 0), (2, 1)])
def test_an_unexpected_difference_gives_status_1(tool, tmp_path, capsys, factor, status):
    write(tmp_path / "UnitScal_vs_SMTOs", supervised_experiments__losses=LOSS.replace("{factor}", str(factor)))
    assert tool.main([str(tmp_path), "--only", "cl_rr"]) == status
    rows = capsys.readouterr().out.splitlines()
    (row,) = [row for row in rows if "loss of classify" in row]
    if status:
        assert row == "! differs       loss of classify: largest relative difference 5.0e-01; Unexpected."
        assert rows[-1].startswith("1 items were not expected (marked !).")
    else:
        assert row.startswith("  same          loss of classify: ")
    others = [row for row in rows[2:] if row and "loss of classify" not in row and "not expected" not in row]
    assert len(others) > 5
    assert all(row.startswith("  not compared  ") for row in others)
    assert "computing" not in rows


def test_pictures_that_are_not_drawn_are_a_difference(tool, tmp_path, capsys):
    text = "def generator(config):\n    assert config.num_image_per_class == 2\n"
    write(tmp_path / "MultiDigitMNIST", generator=text)
    assert tool.main([str(tmp_path), "--only", "multidigitmnist"]) == 1
    assert "! differs       pictures and splits: other pairs of digits in train" in capsys.readouterr().out


def test_a_verdict_follows_from_what_was_found_and_what_was_known(tool, base):
    same, other = base.Found(True, "1"), base.Found(False, "2")
    found = [tool.judge("x", one, reason) for one in (same, other) for reason in ("", "because")]
    assert [(row.verdict, row.alarm) for row in found] == [
        ("same", False),
        ("same", True),  # the reason is out of date
        ("differs", True),
        ("differs", False),
    ]
    assert [row.why for row in found] == ["", "Its reason in tools/published is out of date.", "Unexpected.", "because"]


def test_every_experiment_is_compared_or_said_why_not(tool):
    names = {file.stem for file in (REPOSITORY / "configs/experiment").glob("*.yaml")}
    assert names == set(tool.PROTOCOLS) | set(tool.WITHOUT_CODE) | OWN
    assert not set(tool.PROTOCOLS) & set(tool.WITHOUT_CODE)


def test_the_committed_page_has_a_table_for_each_protocol_and_no_surprise(tool):
    text = page_of("docs/reference/protocols.md")
    assert "Unexpected." not in text
    assert "out of date" not in text
    for name in tool.PROTOCOLS:
        assert f"\n## {name}\n" in text
    for name in tool.WITHOUT_CODE:
        assert f"\n| `{name}` |" in text


# -- comparing ------------------------------------------------------------------------------------------------------


def test_differences_are_relative_to_the_largest_number(base):
    assert base.close([(torch.tensor([10.0, 1.0]), torch.tensor([10.0, 2.0]))], 0.1).same
    assert not base.close([(torch.tensor([10.0, 1.0]), torch.tensor([10.0, 2.5]))], 0.1).same
    assert not base.close([(1.0, 1.0), (torch.nan, 1.0)], 0.1).same
    assert not base.close([(torch.ones(2), torch.ones(1, 2))], 0.1).same  # these shapes would broadcast
    assert base.equal({"a": 1, "b": 2}, {"a": 1}) == base.Found(True, "a 1")
    assert base.equal({"a": 0.5, "b": 2}, {"a": 0.25, "b": 2}) == base.Found(False, "a 0.5 here, 0.25 there")


class Net(torch.nn.Module):
    """Names its layers in another order than it calls them, and never calls one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.unused = torch.nn.Linear(3, 1), torch.nn.Linear(5, 5)
        self.late, self.first = torch.nn.Linear(3, 3), torch.nn.Linear(2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        return self.late(x) + self.head(self.late(x))


def test_layers_are_in_the_order_of_parts_and_of_their_first_call(base):
    net = Net()
    found = base.layers_of(net, torch.zeros(1, 2), lambda name: int(name == "first"))
    assert found == [net.late, net.head, net.unused, net.first]


def test_layers_that_do_not_pair_are_a_difference(tool, base, tmp_path):
    class Toy(base.Protocol):
        """Two networks with different layers."""

        experiment = repository = "toy"

        def items(self):
            return {"pass": self.evaluation}

        ours, theirs = torch.nn.ModuleDict({"decoders": torch.nn.ModuleDict()}), torch.nn.Identity()
        layers = [torch.nn.Linear(2, 3)], [torch.nn.Linear(3, 2)]
        network = settings = targets = None

    (tmp_path / "toy").mkdir()
    Toy.repository = "owner/toy"
    (row,) = tool.compare(Toy(tmp_path))
    assert (row.verdict, row.alarm) == ("differs", True)
    assert row.figures == "a layer {'weight': (3, 2), 'bias': (3,)} here, {'weight': (2, 3), 'bias': (2,)} there"


# -- clones ---------------------------------------------------------------------------------------------------------

TRAINER = """
import argparse, missing.part as mp
from missing import Base
from helper import twice
import os.path

FACTOR = twice(2)

class Model(Base):
    other = mp.Other
    where = os.path.join("a", "b")

def train(loader):
    parser = argparse.ArgumentParser()
    parser.add_argument("-b", "--batch-size", default=8, type=int)
    parser.add_argument("--path", required=True)
    parser.set_defaults(lr=1e-3)
    Adam(parser, lr=rate, weight_decay=0.5)
    loader.cuda(async=True)
    Adam(parser, weight_decay=0.7)
    Exponential(x, 0.9)

open("written", "w")
"""


def test_a_clone_gives_definitions_and_runs_nothing_else(clones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "repo", code__trainer=TRAINER, code__helper="def twice(x):\n    return 2 * x\n")
    clone = clones.Clone(tmp_path, "owner/repo")
    assert clone.get("code/trainer.py", "FACTOR", root="code/") == 4
    assert clone.get("code/trainer.py", "Model", root="code/").where == "a/b"
    assert not (tmp_path / "written").exists()
    assert clone.options("code/trainer.py") == {"batch_size": 8, "path": None, "lr": 1e-3}
    assert clone.arguments("code/trainer.py", "Adam") == {"weight_decay": 0.5}
    assert clone.arguments("code/trainer.py", "Exponential") == {1: 0.9}
    assert clone.calls("code/trainer.py", "cuda")
    assert not clone.calls("code/trainer.py", "cpu")
    assert clone.commit() == "unknown commit"


def test_what_a_clone_lacks_is_said(clones, tmp_path):
    clone = clones.Clone(tmp_path, "owner/repo")
    with pytest.raises(clones.NotThereError, match=r"no clone of owner/repo in "):
        clone.text("a.py")
    write(tmp_path / "repo", a="x = 1\n")
    with pytest.raises(clones.NotThereError, match=r"the clone of owner/repo in .* has no b\.py"):
        clone.module("b.py")
    with pytest.raises(clones.NotThereError, match=r"a\.py of the clone of owner/repo has no y"):
        clone.get("a.py", "y")
    with pytest.raises(clones.NotThereError, match=r"a\.py of the clone of owner/repo does not call Adam"):
        clone.arguments("a.py", "Adam")
