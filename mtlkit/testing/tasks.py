"""The contract of a task, as checks that authors run on their own tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mtlkit.engine.evaluation import spread_constant
from mtlkit.testing.cases import HEIGHT, SAMPLES, Case, make_case
from mtlkit.testing.promises import assert_close, chosen, keep
from mtlkit.testing.shown import shown

SUM = 1e-9  #: relative error of sums of about a thousand numbers in float64, times a thousand
FIGURE = 1e-5  #: relative error of metrics, which may add in float32


def check_task(name: str, *, only: Sequence[str] = (), device: str = "cpu", **options: Any) -> None:
    """Tries the task on random outputs and targets and checks the promises of every task.

    - `loss_is_a_sum`: the loss is (sum, count), two scalars, and the sum has a gradient.
    - `parts_add_up`: the sums and counts of parts of a batch add up to those of the batch.
    - `nothing_valid`: a batch without labels has the loss (0, 0) and a gradient of zero, not infinite and not NaN.
    - `unknown_elements`: outputs where the target is unknown change neither the loss nor the other gradients.
    - `half_precision`: outputs in bfloat16 are summed in float32.
    - `extreme_outputs`: loss and gradient are finite for outputs of 0, of 1e-30 and of 1e3.
    - `prediction`: `predict` gives one prediction per sample; `picture` draws it and its target, (H, W, 3) uint8.
    - `constant`: the constant broadcasts to the shape of a prediction, and the metrics accept it.
    - `metrics_pool`: two halves of a split give the figures of the whole. A batch without labels changes no figure, and
      alone it gives NaN. Each metric has `higher_is_better`: True, False, or None for neither.
    - `shown`: the hooks for the page of a run (`legend`, `errors`, `numbers`, `chances`, `confusion` of a metric) are
      None, or have the right form and leave out what is unknown.
    - `indicator`: it is None, or the number of right elements and the number of known ones. It has no gradient, and
      parts of a batch add up.

    The targets are examples of the kind that the task `learns` (`Kind.example`). Without the option `classes`, there
    are the three classes a, b and c, or none for a task that declares `named = False`.

    Args:
        only: the promises to check (empty: all of them).
        device: where outputs and targets are, such as `cuda`.
        options: those of the task.

    Raises `AssertionError` with the name of the broken promise. Raises `LookupError` or `ValueError` for an unknown
    task, kind, option or promise.

    >>> check_task("depth", loss="berhu")
    """
    promises, case = chosen(PROMISES, only), make_case(name, options, device)
    keep(name, promises, case)


def loss_is_a_sum(case: Case) -> None:
    total, count, gradient = case.loss(case.output, case.target)
    assert count > 0, f"the count is {float(count):g} though the batch has labels"
    assert total.isfinite(), f"the sum is {float(total):g}"
    assert gradient.isfinite().all(), "the gradient is not finite for random outputs"
    assert gradient.any(), "the gradient is zero everywhere for random outputs, so nothing would be learned"


def parts_add_up(case: Case) -> None:
    whole = case.task.loss(case.output.double(), case.target)
    parts = [case.task.loss(o.double(), t) for o, t in (case.rows(0, 1), case.rows(1, 2), case.rows(2, SAMPLES))]
    for i, word in enumerate(("sum", "count")):
        added = torch.stack([part[i].detach().double() for part in parts]).sum()
        what = f"the {word} of a batch is {float(whole[i]):g}, those of its parts add up to {float(added):g}"
        assert_close(whole[i].detach(), added, what, SUM)


def nothing_valid(case: Case) -> None:
    total, count, gradient = case.loss(case.output, case.unknown)
    assert (float(total), float(count)) == (0, 0), f"the loss is ({float(total):g}, {float(count):g})"
    assert not gradient.any(), f"the gradient is up to {float(gradient.abs().max()):.1e}"


def unknown_elements(case: Case) -> None:
    """Checks unknown samples, unknown pixels and, where the output has the target's shape, unknown single numbers."""
    target = case.target.clone()
    target[0] = case.unknown[0]
    valid, output = case.kind.valid(target), case.output
    known = valid.reshape(SAMPLES, -1).any(1).view(-1, *[1] * (output.ndim - 1)).expand_as(output)
    if case.kind.map_size(target) is not None:
        known = valid.reshape(SAMPLES, -1, *output.shape[-2:]).any(1, keepdim=True).expand_as(output)
    elif valid.shape == output.shape:
        known = valid
    total, count, gradient = case.loss(output, target)
    assert not gradient[~known].any(), f"a gradient of {float(gradient[~known].abs().max()):.1e} reaches unknown ones"
    for size in (0.0, 1e3):
        other = case.loss(torch.where(known, output, size * output.sign()), target)
        assert_close(total, other[0], f"the sum changes with outputs of {size:g} where nothing is known")
        assert_close(count, other[1], f"the count changes with outputs of {size:g} where nothing is known")
        assert_close(gradient, other[2], f"the gradient changes with outputs of {size:g} where nothing is known")


def half_precision(case: Case) -> None:
    half = case.output.bfloat16()
    (total, count, _), (expected, _, _) = case.loss(half, case.target), case.loss(half.float(), case.target)
    assert total.dtype == torch.float32, f"the sum is {total.dtype}: write output.float() before summing"
    assert count.dtype != torch.bfloat16, "the count is bfloat16, which cannot distinguish 256 from 257"
    what = f"the sum for outputs in bfloat16 is {float(total):g}, for the same numbers in float32 {float(expected):g}"
    assert_close(total, expected, what, FIGURE)


def extreme_outputs(case: Case) -> None:
    for size in (0.0, 1e-30, 1e3):
        total, _, gradient = case.loss(size * case.output, case.target)
        wrong = int((~gradient.isfinite()).sum())
        assert total.isfinite(), f"the sum is {float(total):g} for outputs of about {size:g}"
        assert not wrong, f"{wrong} of {gradient.numel()} gradients are not finite for outputs of about {size:g}"


def prediction(case: Case) -> None:
    found, constant = case.task.predict(case.output), case.constant()
    form = spread_constant(case.task, constant, case.target).shape
    assert isinstance(found, Tensor), f"`predict` gives {type(found).__name__}, not a tensor"
    assert found.shape == form, f"`predict` gives the shape {tuple(found.shape)}, `constant` spreads to {tuple(form)}"
    size = case.kind.map_size(case.target)
    if size is not None:  # a large map is predicted in strips
        rows = torch.cat([case.task.predict(part) for part in case.output.split([1, HEIGHT - 1], dim=-2)], dim=-2)
        assert_close(rows, found, "the prediction of a pixel depends on the outputs of other rows")
    for word, value in (("prediction", found[0]), ("target", case.target[0]), ("unknown target", case.unknown[0])):
        picture = case.task.picture(value.cpu())
        fits = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)
        found_as = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        assert fits, f"the picture of a {word} is {found_as}, not uint8 (H, W, 3)"
        assert size is None or picture.shape[:2] == size, f"the picture of a {word} has the size {picture.shape[:2]}"


def constant(case: Case) -> None:
    found = case.task.constant(case.target.cpu())
    assert isinstance(found, Tensor), f"`constant` gives {type(found).__name__}, not a tensor"
    assert len(found) == 1, f"`constant` gives the shape {tuple(found.shape)}, not one prediction (1, ...)"
    figures = _figures(case, [(spread_constant(case.task, case.constant(), case.target), case.target)])
    assert any(bool(figure.isfinite()) for figure in figures.values()), "every figure of the constant is NaN"


def metrics_pool(case: Case) -> None:
    _check_directions(case.task.metrics())
    guess, half = case.task.predict(case.output), SAMPLES // 2
    _check_classes(case, guess)
    whole = _figures(case, [(guess, case.target)])
    halves = _figures(case, [(guess[:half], case.target[:half]), (guess[half:], case.target[half:])])
    padded = _figures(case, [(guess, case.target), (guess, case.unknown)])
    empty = _figures(case, [(guess, case.unknown)])
    directions = {key: metric.higher_is_better for key, metric in case.task.metrics().items()}
    for key, figure in whole.items():
        assert figure.shape == (), f"the figure {key!r} has the shape {tuple(figure.shape)}, not ()"
        assert_close(figure, halves[key], f"{key!r} over two halves differs from the whole", FIGURE)
        assert_close(figure, padded[key], f"{key!r} changes with a batch without labels", FIGURE)
        if directions[key] is not None:
            assert empty[key].isnan(), f"{key!r} is {float(empty[key]):g} where nothing is known, not NaN"


def indicator(case: Case) -> None:
    found = case.task.indicator(case.output.clone().requires_grad_(), case.target)
    if found is None:
        return
    assert isinstance(found, tuple), f"`indicator` gives {type(found).__name__}, not (right, count) or None"
    right, count = found
    assert right.shape == count.shape == (), "`indicator` must give two scalars"
    assert not right.requires_grad, "the number of right elements has a gradient: write output.detach()"
    assert count > 0, f"the count is {float(count):g} though the batch has labels"
    assert 0 <= right <= count, f"{float(right):g} of {float(count):g} known elements are right"
    parts = [case.task.indicator(*case.rows(0, 1)), case.task.indicator(*case.rows(1, SAMPLES))]
    added = torch.stack([torch.stack([value.double() for value in part]) for part in parts if part is not None]).sum(0)
    assert_close(torch.stack([right.double(), count.double()]), added, "the parts of a batch do not add up", SUM)
    nothing = case.task.indicator(case.output, case.unknown)
    counted = torch.inf if nothing is None else float(nothing[1])
    assert counted == 0, f"{counted:g} elements are counted where nothing is known"


PROMISES = (
    loss_is_a_sum,
    parts_add_up,
    nothing_valid,
    unknown_elements,
    half_precision,
    extreme_outputs,
    prediction,
    constant,
    metrics_pool,
    shown,
    indicator,
)


def _check_directions(metrics: MetricCollection) -> None:
    assert isinstance(metrics, MetricCollection), f"`metrics` gives {type(metrics).__name__}, not a MetricCollection"
    for key, metric in metrics.items():
        owners = type(metric).__mro__[: type(metric).__mro__.index(Metric)]
        told = any("higher_is_better" in vars(cls) for cls in owners)
        assert told, (
            f"{type(metric).__name__} ({key!r}) does not say `higher_is_better`: True, False, or None for neither"
        )
        assert isinstance(getattr(metric, "unit", ""), str), f"the unit of {key!r} is not a text"
        assert "/" not in key, f"the metric {key!r} has a slash in its name, as only figures of single classes have"


def _check_classes(case: Case, guess: Tensor) -> None:
    """Checks the figures of single classes, where a metric has them."""
    for key, metric in case.metrics().items():
        per_class = getattr(metric, "per_class", None)
        if per_class is not None:
            metric.update(guess, case.target)
            for name, values in per_class().items():
                form, expected = tuple(values.shape), (len(case.task.classes),)
                assert form == expected, f"{name!r} of `per_class` of {key!r} has the shape {form}, not {expected}"


def _figures(case: Case, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    metrics = case.metrics()
    for guess, target in batches:
        metrics.update(guess, target)
    return {key: torch.as_tensor(value) for key, value in metrics.compute().items()}
