"""Pooled metrics compared with brute force, for all data at once and in parts. Also the checks that tasks share."""

import numpy as np
import pytest
import torch
from tolerances import NETWORK, ROUNDING, SINGLE

from mtlkit.metrics import Accuracy, ClassesPresent, MacroF1, MeanIoU, Pooled, check_shapes, collect
from mtlkit.task import TASKS

PAIRS = ("segmentation", "depth", "normals", "multilabel", "classification", "regression")


@pytest.fixture
def make():
    """Returns a function from the type of a task to (task, prediction, target): 7 samples, some elements invalid."""

    def build(kind: str, seed: int = 0):
        g = torch.Generator().manual_seed(seed)
        classes = ("a", "b", "c", "d")
        if kind == "segmentation":
            target = torch.randint(-1, 4, (7, 5, 6), generator=g)
            return TASKS.build(kind, "t", classes=classes), torch.randint(0, 4, (7, 5, 6), generator=g), target
        if kind == "depth":
            target = torch.rand(7, 1, 5, 6, generator=g) * 5
            target[target < 1] = 0
            return TASKS.build(kind, "t"), target + 0.1 + torch.rand(7, 1, 5, 6, generator=g) * 2, target
        if kind == "normals":
            target = torch.nn.functional.normalize(torch.randn(7, 3, 5, 6, generator=g), dim=1)
            target = target * (torch.rand(7, 1, 5, 6, generator=g) > 0.3)
            prediction = torch.nn.functional.normalize(target + 0.3 * torch.randn(7, 3, 5, 6, generator=g), dim=1)
            return TASKS.build(kind, "t"), prediction, target
        if kind == "multilabel":
            target = (torch.rand(7, 4, generator=g) > 0.5).float()
            target[torch.rand(7, 4, generator=g) < 0.15] = torch.nan
            # A coarse grid of scores gives ties.
            return TASKS.build(kind, "t", classes=classes), torch.randint(0, 6, (7, 4), generator=g) / 5, target
        if kind == "classification":
            target = torch.randint(-1, 4, (7,), generator=g)
            return TASKS.build(kind, "t", classes=classes), torch.rand(7, 4, generator=g).softmax(1), target
        target = 3 + torch.randn(7, 4, generator=g)
        target[torch.rand(7, 4, generator=g) < 0.2] = torch.nan
        return TASKS.build(kind, "t", classes=classes), 3 + torch.randn(7, 4, generator=g), target

    return build


def brute_confusion(prediction, target):
    prediction, target = prediction.numpy().ravel(), target.numpy().ravel()
    prediction, target = prediction[target >= 0], target[target >= 0]
    present = np.union1d(target, prediction)  # a class that is predicted but never true counts with 0
    pairs = [(prediction == c, target == c) for c in present]
    return {
        "miou": np.mean([(p & t).sum() / (p | t).sum() for p, t in pairs]),
        "f1": np.mean([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in pairs]),
        "accuracy": np.mean(prediction == target),
        "classes_present": len(present),
    }


def brute_labels(prediction, target):
    f1, ap, auroc, right = [], [], [], []
    for score, label in zip(prediction.double().numpy().T, target.numpy().T, strict=True):
        score, label = score[~np.isnan(label)], label[~np.isnan(label)] == 1
        right.extend((score > 0.5) == label)
        if not label.any():
            continue
        f1.append(2 * (label & (score > 0.5)).sum() / (label.sum() + (score > 0.5).sum()))
        area, last = 0.0, 0.0
        for threshold in sorted(set(score), reverse=True):
            chosen = score >= threshold
            recall = label[chosen].sum() / label.sum()
            area, last = area + (recall - last) * label[chosen].mean(), recall
        ap.append(area)
        if not label.all():
            gaps = score[label][:, None] - score[~label][None]
            auroc.append(np.mean((gaps > 0) + 0.5 * (gaps == 0)))
    return {"f1": np.mean(f1), "map": np.mean(ap), "auroc": np.mean(auroc), "accuracy": np.mean(right)}


def brute(kind, prediction, target):
    if kind == "segmentation":
        values = brute_confusion(prediction, target)
        return {
            "miou": values["miou"],
            "pixel_accuracy": values["accuracy"],
            "classes_present": values["classes_present"],
        }
    if kind == "classification":
        values = brute_confusion(prediction.argmax(1), target)
        return {name: values[name] for name in ("accuracy", "f1", "classes_present")}
    if kind == "multilabel":
        return brute_labels(prediction, target)
    p, t = prediction.double().numpy(), target.double().numpy()
    if kind == "depth":
        p, t = p[t > 0], t[t > 0]
        return {
            "abs": np.mean(abs(p - t)),
            "rel": np.mean(abs(p - t) / t),
            "rmse": np.sqrt(np.mean((p - t) ** 2)),
            "delta1": np.mean(np.maximum(p / t, t / p) < 1.25),
        }
    if kind == "normals":
        valid = (t**2).sum(1) > 0.25
        a, b = (np.moveaxis(x, 1, -1)[valid] for x in (p, t))
        angles = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))
        within = {name: np.mean(angles < x) for name, x in (("11", 11.25), ("22", 22.5), ("30", 30))}
        figures = {"mean": angles.mean(), "median": np.median(angles)}
        return figures | {f"within_{name}": value for name, value in within.items()}
    mse, mae, r2 = [], [], []
    for x, y in zip(p.T, t.T, strict=True):
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        mse.append(np.mean((x - y) ** 2))
        mae.append(np.mean(abs(x - y)))
        r2.append(1 - np.sum((x - y) ** 2) / np.sum((y - y.mean()) ** 2))
    return {"mse": np.mean(mse), "mae": np.mean(mae), "r2": np.mean(r2)}


def values(metrics):
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_are_those_of_the_joined_split(make, kind, seed):
    task, prediction, target = make(kind, seed)
    expected = pytest.approx(brute(kind, prediction, target), abs=6e-4 if kind == "normals" else 1e-6)
    whole = task.metrics()
    whole.update(prediction, target)
    assert values(whole) == expected
    parts = task.metrics()
    for i, j in ((0, 2), (2, 3), (3, 7)):
        parts.update(prediction[i:j], target[i:j])
    assert values(parts) == pytest.approx(values(whole), rel=ROUNDING)
    parts.reset()
    parts.update(prediction, target)
    assert values(parts) == pytest.approx(values(whole), rel=ROUNDING)


@pytest.mark.parametrize("kind", PAIRS)
def test_states_merge_as_between_processes(make, kind):
    task, prediction, target = make(kind)
    whole, left, right = task.metrics(), task.metrics(), task.metrics()
    whole.update(prediction, target)
    left.update(prediction[:3], target[:3])
    right.update(prediction[3:], target[3:])
    for name, metric in left.items():
        metric.merge_state(right[name])
        assert float(metric.compute()) == pytest.approx(values(whole)[name], rel=ROUNDING)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_first_batch_without_valid_elements_changes_nothing(make, kind):
    """Torchmetrics' automatic compute groups would merge metrics while all their sums are zero."""
    task, prediction, target = make(kind)
    invalid = {"segmentation": -1, "classification": -1, "depth": 0, "normals": 0}.get(kind, torch.nan)
    metrics = task.metrics()
    metrics.update(prediction, torch.full_like(target, invalid))
    assert all(np.isnan(v) or name == "classes_present" for name, v in values(metrics).items())
    metrics.update(prediction, target)
    whole = task.metrics()
    whole.update(prediction, target)
    assert values(metrics) == pytest.approx(values(whole), rel=ROUNDING)


@pytest.mark.parametrize("kind", PAIRS)
def test_each_metric_has_a_direction_and_is_a_scalar(make, kind):
    task, prediction, target = make(kind)
    metrics = task.metrics()
    lower = {"abs", "rel", "rmse", "mean", "median", "mse", "mae"}
    for name, metric in metrics.items():
        assert metric.higher_is_better is (None if name == "classes_present" else name not in lower)
    metrics.update(prediction, target)
    assert all(value.shape == () for value in metrics.compute().values())


@pytest.mark.parametrize("kind", PAIRS)
def test_every_metric_sums_in_numbers_that_hold_a_split(make, kind):
    """Sums are int64 or float64. Their shape is fixed from the start, so that processes can exchange them."""
    task, prediction, target = make(kind)
    pooled = {name: metric for name, metric in task.metrics().items() if isinstance(metric, Pooled)}
    assert pooled
    for metric in pooled.values():
        before = metric.sums
        assert before.dtype in (torch.int64, torch.float64)
        metric.update(prediction, target)
        assert (metric.sums.shape, metric.sums.dtype) == (before.shape, before.dtype)


@pytest.mark.parametrize("kind", PAIRS)
def test_metrics_refuse_shapes_that_would_broadcast(make, kind):
    task, prediction, target = make(kind)
    with pytest.raises(ValueError, match=r"The (metric [A-Z]\w+|\w+ metrics) expected prediction .* found prediction"):
        task.metrics().update(prediction[:1], target)


def test_a_class_that_is_nowhere_counts_neither_as_zero_nor_as_nan():
    target = torch.tensor([0, 0, 1, 1])
    seen = collect({"iou": MeanIoU(4), "f1": MacroF1(4), "present": ClassesPresent(4), "right": Accuracy(4)})
    seen.update(torch.tensor([0, 2, 1, 1]), target)  # class 2 is predicted but never true, class 3 is neither
    assert values(seen) == pytest.approx({"iou": (0.5 + 1) / 3, "f1": (2 / 3 + 1) / 3, "present": 3, "right": 0.75})


def test_labels_without_positives_or_negatives_leave_the_averages():
    task = TASKS.build("multilabel", "t", classes=("all", "none", "some"))
    target = torch.tensor([[1.0, 0, 1], [1, 0, 0], [1, 0, 1]])
    prediction = torch.tensor([[0.9, 0.9, 0.9], [0.2, 0.9, 0.1], [0.9, 0.9, 0.8]])
    metrics = task.metrics()
    metrics.update(prediction, target)
    assert values(metrics) == pytest.approx({"f1": 0.9, "map": 1, "auroc": 1, "accuracy": 5 / 9})


def test_a_score_that_is_no_number_shows():
    task = TASKS.build("multilabel", "t", classes=("a",))
    metrics = task.metrics()
    metrics.update(torch.tensor([[0.1], [torch.nan]]), torch.tensor([[0.0], [1.0]]))
    assert np.isnan(values(metrics)["auroc"])
    assert np.isnan(values(metrics)["map"])


@pytest.mark.parametrize("bad", [0.0, torch.nan])
def test_a_normal_without_direction_is_not_a_perfect_one(make, bad):
    task, prediction, target = make("normals")
    prediction = prediction.clone()
    i, j, k = (target.square().sum(1) > 0.25).nonzero()[0]
    prediction[i, :, j, k] = bad
    metrics = task.metrics()
    metrics.update(prediction, target)
    assert all(np.isnan(value) for value in values(metrics).values())


@pytest.mark.parametrize("degrees", [0.0, 0.01, 11.2495, 11.25, 90.0, 179.99, 180.0])
def test_angles_are_exact_near_their_ends(degrees):
    t = np.radians(degrees)
    a, b = torch.tensor([[0.0, 0, -1], [np.sin(t), 0, -np.cos(t)]], dtype=torch.float64).view(2, 1, 3, 1, 1)
    metrics = TASKS.build("normals", "t").metrics()
    metrics.update(0.7 * a, b)
    found = values(metrics)
    assert found["mean"] == pytest.approx(degrees, abs=NETWORK)
    # The median comes from a histogram with bins of 0.001 degrees, so it is exact to half a bin.
    assert found["median"] == pytest.approx(degrees, abs=5.01e-4)


def test_r2_survives_a_large_mean_and_skips_a_constant_output():
    task = TASKS.build("regression", "t", classes=("year", "same"))
    target = torch.stack([torch.arange(2000.0, 2010), torch.full((10,), 0.1)], 1)
    metrics = task.metrics()
    metrics.update(target + torch.tensor([1.0, 0.5]), target)
    spread = np.sum((np.arange(10) - 4.5) ** 2)
    assert values(metrics)["r2"] == pytest.approx(1 - 10 / spread, rel=SINGLE)


def test_sums_do_not_saturate():
    """A float32 sum of ones stops growing at 2^24."""
    metrics = collect({"accuracy": Accuracy(2)})
    metrics.update(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    metrics["accuracy"].sums[0, 0] = 2**24
    metrics.update(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert metrics["accuracy"].sums[0, 0] == 2**24 + 1


@pytest.mark.parametrize("label", [-2, 3, 9])
def test_confusion_refuses_labels_out_of_range(label):
    with pytest.raises(ValueError, match=rf"The metric Accuracy expected labels -1 to 2, found {label} \(1 such"):
        Accuracy(3).update(torch.tensor([0, 1]), torch.tensor([0, label]))


def test_check_shapes_binds_letters_across_tensors():
    a, b = torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)
    check_shapes("x", ("a", a, ("B", 5), "float"), ("b", b, ("B",), "int64"))
    with pytest.raises(ValueError, match=r"expected a \(B, 5\) float and b \(B\) int64, found a \(2, 5\) float32 and"):
        check_shapes("x", ("a", a, ("B", 5), "float"), ("b", b[:1], ("B",), "int64"))
    with pytest.raises(ValueError, match=r"found b \(2,\) int64"):
        check_shapes("x", ("b", b, ("B",), "float"))


def test_confusion_counts_take_scores_and_numbers_alike():
    scores, target = torch.rand(5, 4), torch.randint(-1, 4, (5,))
    one, two = Accuracy(4), Accuracy(4)
    one.update(scores, target)
    two.update(scores.argmax(1), target)
    assert one.sums.equal(two.sums)


def test_figures_of_single_classes():
    """A class that does not occur has none, and the mean leaves it out."""
    nan = torch.nan
    prediction, target = torch.tensor([[[0, 1, 1, 0]]]), torch.tensor([[[0, 0, 1, -1]]])
    metrics = {"miou": (MeanIoU(3), "iou", [1 / 2, 1 / 2, nan]), "accuracy": (Accuracy(3), "accuracy", [1 / 2, 1, nan])}
    metrics["f1"] = (MacroF1(3), "f1", [2 / 3, 2 / 3, nan])
    for metric, name, expected in metrics.values():
        metric.update(prediction, target)
        assert metric.per_class() == {name: pytest.approx(torch.tensor(expected), nan_ok=True)}
    scores = torch.tensor([[0.9, 0.2, 0.6], [0.4, 0.8, 0.1], [0.6, 0.7, 0.2]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, nan]])
    found = TASKS.build("multilabel", "t", classes=("a", "b", "c")).metrics()
    found.update(scores, labels)
    # b: of the scores above 0.5, one is right and one is wrong. c has no positive.
    assert found["f1"].per_class() == {"f1": pytest.approx(torch.tensor([1, 2 / 3, nan]), nan_ok=True)}
    assert found["auroc"].per_class() == {"auroc": pytest.approx(torch.tensor([1.0, 1.0, nan]), nan_ok=True)}
