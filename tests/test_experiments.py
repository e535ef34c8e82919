"""Every experiment of mtlkit composes, builds its own networks on small data, and trains two steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import celeba, chestxray14, cityscapes, mnist, nyuv2, sunrgbd

from mtlkit import Experiment
from mtlkit.cli.experiments import experiments

Words = list[str]


def digits(root: Path) -> Words:
    mnist.write(root / "MNIST" / "raw", train=60, test=12)
    return [f"data.root={root}", "data.batch_size=4"]


def mtan_rooms(root: Path) -> Words:
    nyuv2.mtan(root, train=40)
    return [f"data.root={root}"]


def official_rooms(root: Path) -> Words:
    nyuv2.official(root)
    nyuv2.ladicky(root / "nyu_normals_gt")
    return [f"data.root={root}", f"data.normals={root / 'nyu_normals_gt'}", "data.size=[64,64]"]


def streets(root: Path) -> Words:
    cityscapes.write(root, size=(64, 32))
    return [f"data.root={root}", "data.batch_size=2"]


def faces(root: Path) -> Words:
    celeba.original(root)
    return [f"data.root={root}", "data.batch_size=2"]


def chests(root: Path) -> Words:
    chestxray14.chexnet(root)
    return [f"data.root={root}", "data.size=[32,32]", "data.batch_size=2", "data.share=1.0"]


def sensors(root: Path) -> Words:
    sunrgbd.write_frames(root)
    sunrgbd.write_toolbox(root)
    return [f"data.root={root}", "data.size=[32,32]", "data.target_size=[8,8]"]


def rendered(root: Path) -> Words:
    return [f"data.root={root}", "data.size=[32,32]", "data.batch_size=4"]


WHERE: dict[str, Callable[[Path], Words]] = {
    "celeba": faces,
    "celeba_famo": faces,
    "celeba_rotograd": faces,
    "chestxray14": chests,
    "cityscapes": streets,
    "cl_rr": digits,
    "demo": rendered,
    "digits": digits,
    "multidigitmnist": digits,
    "multimnist": digits,
    "multimnist_original": digits,
    "multimnist_parity": digits,
    "multimnist_rotograd": digits,
    "nyuv2": lambda root: [*mtan_rooms(root), "data.size=[64,32]", "data.batch_size=2", "data.holdout=0.1"],
    "nyuv2_cosreg": lambda root: [*official_rooms(root), "data.target_size=[16,16]"],
    "nyuv2_libmtl": lambda root: [*mtan_rooms(root), "data.size=[64,32]", "data.batch_size=2"],
    "nyuv2_mtan": lambda root: [*mtan_rooms(root), "data.size=[64,32]"],
    "nyuv2_rotograd": lambda root: [*mtan_rooms(root), "data.size=[64,32]"],
    "scenes": rendered,
    "sunrgbd": sensors,
}
#: Networks that are smaller here than in the protocol. test_networks_published.py builds them in full.
SMALLER = {
    "nyuv2": ["model.encoder=resnet18", "model.output_stride=16"],
    "nyuv2_libmtl": ["model.encoder=resnet18", "model.output_stride=16"],
    "chestxray14": ["model.encoder=test_resnet"],
    "nyuv2_mtan": ["model.channels=[8,8,8,8,8]"],
    "nyuv2_rotograd": ["model.channels=[8,8,8,8,8]", "balancer.dim=64"],
    "cityscapes": ["model.channels=[8,8,8,8,8]"],
    "celeba_rotograd": ["balancer.dim=16"],
}


def test_every_experiment_is_here() -> None:
    assert set(WHERE) == set(experiments())


@pytest.mark.parametrize("name", WHERE)
@pytest.mark.filterwarnings("ignore:trainer.*has no effect")
def test_trains_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The report takes seconds, and test_report.py tests it.
    monkeypatch.setattr("mtlkit.run.showing.write_report", lambda run, ending: None)
    words = WHERE[name](tmp_path / "data")
    words += SMALLER.get(name, [])
    words += ["trainer.max_steps=2", "trainer.log_every=1", "data.train_size=12", "data.val_size=4"]
    config = Experiment.compose(name).config
    if config.model.pretrained:
        words.append("model.pretrained=false")
    run = Experiment.compose(name, [*words, f"output_dir={tmp_path / 'run'}"]).run()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in steps] == [1, 2]
    learned = {key.removeprefix("loss/") for record in steps for key in record if key.startswith("loss/")}
    assert learned == set(config.task)
    evaluated = [record for record in records if record["split"] == "val"][-1]
    assert all(f"loss/{task}" in evaluated for task in config.task)
    facts = next(record["data"] for record in records if "data" in record)
    assert set(config.task) <= set(facts["targets"])
    assert set(facts["samples"]) == {"train", config.data.validation}
    assert (config.protocol == "published") == (config.data.validation == "test")
