"""The tasks of mtlkit: tests compare losses, predictions, constants and pictures with the mathematics."""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
import torch
from tolerances import SINGLE, SINGLE_SUM, SOLVED
from torch.nn import functional as F

from mtlkit.task import TASKS, own_decoder
from mtlkit.testing import check_task

NAMES = ("a", "b", "c", "d")
VARIANTS = [
    ("segmentation", {}),
    ("segmentation", {"label_smoothing": 0.1, "class_weights": [1, 2, 0.5, 3]}),
    ("classification", {}),
    ("classification", {"label_smoothing": 0.1, "class_weights": [1, 2, 0.5, 3]}),
    ("depth", {"loss": "l1"}),
    ("depth", {"loss": "mse"}),
    ("depth", {"loss": "berhu", "berhu_threshold": 0.7}),
    ("depth", {"loss": "silog"}),
    ("normals", {"loss": "cosine"}),
    ("normals", {"loss": "l1"}),
    ("normals", {"loss": "mse"}),
    ("multilabel", {"loss": "bce"}),
    ("multilabel", {"loss": "bce", "positive_weights": [1, 2, 3, 4]}),
    ("multilabel", {"loss": "focal", "gamma": 1.5, "alpha": 0.3}),
    ("regression", {"loss": "mse"}),
    ("regression", {"loss": "l1"}),
]
KINDS = sorted({kind for kind, _ in VARIANTS})
variants = pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else str(v))


def build(kind, **options):
    classes = () if kind in ("depth", "normals") else NAMES
    return TASKS.build(kind, "t", **{"classes": classes} | options)


def random_target(kind, count=6, seed=0):
    """Returns a batch of targets, of which about a third is invalid."""
    g = torch.Generator().manual_seed(seed)
    if kind == "segmentation":
        return torch.randint(-1, 4, (count, 3, 5), generator=g)
    if kind == "classification":
        return torch.randint(-1, 4, (count,), generator=g)
    if kind == "depth":
        target = 5 * torch.rand(count, 1, 3, 5, generator=g)
        return target * (target > 1.5)
    if kind == "normals":
        target = F.normalize(torch.randn(count, 3, 3, 5, generator=g) - torch.tensor([0, 0, 2.0]).view(3, 1, 1), dim=1)
        return target * (torch.rand(count, 1, 3, 5, generator=g) > 0.3)
    known = torch.rand(count, 4, generator=g) > 0.3
    numbers = torch.randn(count, 4, generator=g)
    return torch.where(known, (numbers > 0).float() if kind == "multilabel" else numbers, torch.nan)


def valid_outputs(kind, target):
    """Returns which elements of the output belong to a valid target, and the value that marks a target as invalid."""
    if kind in ("segmentation", "classification"):
        return (target != -1).unsqueeze(1), -1
    if kind == "depth":
        return target > 0, 0.0
    if kind == "normals":
        return target.square().sum(1, keepdim=True) > 0.25, 0.0
    return ~target.isnan(), torch.nan


def make(kind, options, count=6):
    """Returns (task, output, target)."""
    task, target = build(kind, **options), random_target(kind, count)
    shape = (count, task.out_channels, *(target.shape[-2:] if task.dense else ()))
    return task, torch.randn(shape, generator=torch.Generator().manual_seed(1)), target


@pytest.mark.parametrize(("kind", "options"), [*VARIANTS, ("reconstruction", {}), ("reconstruction", {"loss": "l1"})])
def test_every_task_keeps_its_promises(kind, options):
    """Checks what every task must do. The tests below check more, or what only one kind of task must do."""
    options = options | ({"classes": NAMES} if {"class_weights", "positive_weights"} & options.keys() else {})
    check_task(kind, **options)


# Losses


@variants
def test_gradients_are_those_of_finite_differences(kind, options):
    task, output, target = make(kind, options, count=3)
    assert torch.autograd.gradcheck(lambda x: task.loss(x, target)[0], output.double().requires_grad_())


@variants
def test_invalid_elements_change_nothing_whatever_they_hold(kind, options):
    task, output, target = make(kind, options)
    valid, _ = valid_outputs(kind, target)
    results = []
    for garbage in (0.0, torch.nan, torch.inf, 1e30):
        x = torch.where(valid, output, garbage).requires_grad_()
        y = target
        if kind in ("depth", "normals"):
            y = torch.where(valid, target, torch.nan if garbage != 0 else 0)
        total, count = task.loss(x, y)
        total.backward()
        results.append((total.detach(), count, x.grad))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    assert (results[0][2] == 0)[~valid.expand_as(output)].all()


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0]])
def test_cross_entropy_is_torchs_mean(kind, smoothing, weights):
    task, output, target = make(kind, {"label_smoothing": smoothing, "class_weights": weights})
    total, count = task.loss(output, target)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(output, target, weight, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(total / count, expected)


def test_bce_is_torchs_mean_over_known_labels():
    task, output, target = make("multilabel", {"positive_weights": [1, 2, 3, 4]})
    known = ~target.isnan()
    weight = torch.tensor([1.0, 2, 3, 4]).expand_as(target)[known]
    total, count = task.loss(output, target)
    expected = F.binary_cross_entropy_with_logits(output[known], target[known], pos_weight=weight)
    torch.testing.assert_close(total / count, expected)


def test_focal_is_bce_at_gamma_zero_and_its_formula_otherwise():
    _, output, target = make("multilabel", {})
    bce = build("multilabel").loss(output, target)
    torch.testing.assert_close(build("multilabel", loss="focal", gamma=0).loss(output, target), bce)
    total, _ = build("multilabel", loss="focal", gamma=1.7, alpha=0.25).loss(output, target)
    known = ~target.isnan()
    p, t = output[known].double().sigmoid().numpy(), target[known].numpy() == 1
    pt, at = np.where(t, p, 1 - p), np.where(t, 0.25, 0.75)
    assert float(total) == pytest.approx(np.sum(-at * (1 - pt) ** 1.7 * np.log(pt)), rel=SINGLE_SUM)


def test_focal_has_a_finite_slope_at_certainty_for_gamma_below_one():
    output = torch.tensor([[200.0, -200, 0, 1]], requires_grad=True)
    total, _ = build("multilabel", loss="focal", gamma=0.5).loss(output, torch.tensor([[1.0, 0, 1, 1]]))
    total.backward()
    assert output.grad.isfinite().all()


def test_depth_losses_by_hand():
    output, target = torch.tensor([[[[2.0, 4.0, 9.0]]]]), torch.tensor([[[[2.5, 1.0, 0.0]]]])
    expected = {"l1": 0.5 + 3, "mse": 0.25 + 9, "berhu": 0.5 + (9 + 1) / 2}
    for loss, value in expected.items():
        options = {"berhu_threshold": 1} if loss == "berhu" else {}
        total, count = build("depth", loss=loss, **options).loss(output, target)
        assert (float(total), int(count)) == (pytest.approx(value), 2)


@pytest.mark.parametrize("c", [0.1, 0.5, 3.0])
def test_berhu_and_its_slope_are_continuous_at_the_threshold(c):
    task, step = build("depth", loss="berhu", berhu_threshold=c), 1e-7
    target = torch.full((1, 1, 1, 1), 10.0, dtype=torch.float64)
    found = []
    for error in (c - step, c + step):
        output = (target + error).requires_grad_()
        total, _ = task.loss(output, target)
        total.backward()
        found.append((total.item(), output.grad.item()))
    assert found[0] == pytest.approx(found[1], abs=SINGLE_SUM)
    assert found[0][0] == pytest.approx(c, abs=SINGLE)
    assert found[0][1] == pytest.approx(1)


def test_silog_is_the_published_formula_per_image():
    task, output, target = make("depth", {"loss": "silog", "silog_lambda": 0.3})
    target[2] = 0
    expected = []
    for y, t in zip(output.double().numpy(), target.double().numpy(), strict=True):
        d = (y[t > 0] - np.log(t[t > 0])).ravel()
        if d.size:
            expected.append((d**2).mean() - 0.3 * d.sum() ** 2 / d.size**2)
    total, count = task.loss(output, target)
    assert int(count) == len(expected) == 5
    assert float(total) == pytest.approx(sum(expected), rel=SINGLE_SUM)


def test_silog_ignores_the_scale_at_lambda_one_only():
    for weight, same in ((1.0, True), (0.5, False)):
        task, output, target = make("depth", {"loss": "silog", "silog_lambda": weight})
        one, two = (task.loss(x.double(), target)[0] for x in (output, output + np.log(3)))
        assert torch.isclose(one, two).item() is same


@pytest.mark.parametrize(("loss", "value"), [("cosine", 1.0), ("l1", 2 / 3), ("mse", 2 / 3)])
def test_normals_losses_see_directions_only(loss, value):
    task = build("normals", loss=loss)
    a, b = torch.tensor([0.0, -1, 0]).view(1, 3, 1, 1), torch.tensor([0.0, 0, -1]).view(1, 3, 1, 1)
    for scale in (0.5, 40.0):
        total, count = task.loss(scale * a, 0.9 * b)
        assert (float(total), int(count)) == (pytest.approx(value, abs=SINGLE_SUM), 1)
        assert float(task.loss(scale * b, b)[0]) == pytest.approx(0, abs=SINGLE_SUM)


def test_the_normals_mask_keeps_vectors_whose_components_sum_to_zero():
    target = F.normalize(torch.tensor([1.0, 1, -2]).view(1, 3, 1, 1), dim=1)
    assert build("normals").loss(torch.ones(1, 3, 1, 1), target)[1] == 1


# Predictions


def test_predictions_have_the_form_of_their_target():
    for kind in KINDS:
        task, output, target = make(kind, {})
        prediction = task.predict(output.bfloat16())
        if kind == "classification":
            assert prediction.shape == output.shape
        else:
            assert (prediction.shape, prediction.dtype) == (target.shape, target.dtype)
    task, output, _ = make("classification", {})
    torch.testing.assert_close(task.predict(output).sum(1), torch.ones(6))
    task, output, _ = make("normals", {})
    torch.testing.assert_close(task.predict(1e-20 * output).norm(dim=1), torch.ones(6, 3, 5))
    assert task.predict(torch.zeros(1, 3, 1, 1)).flatten().tolist() == [0, 0, -1]


def test_predicted_depth_is_the_output_and_undoes_the_logarithm():
    output = torch.tensor([-1.0, 0, 2.5]).view(1, 1, 1, 3)
    assert torch.equal(build("depth").predict(output), output)  # clipping at 0 would make the metrics look better
    torch.testing.assert_close(build("depth", loss="silog").predict(output), output.exp())


def test_a_depth_below_0_has_the_first_colour_and_only_0_is_black():
    below, nothing, first = build("depth").picture(torch.tensor([[[-1.0, 0, 1e-6]]]))[0].tolist()
    assert below == first != nothing == [0, 0, 0]


# Constants


def score(kind, constant, target):
    """Returns the score of a constant. Lower is better, and the task's constant must be the best."""
    if kind in ("segmentation", "classification"):
        if kind == "classification":
            log_p = constant.clamp_min(1e-9).log().expand(len(target), -1)
            return F.cross_entropy(log_p, target, ignore_index=-1)
        return -((constant == target) & (target != -1)).sum().double()
    if kind == "depth":
        return (constant - target)[target > 0].abs().mean()
    if kind == "normals":
        return -(constant * target).sum()
    known = ~target.isnan()
    constant = constant.expand_as(target)
    if kind == "multilabel":
        return F.binary_cross_entropy(constant[known], target[known])
    return (constant[known] - target[known]).square().mean()


def random_constant(kind, near, g):
    if kind == "segmentation":
        return torch.randint(0, 4, (1, 1, 1), generator=g)
    moved = near + 0.1 * torch.randn(near.shape, generator=g)
    if kind == "classification":
        return moved.clamp_min(1e-3) / moved.clamp_min(1e-3).sum()
    if kind == "normals":
        return F.normalize(moved, dim=1)
    return moved.clamp(1e-3, 1 - 1e-3) if kind == "multilabel" else moved


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_constant_is_better(kind):
    task, target = build(kind), random_target(kind, count=40)
    constant, g = task.constant(target), torch.Generator().manual_seed(2)
    best = score(kind, constant, target)
    assert all(best <= score(kind, random_constant(kind, constant, g), target) + SINGLE for _ in range(100))


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_broadcasts_and_is_a_valid_prediction(kind):
    task, target = build(kind), random_target(kind, count=40)
    constant = task.constant(target)
    expanded = constant.expand_as(target) if task.dense else constant.expand(len(target), -1)
    metrics = task.metrics()
    metrics.update(expanded, target)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert np.isfinite(list(values.values())).all()
    chance = {"multilabel": ("auroc", 0.5), "regression": ("r2", 0.0)}
    if kind in chance:
        name, value = chance[kind]
        assert values[name] == pytest.approx(value, abs=SINGLE_SUM)
    if kind == "normals":
        torch.testing.assert_close(constant.norm(dim=1), torch.ones(1, 1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_targets_without_a_valid_element_have_no_constant(kind):
    target = random_target(kind)
    with pytest.raises(ValueError, match=r"task 't' has no .* in the targets"):
        build(kind).constant(torch.full_like(target, valid_outputs(kind, target)[1]))


# Errors


@pytest.mark.parametrize("kind", KINDS)
def test_loss_refuses_wrong_shapes(kind):
    task, output, target = make(kind, {})
    for x, y in ((output[:, :-1], target), (output[:2], target), (output, target[:2]), (output, target[None])):
        with pytest.raises(ValueError, match=r"task 't' expected output \(B, .* found output \("):
            task.loss(x, y)
    with pytest.raises(ValueError, match="task 't' expected"):
        task.loss(output, target.float() if target.dtype == torch.int64 else target.nan_to_num().long())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("depth", {"loss": "berhuu"}, r"t\.loss: expected .* found 'berhuu'\. Did you mean 'berhu'\?"),
        ("depth", {"berhu_threshold": 1.0}, r"t\.berhu_threshold: it belongs to loss: berhu, found loss: l1\. Leave"),
        ("depth", {"loss": "l1", "silog_lambda": 1.0}, r"t\.silog_lambda: it belongs to loss: silog, found loss: l1"),
        ("depth", {"loss": "berhu", "berhu_threshold": 0}, r"t\.berhu_threshold: expected a number > 0 .* found 0"),
        ("depth", {"loss": "silog", "silog_lambda": 1.5}, r"t\.silog_lambda: .* >= 0 and <= 1 .* found 1.5"),
        ("depth", {"max_depth": float("inf")}, r"t\.max_depth: expected a number > 0, found inf"),
        ("depth", {"max_depth": "far"}, r"t\.max_depth: expected a number > 0, found 'far'"),
        ("depth", {"classes": ("x",)}, "has no classes"),
        ("normals", {"loss": "cosin"}, "Did you mean 'cosine'"),
        ("normals", {"classes": ("x",)}, "has no classes"),
        ("multilabel", {"loss": "facal"}, "Did you mean 'focal'"),
        ("multilabel", {"gamma": 2}, r"t\.gamma: it belongs to loss: focal, found loss: bce"),
        (
            "multilabel",
            {"loss": "focal", "positive_weights": [1, 1, 1, 1]},
            r"t\.positive_weights: it belongs to loss: bce",
        ),
        ("multilabel", {"loss": "focal", "gamma": -1}, r"t\.gamma: expected a number >= 0 or null, found -1"),
        ("multilabel", {"loss": "focal", "alpha": 1}, r"t\.alpha: expected a number > 0 and < 1 or null, found 1"),
        (
            "multilabel",
            {"positive_weights": [1, 2]},
            r"weights: expected 4 numbers, one for each of a, .* found \[1.0, 2.0\]",
        ),
        (
            "segmentation",
            {"class_weights": [1, 2, 3, 0]},
            r"weights: .* > 0 .*, 3, 0\]\. To leave a class out, mark",
        ),
        (
            "segmentation",
            {"class_weights": 2.0},
            r"weights: expected a list, .*a number > 0 or null, found 2.0",
        ),
        ("segmentation", {"label_smoothing": 1.0}, r"t\.label_smoothing: expected a number >= 0 and < 1, found 1.0"),
        ("segmentation", {"classes": ()}, "needs the names of its classes"),
        ("classification", {"classes": ("x", "y", "x")}, "has 'x' more than once"),
        ("classification", {"label_smothing": 0.1}, "Did you mean 'label_smoothing'"),
        ("classification", {"label_smoothing": True}, "found True"),
        ("multilabel", {"classes": ()}, "needs the names of its classes"),
        ("regression", {"classes": ()}, "needs the names of its classes"),
        ("regression", {"loss": "ll1"}, "Did you mean 'l1'"),
    ],
)
def test_options_are_checked(kind, options, message):
    with pytest.raises(ValueError, match=message):
        build(kind, **options)


def test_the_default_decoder_is_that_of_the_constructor_or_of_the_class():
    class Guided(type(build("depth"))):
        default_decoder = MappingProxyType({"name": "conv", "width": 8})

    class Own(Guided):
        def __init__(self, name, classes=(), decoder="unet"):
            super().__init__(name, classes, decoder)

    assert own_decoder(TASKS.get("depth")) == "conv"
    assert own_decoder(TASKS.get("regression")) == "linear"
    assert Guided("t").decoder_config == {"name": "conv", "width": 8} == own_decoder(Guided)
    assert Own("t").decoder_config == {"name": own_decoder(Own)} == {"name": "unet"}
    assert Guided("t", decoder="unet").decoder_config == {"name": "unet"}


def test_options_of_a_parent_may_be_extended_and_required():
    parent = TASKS.get("depth")

    class Scaled(parent):
        @dataclass(frozen=True, kw_only=True)
        class Options(parent.Options):
            scale: float
            berhu_threshold: float | None = 2.0

    assert (Scaled("t", loss="berhu", scale=2).options.scale, parent("t").options.loss) == (2.0, "l1")
    with pytest.raises(ValueError, match=r"task\.t\.scale: missing; Scaled needs it"):
        Scaled("t")
    with pytest.raises(ValueError, match=r"task\.t\.berhu_threshold: it belongs to loss: berhu"):
        Scaled("t", scale=1)
    with pytest.raises(ValueError, match=r"task\.t\.scal: Scaled has no option 'scal'\. Did you mean 'scale'"):
        Scaled("t", scal=1)


def test_the_registry_has_the_six_tasks_and_their_channels():
    channels = {kind: build(kind).out_channels for kind in KINDS}
    assert channels == {
        "segmentation": 4,
        "depth": 1,
        "normals": 3,
        "multilabel": 4,
        "classification": 4,
        "regression": 4,
    }
    assert set(KINDS) <= set(TASKS.names())
    assert {kind for kind in KINDS if build(kind).dense} == {"segmentation", "depth", "normals"}
    assert {kind for kind in KINDS if build(kind).regression} == {"depth", "normals", "regression"}


# Pictures


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_targets_have_pictures_of_one_size(kind):
    task, output, target = make(kind, {})
    pictures = [task.picture(value) for value in (*task.predict(output), *target)]
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert len({picture.shape for picture in pictures}) == 1
    assert pictures[0].shape[2] == 3
    if task.dense:
        assert pictures[0].shape == (3, 5, 3)
        valid, _ = valid_outputs(kind, target)
        for i in range(6):
            black = (pictures[6 + i] == 0).all(2)
            assert (black == ~valid[i, 0].numpy()).all()


def test_segmentation_colours_are_distinct_and_none_is_void():
    task = build("segmentation", classes=[f"c{i}" for i in range(60)])
    colours = {tuple(c) for c in task.picture(torch.arange(60)[None])[0]}
    assert len(colours) == 60
    assert (0, 0, 0) not in colours


def test_normals_colours_follow_the_axes():
    right, up, camera = (
        build("normals").picture(torch.tensor(n).view(3, 1, 1))[0, 0].tolist()
        for n in ([1.0, 0, 0], [0.0, -1, 0], [0.0, 0, -1])
    )
    assert [right[0], up[1], camera[2]] == [255, 255, 255]


def test_depth_colours_are_fixed_by_max_depth():
    near, far = (build("depth", max_depth=m) for m in (5.0, 10.0))
    half, full = torch.full((1, 1, 1), 2.5), torch.full((1, 1, 1), 5.0)
    assert (near.picture(half) == far.picture(full)).all()
    assert (near.picture(full) == near.picture(2 * full)).all()
    assert (near.picture(half) != far.picture(half)).any()


def test_bars_grow_with_the_value_and_unknown_ones_are_grey():
    task = build("multilabel")
    picture = task.picture(torch.tensor([0.0, 0.4, 0.8, torch.nan]))
    rows = picture.reshape(4, 18, *picture.shape[1:])
    blue = ((rows == (31, 119, 180)).all(-1)).sum((1, 2))
    assert blue[0] < blue[1] < blue[2]
    colours = rows[3].reshape(-1, 3)
    assert (colours == colours[:, :1]).all()  # grey: all channels are equal


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_a_diverged_prediction_has_a_picture(kind, garbage):
    task, output, _ = make(kind, {})
    if kind != "segmentation":
        prediction = torch.full_like(task.predict(output)[0], garbage)
        assert task.picture(prediction).dtype == np.uint8


# Indicators

SUCCESS = {
    "segmentation": "pixel_accuracy",
    "classification": "accuracy",
    "depth": "delta1",
    "normals": "within_30",
    "multilabel": "accuracy",
}


def half_right(kind, options):
    """Returns (task, output, target). The output is right at about half of the elements."""
    task, output, target = make(kind, options, count=20)
    g = torch.Generator().manual_seed(3)
    if kind in ("segmentation", "classification"):
        labels = F.one_hot(target.clamp_min(0), task.out_channels).movedim(-1, 1).float()
        return task, output + labels, target
    if kind == "depth":
        factor = torch.empty(target.shape).uniform_(0.6, 1.6, generator=g)
        output = target.clamp_min(1) * factor
        return task, output.log() if options.get("loss") == "silog" else output, target
    if kind == "normals":
        return task, 3 * (target + 0.4 * output), target
    return task, output + target.nan_to_num() - 0.5, target


@variants
def test_the_indicator_is_a_metric_of_success_on_the_batch(kind, options):
    task, output, target = half_right(kind, options)
    found = task.indicator(output.requires_grad_(), target)
    if kind not in SUCCESS:
        assert found is None
        return
    right, count = found
    metrics = task.metrics()
    metrics.update(task.predict(output.detach()), target)
    assert not right.requires_grad
    assert right.shape == count.shape == ()
    assert 0 < right < count
    assert float(right / count) == pytest.approx(float(metrics.compute()[SUCCESS[kind]]), abs=SOLVED)


@pytest.mark.parametrize("kind", SUCCESS)
def test_indicators_count_valid_elements_only(kind):
    task, output, target = half_right(kind, {})
    valid, invalid = valid_outputs(kind, target)
    right, count = task.indicator(output, target)
    assert count == valid.sum()
    for garbage in (torch.nan, torch.inf, 0.0):
        assert task.indicator(torch.where(valid, output, garbage), target) == (right, count)
    parts = [task.indicator(output[i:j], target[i:j]) for i, j in ((0, 1), (1, 20))]
    assert [sum(part) for part in zip(*parts, strict=True)] == [right, count]
    assert task.indicator(output, torch.full_like(target, invalid)) == (0, 0)
    if kind in ("depth", "normals"):
        assert task.indicator(output, torch.where(valid, target, torch.nan)) == (right, count)


def test_normals_as_published_count_as_much_as_they_are_long() -> None:
    """By hand: a target of half the length gives 1 - 0.5 a.b. A target is invalid only if its components sum to 0."""
    target = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -0.5], [0.3, 0.0, -0.3], [0.0, 0.0, 0.0]]).T.view(1, 3, 1, 4)
    output = torch.tensor([0.0, 0.0, -1e4]).view(1, 3, 1, 1).expand(1, 3, 1, 4)
    total, count = TASKS.build("normals", "n", compat="mtan").loss(output, target)
    assert (float(total), int(count)) == (pytest.approx(0 + 0.5), 2)
    total, count = TASKS.build("normals", "n").loss(output, target)
    assert (float(total), int(count)) == (pytest.approx(0, abs=1e-6), 1)  # a vector must be longer than 0.5
