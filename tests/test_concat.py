"""Several data sets as one: their targets, cameras, names in messages, and training on their mixture."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mtlkit import DATASETS, Dataset, Experiment, Target
from mtlkit.config.composition import compose
from mtlkit.data.concat import Concat
from mtlkit.data.dataset import BadSampleError, Sample
from mtlkit.data.order import Mixed
from mtlkit.data.ranges import Gathered, suspicions
from mtlkit.data.samples import Samples
from mtlkit.data.summary import look_at
from mtlkit.run.build import build_dataset, build_order, build_samples
from mtlkit.run.resume import resumed
from mtlkit.waits import TIMES

SIZES = {"train": {"rooms": 24, "faces": 8}, "val": {"rooms": 4, "faces": 3}}


class Part(Dataset):
    """A data set whose image of sample i is 0.01 i plus random numbers from 0 to 0.5."""

    kind: ClassVar[str]

    def __init__(self, root=None, split="train", size=None, limit=None, *, shift: float = 0.0) -> None:
        self.shift = shift
        self.length = min(limit or 99, SIZES[split][self.kind])
        self.notes = [f"{self.kind} found"]

    def __len__(self) -> int:
        return self.length

    def image(self, index: int) -> torch.Tensor:
        return torch.full((3, 32, 32), 0.01 * index) + 0.5 * torch.rand(
            3, 32, 32, generator=torch.Generator().manual_seed(index)
        )

    def label(self, index: int) -> str:
        return f"{self.kind}/{index}.png"


@DATASETS.register("rooms_")
class Rooms(Part):
    kind = "rooms"
    targets: ClassVar = {"segmentation": Target("segmentation", ("a", "b")), "depth": Target("depth")}
    camera = (1.0, 1.0, 0.5, 0.5)
    licence = "Rooms are free."

    def __getitem__(self, index: int) -> Sample:
        image = self.image(index)
        depth = 1 + self.shift + image[:1]
        targets = {"segmentation": (image[0] > 0.4).long(), "depth": depth}
        if index % 3 == 2:
            del targets["depth"]  # a sample may lack any of its targets
        return {"image": image, "targets": targets}


@DATASETS.register("faces_")
class Faces(Part):
    kind = "faces"
    targets: ClassVar = {
        "attributes": Target("multilabel", ("p", "q")),
        "segmentation": Target("segmentation", ("a", "b")),
    }
    licence = "Faces are not."

    def __getitem__(self, index: int) -> Sample:
        image = self.image(100 + index)
        if index == 7:
            raise BadSampleError(f"{self.label(index)} is damaged.")
        attributes = torch.tensor([float(index % 2), 1.0])
        return {"image": image.clamp(max=1), "targets": {"attributes": attributes, "segmentation": image[0].long()}}


def joined(**changes) -> Concat:
    options = {"targets": [None, {"attributes": "attributes"}]} | changes
    return Concat([Rooms(), Faces()], ["rooms", "faces"], **options)


def test_samples_have_the_targets_of_their_own_set() -> None:
    data = joined(targets=[{"depth": "distance", "segmentation": "segmentation"}, None])
    assert len(data) == 32
    assert data.targets == {
        "distance": Target("depth"),
        "segmentation": Target("segmentation", ("a", "b")),
        "attributes": Target("multilabel", ("p", "q")),
    }
    assert set(data[0]["targets"]) == {"distance", "segmentation"}
    assert set(data[2]["targets"]) == {"segmentation"}
    assert set(data[24]["targets"]) == {"attributes", "segmentation"}
    assert torch.equal(data[23]["image"], Rooms()[23]["image"])
    assert torch.equal(data[25]["image"], Faces()[1]["image"])
    assert [data.label(i) for i in (0, 23, 24, 31)] == ["rooms: rooms/0.png", "rooms: rooms/23.png",
                                                        "faces: faces/0.png", "faces: faces/7.png"]  # fmt: skip
    assert [data.camera_of(i) for i in (23, 24)] == [(1.0, 1.0, 0.5, 0.5), None]
    assert list(data.probes()) == [0, 24]
    assert data.notes == ["rooms: rooms found", "faces: faces found"]
    assert data.licence == "Rooms are free. Faces are not."
    with pytest.raises(IndexError):
        data[32]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([{"dept": "depth"}, None], LookupError, "'rooms' has no target 'dept'. Did you mean 'depth'"),
        ([{}, None], ValueError, "'rooms' gives no targets"),
        ([None, {"attributes": "x", "segmentation": "x"}], ValueError, "'faces' gives no targets, or two under one"),
        ([{"depth": "attributes"}, None], ValueError,
         "'attributes' is not the same in .* 'rooms' and 'faces'.*Rename one of them: targets: .attributes:"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(targets: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        joined(targets=targets)


@pytest.fixture
def mixture(tmp_path: Path):
    """Writes an experiment on both data sets and returns its path."""
    path = tmp_path / "both.yaml"
    path.write_text(
        """
defaults: [_self_]
data:
  concat:
    - {name: rooms_, targets: [segmentation, depth]}
    - {name: faces_, targets: {attributes: attributes}}
  mixing: uniform
  batch_size: 4
  eval_batch_size: 2
  on_error: skip
model: {encoder: test_resnet, batch_norm: frozen}
task:
  segmentation: {type: segmentation}
  depth: {type: depth}
  attributes: {type: multilabel, decoder: linear}
trainer: {max_steps: 12, eval_every: 6, save_every: 3, log_every: 1, precision: fp64}
"""
    )
    return str(path)


@pytest.mark.parametrize(
    ("words", "rooms"),
    [
        (["data.mixing=proportional"], 24 / 32),
        (["data.mixing=uniform"], 1 / 2),
        (["data.mixing=temperature", "data.temperature=2"], 24**0.5 / (24**0.5 + 8**0.5)),
        (["data.mixing=weights", "data.concat=[{name: rooms_, weight: 1}, {name: faces_, weight: 4}]"], 1 / 5),
    ],
)
def test_the_mixture_is_the_one_asked_for(mixture: str, words: list[str], rooms: float) -> None:
    config = compose(mixture, words)
    order = build_order(config, build_dataset(config, "train"))
    assert isinstance(order, Mixed)
    assert order.shares == pytest.approx([rooms, 1 - rooms])
    assert order.steps_per_epoch == 8


def test_limits_belong_to_each_set(mixture: str) -> None:
    config = compose(mixture, ["data.concat=[{name: rooms_, train_size: 5, val_size: 2}, {name: faces_}]"])
    assert [build_dataset(config, split).lengths for split in ("train", "val")] == [[5, 8], [2, 3]]


REFUSED = {
    "two": (["data.name=rooms_"], r"data.name: .*data.concat names several"),
    "root": (["data.root=/x"], r"data.root: .*data.concat names several.*in the override 'data.root=/x'"),
    "a set's name": (["data.concat=[{name: roomz_}]"], r"data.concat.0.name: no data set is called 'roomz_'"),
    "an option": (["data.concat=[{name: rooms_, shft: 1}]"], r"data.concat.0.shft: .*no option.*Did you mean 'shift'"),
    "a target": (["data.concat=[{name: rooms_, targets: 3}]"], r"data.concat.0.targets: expected"),
    "no list": (["data.concat=rooms_"], r"data.concat: expected a list of data sets, found 'rooms_'"),
    "temperature": (["data.temperature=2"], r"data.temperature: goes with data.mixing=temperature"),
    "no temperature": (["data.mixing=temperature"], r"data.temperature: goes with data.mixing=temperature"),
    "weights": (["data.mixing=weights"], r"data.concat: a weight for every data set goes with data.mixing=weights"),
    "a weight": (["data.concat=[{name: rooms_, weight: 2}, {name: faces_}]"], r"data.concat: a weight for every"),
    "mixing": (["data.concat=[]", "data.name=rooms_"], r"data.mixing: is about data.concat, which is not set"),
    "nothing": (["data.concat=[]"], r"data.name: expected the name of a data set"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_go_together_is_refused(mixture: str, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(mixture, words)


def test_zooming_needs_the_camera_of_the_sets_with_normals_only(mixture: str) -> None:
    config = compose(mixture, ["data.augment=true", "data.on_error=raise"])
    build_samples(config, build_dataset(config, "train"), augment=True)  # zooming depth and labels needs no camera


def test_a_resumed_run_may_find_its_sets_elsewhere_and_nothing_else(mixture: str, tmp_path: Path) -> None:
    run = [f"output_dir={tmp_path}"]
    compose(mixture, run).save(tmp_path / "config.yaml")
    moved = [*run, "data.concat.1.root=/there"]
    assert [part.root for part in resumed(compose(mixture, moved), moved).data.concat] == [None, "/there"]
    whole = [*run, "data.concat=[{name: rooms_, targets: [segmentation, depth], root: /here}, {name: faces_}]"]
    for words, key in (
        ([*run, "data.concat.1.train_size=4"], r"data.concat.1.train_size: the run in .* has None, not 4"),
        ([*run, "data.concat.0.name=faces_", "data.concat.0.targets=null"], r"data.concat.0.name: the run in"),
        (whole, r"data.concat.1.targets"),
    ):
        with pytest.raises(ValueError, match=key):
            resumed(compose(mixture, words), words)
    assert resumed(compose(mixture, whole[:1]), whole[:1]) == compose(mixture, run)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:.*reduced precision:UserWarning")
def test_a_run_on_both_and_its_resume_in_the_middle_of_a_pass(
    mixture: str, tmp_path: Path, no_report: pytest.MonkeyPatch
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    Experiment.compose(mixture, [f"output_dir={halved}", "trainer.max_steps=5"]).run()
    Experiment.compose(mixture, [f"output_dir={halved}", "trainer.max_steps=12"]).run(resume=True)
    no_report.undo()
    Experiment.compose(mixture, [f"output_dir={whole}"]).run()
    kept = [
        [
            {k: v for k, v in r.items() if k not in (*TIMES, "incident")}
            for r in records(folder)
            if r["split"] == "train"
        ]
        for folder in (whole, halved)
    ]
    assert kept[0] == kept[1]
    seen = [r for r in kept[0] if "loss/attributes" in r]
    assert len(seen) == 12  # each batch of four has two samples of each set
    # The 12 steps take 24 faces, so they go through the 8 faces three times. One of the 8 is damaged.
    assert sum(r.get("left_out", 0) for r in kept[0]) == 3
    incidents = [r["incident"] for r in records(whole) if "incident" in r]
    assert incidents == ["1 sample left out: faces/7.png is damaged."]
    facts = next(r["data"] for r in records(whole) if "data" in r)
    assert facts["samples"] == {"train": 32, "val": 7}
    # 16 of the 31 samples have depth: no face has it, and one room in three lacks it.
    assert facts["targets"]["depth"]["valid"] == pytest.approx(16 / 31, abs=0.01)
    assert "Faces are not." in facts["licence"]
    report = (whole / "report.html").read_text()
    assert "rooms_ + faces_" in report
    assert "rooms_: rooms found" in report


def test_ranges_tell_joined_sets_apart() -> None:
    """Two sets with the same name get numbers, and a message names the set that has another unit."""
    joined = Concat(
        [Rooms(), Rooms(shift=1500.0), Faces()],
        ["rooms_", "rooms_", "faces_"],
        [{"depth": "depth"}, {"depth": "depth"}, None],
    )
    assert [joined.part_of(i) for i in (0, 24, 48)] == ["rooms_ (1)", "rooms_ (2)", "faces_"]
    ranges = Gathered(joined.targets, "train")
    list(look_at(Samples(joined, skip=True), range(len(joined)), [], ranges))  # one of the faces is damaged
    found = ranges.ranges()
    assert [one.where for one in found] == ["train, rooms_ (1)", "train, rooms_ (2)"]
    implausible, different = suspicions(joined.targets, found)
    assert implausible.startswith("depth: the median in train, rooms_ (2) is 150")
    assert "train, rooms_ (1) and train, rooms_ (2) differ" in different
