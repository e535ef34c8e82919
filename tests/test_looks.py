"""What a run records for its page: the samples with their losses, and the tables over a split."""

import copy
import json
from pathlib import Path

import pytest
from looks import DETAILS, SAMPLES, write_looks

from mtlkit.legend import Classes, Scale
from mtlkit.report.details import details
from mtlkit.report.samples import look


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_looks(tmp_path)
    found = look(tmp_path)
    assert found is not None
    assert (found.chosen_from, found.split_size, found.rule) == (50, 100, SAMPLES["rule"])
    assert [one.role for one in found.samples] == ["spread", "spread", "best", "worst"]
    second = found.samples[1]
    assert (second.label, second.losses) == ("rooms/<b>1</b>.png", {"parts": 0.25, "depth": 1.5})
    assert second.pictures["depth_target"] == tmp_path / "pictures" / "1" / "depth_target.png"
    assert second.numbers["things"].target == [1.0, None]
    assert (second.numbers["size"].unit, second.numbers["size"].left_out) == ("m", 3)
    assert found.legends["parts"] == Classes([("wall", "#1f77b4"), ("floor", "#ff7f0e")])
    assert found.legends["depth"] == Scale(0, 10, ["#30123b", "#a4fc3c", "#7a0403"], "m", "Black.")
    assert found.legends["normals"] == "Red is right."
    tables = details(tmp_path)
    assert tables is not None
    assert (tables.samples, tables.split_size) == (100, 100)
    assert tables.confusion["parts"].counts == [[5, 1], [2, 8]]
    assert tables.reliability["things"].bins[9].observed == 0.5
    assert tables.reliability["things"].bins[0].predicted is None


def test_runs_of_earlier_versions(tmp_path: Path) -> None:
    assert (look(tmp_path), details(tmp_path)) == (None, None)
    write_looks(tmp_path)
    (tmp_path / "pictures" / "samples.json").unlink()
    found = look(tmp_path)
    assert found is not None
    assert {one.role for one in found.samples} == {"spread"}
    assert len(found.samples[0].pictures) == 7
    assert (found.legends, found.chosen_from, found.rule) == ({}, 0, "")


def changed(values: dict, path: str, new: object) -> dict:
    """Returns a copy of the values in which another value stands at a dotted path."""
    found = inner = copy.deepcopy(values)
    *sections, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in sections:
        inner = inner[key]
    inner[last] = new
    return found


WRONG = [
    ("samples", []),
    ("samples.0.role", "first"),
    ("samples.0.losses.depth", float("nan")),
    ("samples.0.losses.depth", 10**400),
    ("samples.0.losses.depth", "low"),
    ("samples.0.pictures", {"image": "../../../etc/passwd"}),
    ("samples.0.label", 3),
    ("samples.0.numbers.things.target", [1.0]),
    ("samples.0.numbers.things.prediction", [float("inf"), 0]),
    ("samples.0.numbers.size.left_out", -1),
    ("samples.0.other", 1),
    ("legends", []),
    ("legends.normals", 3),
    ("legends.depth.low", 11),
    ("legends.depth.colours", []),
    ("legends.depth.colours", ["red; background: url(//x)"]),
    ("legends.parts.colours", [["wall"]]),
    ("legends.parts.colours", [["wall", "#1f77b4\n"]]),
    ("chosen_from", -1),
    ("rule", None),
]


@pytest.mark.parametrize(("path", "new"), WRONG)
def test_damaged_samples_are_refused(path: str, new: object, tmp_path: Path) -> None:
    write_looks(tmp_path)
    (tmp_path / "pictures" / "samples.json").write_text(json.dumps(changed(SAMPLES, path, new)))
    with pytest.raises(ValueError, match=r"pictures/samples\.json is damaged: .*\. Remove it to see the pictures\."):
        look(tmp_path)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("samples", -3),
        ("confusion", None),
        ("confusion.parts.counts", [[1, 2]]),
        ("confusion.parts.counts.0.0", -1),
        ("confusion.parts.counts.0.0", 10**30),
        ("confusion.parts.counts.0.0", 0.5),
        ("confusion.parts.classes", []),
        ("reliability.things.bins", []),
        ("reliability.things.bins.9.predicted", 1.5),
        ("reliability.things.bins.9.observed", None),
        ("reliability.things.bins.9.observed", float("nan")),
        ("reliability.things.bins.0.count", 5),
        ("other", 1),
    ],
)
def test_damaged_details_are_refused(path: str, new: object, tmp_path: Path) -> None:
    (tmp_path / "details.json").write_text(json.dumps(changed(DETAILS, path, new)))
    with pytest.raises(ValueError, match=r"details\.json is damaged: .*\. Remove it to see the rest\."):
        details(tmp_path)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "null", '{"samples": NaN}', "\x00"])
def test_other_texts_are_refused(text: str, tmp_path: Path) -> None:
    write_looks(tmp_path)
    for file, read in ((tmp_path / "pictures" / "samples.json", look), (tmp_path / "details.json", details)):
        file.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            read(tmp_path)


def test_a_picture_that_is_a_link_out_of_the_folder(tmp_path: Path) -> None:
    write_looks(tmp_path / "run")
    secret = tmp_path / "secret.png"
    (tmp_path / "run" / "pictures" / "0" / "image.png").rename(secret)
    (tmp_path / "run" / "pictures" / "0" / "image.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"0/image\.png is a link to a file out of "):
        look(tmp_path / "run")
