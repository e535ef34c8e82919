"""The promise about what a task gives to the page of a run."""

import re

import torch
from torch import Tensor

from mtlkit.legend import Classes, Scale
from mtlkit.testing.cases import Case
from mtlkit.testing.promises import assert_close


def shown(case: Case) -> None:
    """Checks the hooks that may be None: `legend`, `errors`, `numbers`, `chances`, and `confusion` of a metric."""
    guess = case.task.predict(case.output)
    _legend(case)
    _errors(case, guess)
    _numbers(case, guess)
    _chances(case, guess)
    _confusion(case, guess)


def _legend(case: Case) -> None:
    found = case.task.legend()
    if found is None or isinstance(found, str):
        return
    assert isinstance(found, Classes | Scale), (
        f"`legend` gives {type(found).__name__}, not a Classes, a Scale or a text"
    )
    colours = found.colours if isinstance(found, Scale) else [colour for _, colour in found.colours]
    wrong = [colour for colour in colours if not re.fullmatch("#[0-9a-f]{6}", colour)]
    assert colours, "the legend has no colours"
    assert not wrong, f"the legend has the colour {wrong[:1]}, not one such as #20a0ff"
    assert not isinstance(found, Scale) or found.low < found.high, "the scale of the legend ends where it begins"


def _errors(case: Case, guess: Tensor) -> None:
    found = case.task.errors(guess[0].cpu(), case.target[0].cpu())
    if found is None:
        return
    assert case.task.dense, "only a dense task has errors of pixels"
    size = case.task.map_size(case.target)
    assert tuple(found.errors.shape) == size, f"the errors have the shape {tuple(found.errors.shape)}, not {size}"
    known = ~found.errors.isnan()
    valid = case.kind.valid(case.target[0].cpu())
    valid = valid.reshape(-1, *valid.shape[-2:]).any(0)
    assert torch.equal(known, valid), "the errors are not NaN exactly where the target is unknown"
    assert (found.errors[known] >= 0).all(), "an error is below 0"
    nothing = case.task.errors(guess[0].cpu(), case.unknown[0].cpu())
    assert nothing is not None, "there are no errors where the target is unknown: return NaN"
    assert nothing.errors.isnan().all(), "there are errors where nothing is known"


def _numbers(case: Case, guess: Tensor) -> None:
    values = [case.task.numbers(one[0].cpu()) for one in (guess, case.target, case.unknown)]
    if values[0] is None:
        return
    for word, value in zip(("prediction", "target", "unknown target"), values, strict=True):
        assert value is not None, f"there are numbers of a prediction, and none of a {word}"
        form, expected = tuple(value.shape), (len(case.task.classes),)
        assert form == expected, f"the numbers of a {word} have the shape {form}, not {expected}"
    assert values[2] is not None, "see above"
    assert values[2].isnan().all(), "the numbers of an unknown target are not NaN"


def _chances(case: Case, guess: Tensor) -> None:
    found = case.task.chances(guess, case.target)
    if found is None:
        return
    probability, outcome = found.probability, found.outcome.to(found.probability.dtype)
    assert probability.ndim == 1, f"the probabilities have the shape {tuple(probability.shape)}, not (N,)"
    assert outcome.shape == probability.shape, "there is not one outcome for each probability"
    assert ((probability >= 0) & (probability <= 1)).all(), "a probability is not from 0 to 1"
    assert ((outcome == 0) | (outcome == 1)).all(), "an outcome is neither 0 nor 1"
    nothing = case.task.chances(guess, case.unknown)
    assert nothing is not None, "there are no chances where nothing is known: return empty tensors"
    assert not len(nothing.probability), f"{len(nothing.probability)} probabilities count where nothing is known"


def _confusion(case: Case, guess: Tensor) -> None:
    for key, metric in case.metrics().items():
        confusion = getattr(metric, "confusion", None)
        if confusion is not None:
            metric.update(guess, case.target)
            counts, classes = confusion(), len(case.task.classes)
            expected = (classes, classes)
            assert counts.shape == expected, (
                f"`confusion` of {key!r} has the shape {tuple(counts.shape)}, not {expected}"
            )
            assert counts.dtype == torch.int64, f"`confusion` of {key!r} is {counts.dtype}, not int64"
            occurs = case.kind.counts(case.target)
            if occurs is not None:
                assert_close(counts.sum(1), occurs[0], f"the rows of `confusion` of {key!r} are not the targets")
