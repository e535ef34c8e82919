"""The task reconstruction: tests compare its loss, metrics, constant and pictures with the mathematics."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tolerances import NETWORK, SINGLE, SINGLE_SUM
from torch.nn import functional as F

from mtlkit.engine.evaluation import evaluate_constants
from mtlkit.task import TASKS

RGB = ("red", "green", "blue")
losses = pytest.mark.parametrize("loss", ["mse", "l1"])


def build(**options):
    return TASKS.build("reconstruction", "t", **{"classes": RGB} | options)


def make(count=6, channels=3, loss="mse", unknown=0.3):
    """Returns (task, output, target). About a share `unknown` of the target is NaN."""
    g = torch.Generator().manual_seed(0)
    shape = (count, channels, 4, 5)
    target = torch.rand(shape, generator=g)
    target[torch.rand(shape, generator=g) < unknown] = torch.nan
    return build(classes=RGB[:channels], loss=loss), torch.randn(shape, generator=g), target


def figures(task, *batches):
    metrics = task.metrics()
    for prediction, target in batches:
        metrics.update(prediction, target)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_what_it_is():
    task = build()
    assert (task.dense, task.regression, task.out_channels) == (True, True, 3)
    assert build(classes=("grey",)).out_channels == 1
    assert task.decoder_config == {"name": "conv"}
    _, output, target = make()
    assert task.indicator(output, target) is None


# The loss


@pytest.mark.parametrize(("loss", "function"), [("mse", F.mse_loss), ("l1", F.l1_loss)])
def test_the_loss_is_torchs_mean_over_known_values(loss, function):
    task, output, target = make(loss=loss)
    known = ~target.isnan()
    total, count = task.loss(output, target)
    assert total.shape == count.shape == ()
    assert int(count) == known.sum()
    torch.testing.assert_close(total / count, function(output[known], target[known]))


@losses
def test_sums_and_counts_add_up_over_parts_of_the_batch(loss):
    task, output, target = make(loss=loss)
    whole = task.loss(output.double(), target)
    parts = [task.loss(output[i:j].double(), target[i:j]) for i, j in ((0, 1), (1, 2), (2, 6))]
    for one, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(one, sum(of_parts), rtol=NETWORK, atol=0)


@losses
def test_gradients_are_those_of_finite_differences(loss):
    task, output, target = make(count=2, loss=loss)
    assert torch.autograd.gradcheck(lambda x: task.loss(x, target)[0], output.double().requires_grad_())


@losses
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_unknown_values_change_nothing_whatever_the_output_holds(loss, garbage):
    task, output, target = make(loss=loss)
    found = []
    for value in (0.0, garbage):
        x = torch.where(target.isnan(), value, output).requires_grad_()
        total, count = task.loss(x, target)
        total.backward()
        found.append((total.detach(), count, x.grad))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert (found[0][2] == 0).equal(target.isnan())


@losses
def test_nothing_known_is_zero_with_a_zero_gradient(loss):
    task, output, target = make(loss=loss)
    output.requires_grad_()
    total, count = task.loss(output, torch.full_like(target, torch.nan))
    total.backward()
    assert (total, count) == (0, 0)
    assert output.grad.count_nonzero() == 0


def test_half_precision_outputs_are_summed_in_float32():
    task, output, target = make()
    half = output.bfloat16()
    total, count = task.loss(half, target)
    assert total.dtype == count.dtype == task.predict(half).dtype == torch.float32
    torch.testing.assert_close(total, task.loss(half.float(), target)[0], rtol=0, atol=0)
    assert task.loss(output.double(), target)[0].dtype == torch.float64


# Metrics


def test_metrics_are_pooled_over_known_values():
    task, output, target = make()
    prediction, known = task.predict(output), ~target.isnan()
    error = (prediction[known] - target[known]).double()
    parts = [(prediction[i:j], target[i:j]) for i, j in ((0, 1), (1, 6))]
    found = figures(task, *parts)
    assert list(found) == ["mae", "mse", "psnr"]
    assert found["mse"] == pytest.approx(float(error.square().mean()), rel=SINGLE)
    assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=SINGLE)
    assert found["psnr"] == pytest.approx(-10 * np.log10(found["mse"]))
    assert {name: metric.higher_is_better for name, metric in task.metrics().items()} == {
        "mse": False,
        "mae": False,
        "psnr": True,
    }


def test_psnr_by_hand():
    target = torch.full((1, 3, 4, 5), 0.5)
    # In decibels. A relative error of 1e-6, as in float32, changes the result by 4e-6.
    assert figures(build(), (target + 0.1, target))["psnr"] == pytest.approx(20, abs=1e-4)
    assert figures(build(), (target, target))["psnr"] == np.inf


def test_no_known_value_gives_no_figure():
    target = torch.full((1, 3, 4, 5), torch.nan)
    assert np.isnan(list(figures(build(), (torch.zeros_like(target), target)).values())).all()


def test_the_output_is_not_clipped():
    output = torch.tensor([-2.0, 0.5, 3.0]).view(1, 3, 1, 1)
    assert torch.equal(build().predict(output), output)


# The constant


def test_the_constant_is_the_mean_picture_of_what_is_known():
    task, _, target = make(count=40)
    constant = task.constant(target)
    assert (constant.shape, constant.dtype) == ((1, 3, 4, 5), torch.float32)
    torch.testing.assert_close(constant[0], target.nanmean(0))
    best = figures(task, (constant.expand_as(target), target))["mse"]
    g = torch.Generator().manual_seed(2)
    for _ in range(20):
        other = constant + 0.05 * torch.randn(constant.shape, generator=g)
        assert best < figures(task, (other.expand_as(target), target))["mse"]


def test_a_pixel_that_is_never_known_gets_the_overall_mean():
    task, _, target = make(unknown=0)
    target[:, 1, 2, 3] = torch.nan
    constant = task.constant(target)
    assert float(constant[0, 1, 2, 3]) == pytest.approx(float(target.nanmean()), abs=SINGLE)
    assert constant.isfinite().all()


def test_the_constant_is_evaluated_on_batches():
    task, _, target = make()
    batches = [target[:4], target[4:]]
    predictor = SimpleNamespace(
        tasks={"t": task},
        device=torch.device("cpu"),
        inputs=lambda batch: (torch.zeros(len(batch), 3, 8, 10), {"t": batch}),
    )
    found = evaluate_constants(batches, predictor, {"t": task.constant(target)})
    assert found["t/mse"] == pytest.approx(float((target.nanmean(0) - target).square().nanmean()), rel=SINGLE_SUM)


def test_targets_without_a_known_value_have_no_constant():
    with pytest.raises(ValueError, match=r"task 't' has no known value in the targets: all are NaN"):
        build().constant(torch.full((2, 3, 4, 5), torch.nan))


# Pictures


def test_three_channels_are_colours_and_unknown_is_black():
    value = torch.tensor([[0.0, 1.0], [0.2, torch.nan], [2.0, -1.0]]).view(3, 1, 2)
    assert build().picture(value).tolist() == [[[0, 51, 255], [255, 0, 0]]]


@pytest.mark.parametrize("channels", [1, 2])
def test_other_numbers_of_channels_are_grey(channels):
    value = torch.tensor([0.0, 0.4, torch.nan]).expand(channels, 1, 3)
    picture = build(classes=RGB[:channels]).picture(value)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[0] * 3, [102] * 3, [0] * 3]]


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_diverged_prediction_has_a_picture(channels, garbage):
    picture = build(classes=RGB[:channels]).picture(torch.full((channels, 4, 5), garbage))
    assert (picture == (255 if garbage == torch.inf else 0)).all()
    assert picture.shape == (4, 5, 3)


@pytest.mark.parametrize(("loss", "function"), [("mse", F.mse_loss), ("l1", F.l1_loss)])
def test_the_output_is_a_standardised_picture(loss, function):
    _, output, target = make(unknown=0)
    mean, deviation = 0.1307, 0.3081
    task = build(loss=loss, mean=mean, deviation=deviation)
    total, count = task.loss(output, target)
    torch.testing.assert_close(total / count, function(output, (target - mean) / deviation))
    torch.testing.assert_close(task.predict(output), output * deviation + mean)
    # The loss equals that of the prediction's error divided by the deviation.
    error = (task.predict(output) - target).abs() / deviation
    torch.testing.assert_close(total, (error if loss == "l1" else error.square()).sum(), rtol=SINGLE_SUM, atol=0)
    assert task.constant(target).equal(build().constant(target))  # a constant is a prediction, not an output


# Errors


def test_wrong_shapes_are_refused():
    task, output, target = make()
    for x, y in ((output[:, :-1], target), (output[:2], target), (output, target[:2]), (output, target[None])):
        with pytest.raises(ValueError, match=r"task 't' expected output \(B, 3, H, W\) float .* found output \("):
            task.loss(x, y)
    with pytest.raises(ValueError, match="reconstruction metrics expected prediction"):
        task.metrics().update(output, target[:, :1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mes"}, r"task\.t\.loss: expected one of mse, l1, found 'mes'\. Did you mean 'mse'"),
        ({"classes": ()}, "needs the names of its classes or outputs"),
        ({"classes": ("red", "red")}, "has 'red' more than once"),
        ({"lss": "mse"}, "no option 'lss'. Did you mean 'loss'"),
        ({"deviation": 0}, r"task\.t\.deviation: expected a number > 0, found 0"),
        ({"mean": 1.5}, r"task\.t\.mean: expected a number >= 0 and <= 1, found 1\.5"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
