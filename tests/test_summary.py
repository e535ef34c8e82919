"""The summary of a data set: shares of valid elements and of classes."""

import pytest
import torch

from mtlkit.data.dataset import Target
from mtlkit.data.ranges import Gathered, as_record, from_record, in_words, suspicions
from mtlkit.data.summary import facts_in_words, spread, summarise, summary_in_words
from mtlkit.target import KINDS, Kind

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
    @KINDS.register("heat")
    class Heat(Kind):
        unknown = -1

        def shape(self, height: int, width: int) -> tuple[int, ...]:
            return (2,)

    found = summarise(TARGETS, [SAMPLE, {"flags": torch.tensor([1.0, NAN, NAN])}])
    valid = {name: facts["valid"] for name, facts in found.items()}
    assert valid == pytest.approx(
        {"classes": 0.375, "distance": 0.25, "near": 0.125, "surface": 0.25, "flags": 0.5, "number": 0.0, "heat": 0.25}
    )
    assert found["classes"]["classes"] == {"wall": 0.667, "floor": 0.333}
    assert found["flags"]["classes"] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert "classes" not in found["number"]


def test_nothing_looked_at() -> None:
    assert summarise({"d": Target("depth")}, []) == {"d": {"type": "depth", "valid": 0.0}}


def test_many_classes_are_cut_and_rare_ones_named() -> None:
    facts = {"s": {"type": "segmentation", "valid": 1.0, "classes": {f"c{i}": i / 10_000 for i in range(12)}}}
    (line,) = summary_in_words(facts)
    assert line.startswith("s: segmentation, 100 % valid; c11 0.11 %, c10 0.1 %, ")
    assert line.endswith("c4 0.04 %, and 4 more down to c0 0 %")
    (line,) = summary_in_words(facts, shown=None)
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


# ---- ranges of numbers


def gathered(split: str, targets: dict, samples: list, data_set: str = "") -> list:
    found = Gathered(targets, split)
    for sample in samples:
        found.add(sample, data_set)
    return found.ranges()


def depths(*values: float) -> list:
    """Returns one sample per value. Its depth map has 10 x 10 pixels of that value."""
    return [{"distance": torch.full((1, 10, 10), value)} for value in values]


def test_ranges_are_quantiles_of_the_known_numbers() -> None:
    targets = {"distance": Target("depth"), "numbers": Target("regression", ("a", "b")), "flags": TARGETS["flags"]}
    hundred = torch.arange(0.0, 101.0).view(1, 1, -1)  # 0 means unknown, so the depths are 1 to 100
    samples = [{"distance": hundred, "numbers": torch.tensor([3.0, NAN])}, {"numbers": torch.tensor([-5.0, NAN])}]
    distance, a = gathered("train", targets, samples)
    assert (distance.target, distance.unit, distance.count) == ("distance", "m", 100)
    assert (distance.low, distance.median, distance.high) == pytest.approx((1.99, 50.5, 99.01))  # numpy's linear rule
    assert (a.target, a.part, a.unit, a.median, a.size) == ("numbers", "a", "", -1.0, 4.0)
    assert in_words([distance, a]) == [
        "distance in m: train median 50.5 (1 %: 1.99, 99 %: 99.01)",
        "numbers (a): train median -1 (1 %: -4.92, 99 %: 2.92)",
    ]
    assert from_record(as_record([distance, a])) == [distance, a]


def test_large_maps_are_thinned_evenly() -> None:
    ramp = torch.linspace(1, 3, 300 * 300).view(1, 300, 300)
    (found,) = gathered("train", {"distance": Target("depth")}, [{"distance": ramp}])
    assert 3000 < found.count <= 4096
    assert found.median == pytest.approx(2, abs=0.01)  # neighbours in the ramp differ by less than 0.001


@pytest.mark.parametrize(("metres", "told"), [(1500.0, True), (250.0, True), (0.02, True), (2.5, False), (40.0, False)])
def test_depth_in_another_unit_is_told(metres: float, told: bool) -> None:
    targets = {"distance": Target("depth")}
    found = suspicions(targets, gathered("train", targets, depths(metres)))
    assert len(found) == told
    assert not told or "distance: the median in train is" in found[0]
    assert metres != 1500 or "1500 m, expected 0.05 to 100 m. Depth is in metres here" in found[0]
    assert metres != 1500 or "millimetres" in found[0]


def test_splits_and_sets_that_differ_tenfold_are_told() -> None:
    targets = {"distance": Target("depth")}
    train = gathered("train", targets, depths(2.0), "rooms") + gathered("train", targets, depths(30.0), "streets")
    (sentence,) = suspicions(targets, train)
    assert "the numbers in train, rooms and train, streets differ 15-fold in size (medians 2 and 30)" in sentence
    assert not suspicions(targets, gathered("train", targets, depths(2.0)) + gathered("val", targets, depths(18.0)))
    (sentence,) = suspicions(targets, gathered("train", targets, depths(2.0)) + gathered("val", targets, depths(21.0)))
    assert "train and val differ 10.5-fold" in sentence


def test_few_numbers_are_not_compared_and_signs_do_not_count() -> None:
    targets = {"number": Target("regression", ("n",))}

    def numbers(*values: float) -> list:
        return [{"number": torch.tensor([value])} for value in values]

    few = gathered("train", targets, numbers(1.0)) + gathered("val", targets, numbers(100.0))
    assert not suspicions(targets, few)
    around_0 = gathered("train", targets, numbers(*[-1.0, 1.0] * 20)) + gathered("val", targets, numbers(*[1.0] * 40))
    assert not suspicions(targets, around_0)


def test_normals_that_face_away_are_told() -> None:
    towards = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).expand(3, 4, 4)
    targets = {"surface": Target("normals")}
    assert not suspicions(targets, gathered("train", targets, [{"surface": towards}]))
    (sentence,) = suspicions(targets, gathered("train", targets, [{"surface": -towards}]))
    assert sentence.startswith("surface (z): the median in train is 1, expected -1.05 to 0.2. Normals face the camera")
