"""Metrics as in older papers: means over batches, and CosReg's 1 - |cos|."""

import pickle

import numpy as np
import pytest
import torch
from torchmetrics import MeanMetric

from mtlkit.metrics import BatchMean
from mtlkit.task import TASKS


def batches(channels: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns predictions and targets in batches of 2, 2, 2 and 1.

    The batches have very different shares of valid pixels. The third has none.
    """
    g = torch.Generator().manual_seed(3)
    found = []
    for size, share in ((2, 0.9), (2, 0.1), (2, 0.0), (1, 0.5)):
        if channels == 1:
            target = 1 + 4 * torch.rand(size, 1, 6, 8, generator=g)
            prediction = target + torch.randn(size, 1, 6, 8, generator=g).abs() * (1 + 3 * (1 - share))
        else:
            target = torch.nn.functional.normalize(torch.randn(size, 3, 6, 8, generator=g), dim=1)
            noise = torch.randn(size, 3, 6, 8, generator=g) * (1 - share)
            prediction = torch.nn.functional.normalize(target + noise, dim=1)
        valid = torch.rand(size, 1, 6, 8, generator=g) < share
        found.append((prediction, target * valid))
    return found


def depth_by_hand(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    p, t = prediction[target > 0], target[target > 0]
    return {
        "abs": np.abs(p - t).mean(),
        "rel": (np.abs(p - t) / t).mean(),
        "rmse": np.sqrt(((p - t) ** 2).mean()),
        "delta1": np.mean(np.maximum(p / t, t / p) < 1.25),
    }


def normals_by_hand(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    valid = (target**2).sum(1) > 0.5
    p, t = (np.moveaxis(x, 1, -1)[valid] for x in (prediction, target))
    angles = np.degrees(np.arccos(np.clip((p * t).sum(-1), -1, 1)))
    within = {f"within_{int(limit)}": np.mean(angles < limit) for limit in (11.25, 22.5, 30)}
    return {"mean": angles.mean(), "median": np.median(angles), **within}


@pytest.mark.parametrize(("kind", "by_hand"), [("depth", depth_by_hand), ("normals", normals_by_hand)])
def test_means_of_batch_values(kind: str, by_hand) -> None:
    parts = batches(1 if kind == "depth" else 3)
    metrics, pooled = (TASKS.build(kind, "t", compat=compat).metrics() for compat in ("mtan", None))
    for prediction, target in parts:
        metrics.update(prediction, target)
        pooled.update(prediction, target)
    valued = [by_hand(p.double().numpy(), t.double().numpy()) for p, t in parts if (t != 0).any()]
    assert len(valued) == 3
    expected = {key: np.mean([found[key] for found in valued]) for key in valued[0]}
    found = {key: float(value) for key, value in metrics.compute().items()}
    # The median is exact to half a bin of 0.001 degrees. The other values are float32.
    assert found == pytest.approx(expected, abs=1e-3 if kind == "normals" else 1e-5)
    whole = {key: float(value) for key, value in pooled.compute().items()}
    assert all(abs(whole[key] - found[key]) > 0.01 for key in found)  # both ways to average give different results here
    assert {k: m.unit for k, m in metrics.items()} == {k: m.unit for k, m in pooled.items()}
    assert {m.unit for m in metrics.values()} == ({"", "°"} if kind == "normals" else {""})
    assert {k: m.higher_is_better for k, m in metrics.items()} == {k: m.higher_is_better for k, m in pooled.items()}


@pytest.mark.parametrize("compat", ["mtan", None])
@pytest.mark.parametrize("sigma", [0.002, 0.010])
def test_inverse_depth_is_measured_without_clipping(sigma: float, compat: str | None) -> None:
    """`rel` of noisy inverse depth equals that of the published code, which does not clip predictions at 0.

    The targets are like Cityscapes' disparities / 65535 with many far pixels: from 1 to 32257, with uniform logarithms.
    The test compares with the mean of |noise| / target in NumPy, and with theory: sigma sqrt(2 / pi) mean(1 / target).
    """
    random = np.random.default_rng(0)
    target = np.exp(random.uniform(0, np.log(32257), (8, 1, 100, 100))) / 65535
    noise = sigma * random.standard_normal(target.shape)
    clipped = np.abs(np.maximum(target + noise, 1e-6) - target) / target
    task = TASKS.build("depth", "t", compat=compat)
    metrics = task.metrics()
    metrics.update(task.predict(torch.from_numpy(target + noise)), torch.from_numpy(target))
    found = float(metrics.compute()["rel"])
    assert found == pytest.approx(float(np.mean(np.abs(noise) / target)), rel=1e-9)  # float64 on both sides
    # About a tenth of the 80,000 pixels decide the mean, so it varies by a few percent.
    assert found == pytest.approx(sigma * np.sqrt(2 / np.pi) * float(np.mean(1 / target)), rel=0.05)
    assert 0.45 * found < clipped.mean() < 0.6 * found  # half of the noise is below 0, and clipping removes most of it


def test_the_parts_of_two_processes_add_up() -> None:
    parts = batches(1)
    whole, *halves = (BatchMean(TASKS.build("depth", "t").metrics()["abs"]) for _ in range(3))
    for prediction, target in parts:
        whole.update(prediction, target)
    for rank, half in enumerate(halves):
        for prediction, target in parts[rank::2]:
            half.update(prediction, target)
    sums = halves[0].sums + halves[1].sums
    assert float(sums[0] / sums[1]) == pytest.approx(float(whole.compute()))
    assert whole._reductions["sums"] is not None
    assert float(pickle.loads(pickle.dumps(whole)).compute()) == float(whole.compute())
    empty = BatchMean(TASKS.build("depth", "t").metrics()["abs"])
    empty.update(*parts[2])  # this batch has no valid pixel
    assert empty.compute().isnan()


def test_a_batchs_value_is_that_of_one_process(monkeypatch) -> None:
    """Processes exchange only the sums over batches, after the last batch."""
    one = BatchMean(TASKS.build("depth", "t").metrics()["abs"])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)  # any exchange would fail here
    one.update(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 1.0))
    assert one.sums.tolist() == [2.0, 1.0]
    assert BatchMean(MeanMetric()).unit == ""  # torchmetrics' own metrics have no unit


def test_one_minus_the_absolute_cosine_in_both_encodings() -> None:
    parts = batches(3)
    metrics = TASKS.build("normals", "t", compat="cosreg").metrics()
    for prediction, target in parts:
        metrics.update(2.5 * prediction, target)  # the length of a prediction does not matter
    pairs = [[x.movedim(1, -1)[t.square().sum(1) > 0.5].double() for x in (p, t)] for p, t in parts]
    p, t = (torch.cat(x).numpy() for x in zip(*pairs, strict=True))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(1 - np.abs((a * b).sum(-1)) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)))

    found = metrics.compute()
    assert float(found["abs_cos_unit"]) == pytest.approx(mean(p, t))
    assert float(found["abs_cos_01"]) == pytest.approx(mean((p + 1) / 2, (t + 1) / 2))
    plain = TASKS.build("normals", "t").metrics()
    assert set(found) == {*plain, "abs_cos_unit", "abs_cos_01"}
    flipped = TASKS.build("normals", "t", compat="cosreg").metrics()
    column = torch.from_numpy(t.T.reshape(1, 3, 1, -1).copy())
    flipped.update(-column, column)
    assert float(flipped.compute()["abs_cos_unit"]) == pytest.approx(0, abs=1e-12)  # the metric ignores the sign
    assert float(flipped.compute()["abs_cos_01"]) > 0.1  # the metric does not ignore it in this encoding


@pytest.mark.parametrize(("kind", "known"), [("depth", "mtan"), ("normals", "mtan, cosreg")])
def test_unknown_conventions(kind: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"task.t.compat: expected one of {known} or null, found 'libmtl'"):
        TASKS.build(kind, "t", compat="libmtl")
