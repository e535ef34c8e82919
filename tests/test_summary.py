"""What is told of a data set: shares of valid elements and of classes."""

import pytest
import torch

from mtlkit.data.dataset import Target
from mtlkit.data.summary import describe, facts_in_words, spread, summarise

NAN = float("nan")
TARGETS = {
    "classes": Target("segmentation", ("wall", "floor")),
    "distance": Target("depth"),
    "near": Target("disparity"),
    "surface": Target("normals"),
    "flags": Target("multilabel", ("a", "b", "c")),
    "number": Target("regression", ("n",)),
    "heat": Target("heat"),
}
SAMPLE = {
    "classes": torch.tensor([[0, 0], [1, -1]]),
    "distance": torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]),
    "near": torch.tensor([[[0.0, 0.0], [0.1, 0.0]]]),
    "surface": torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.1, 0.0]]]),
    "flags": torch.tensor([1.0, 0.0, NAN]),
    "number": torch.tensor([NAN]),
    "heat": torch.tensor([0.0, -1.0]),
}


def test_shares_of_valid_elements_and_classes() -> None:
    found = summarise(TARGETS, [SAMPLE, {"flags": torch.tensor([1.0, NAN, NAN])}])
    valid = {name: facts["valid"] for name, facts in found.items()}
    assert valid == pytest.approx(
        {"classes": 0.375, "distance": 0.25, "near": 0.125, "surface": 0.25, "flags": 0.5, "number": 0.0, "heat": 0.5}
    )
    assert found["classes"]["classes"] == {"wall": 0.667, "floor": 0.333}
    assert found["flags"]["classes"] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert "classes" not in found["number"]


def test_nothing_looked_at() -> None:
    assert summarise({"d": Target("depth")}, []) == {"d": {"type": "depth", "valid": 0.0}}


def test_many_classes_are_cut_and_rare_ones_named() -> None:
    facts = {"s": {"type": "segmentation", "valid": 1.0, "classes": {f"c{i}": i / 10_000 for i in range(12)}}}
    (line,) = describe(facts)
    assert line.startswith("s: segmentation, 100 % valid; c11 0.11 %, c10 0.1 %, ")
    assert line.endswith("c4 0.04 %, and 4 more down to c0 0 %")
    (line,) = describe(facts, shown=None)
    assert line.count("%") == 13
    assert "more" not in line


def test_facts_in_words() -> None:
    facts = {"samples": {"train": 7, "test": 3}, "size": (64, 48), "looked_at": 5, "notes": ["A note."], "targets": {}}
    assert facts_in_words(facts | {"licence": ""}) == [
        "7 train and 3 test samples of 64 x 48; shares are those in 5 samples",
        "A note.",
    ]
    assert facts_in_words(facts | {"licence": "Free."})[-1] == "Terms of use: Free."


@pytest.mark.parametrize(("length", "count"), [(10, 3), (10, 10), (3, 10), (1, 1), (1000, 7)])
def test_spread(length: int, count: int) -> None:
    found = spread(length, count)
    assert len(found) == len(set(found)) == min(length, count)
    assert found[0] == 0
    assert found[-1] < length
    assert found[-1] >= length - length / len(found) - 1
