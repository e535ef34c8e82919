"""The tap: the values that foreign balancers may return, and the levels of an encoder."""

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SMALL

from mtlkit.balancer import Balancer, GramBalancer
from mtlkit.step import Step


class Elementwise(Balancer):
    """Keeps an element of the sum only where all tasks agree on its sign. So it returns gradients, not weights."""

    def combine(self, step):
        levels = []
        for level in zip(*step.local_gradients, strict=True):
            stacked = torch.stack([g for g in level if g is not None])
            levels.append(stacked.sum(0) * (stacked.sign().sum(0).abs() == len(stacked)))
        return levels


class Wrong(GramBalancer):
    """Returns one weight too many."""

    def weights(self, gram):
        return gram.new_ones(len(gram) + 1)


def test_a_balancer_may_return_the_gradient_itself(toys):
    batch = toys.make_batch()
    engine, plain = toys.make_engine(Elementwise(toys.TASK_NAMES)), toys.make_engine()
    for e in (engine, plain):
        e._update = lambda *_: None
    step = engine.train_step(batch)
    plain.train_step(batch)
    assert step.weights is None
    found, whole = engine.network.encoder.second.weight.grad, plain.network.encoder.second.weight.grad
    assert 0 < found.norm() < whole.norm() * 2
    assert not torch.equal(found, whole)
    for name in toys.TASK_NAMES:  # decoders are not affected
        for a, b in zip(
            engine.network.decoders[name].parameters(), plain.network.decoders[name].parameters(), strict=True
        ):
            torch.testing.assert_close(a.grad, b.grad)
    weighted = toys.make_engine(Elementwise(toys.TASK_NAMES), decoder_gradients="weighted")
    with pytest.raises(ValueError, match="combines gradients without weights"):
        weighted.train_step(batch)


def test_wrong_weights_are_refused_with_the_balancers_name(toys):
    engine = toys.make_engine(Wrong(toys.TASK_NAMES))
    with pytest.raises(
        ValueError, match=r"Wrong.weights must give a weight for each of .*depth.*, got the shape \(4,\)"
    ):
        engine.train_step(toys.make_batch())


def test_the_gram_matrix_is_that_of_partial_derivatives_at_the_features(toys):
    """The path from the finer level to the coarser one is not counted twice."""
    engine = toys.make_engine("rotograd", options={"rotate_only": True, "lr": 0.0})
    engine._update = lambda *_: None
    batch = toys.make_batch()
    step = engine.train_step(batch)
    image, targets = engine.prepare(batch)
    rows = []
    for name, task in engine.tasks.items():
        with torch.no_grad():
            levels = engine.network.encoder(image)
        levels = [level.requires_grad_() for level in levels]  # separate, with no path from one level to another
        features = engine.balancer.adapter(name, levels)
        output = engine.network.decoders[name](features)
        if task.dense:
            output = torch.nn.functional.interpolate(output, targets[name].shape[-2:], mode="bilinear")
        total, count = task.loss(output, targets[name])
        gradients = torch.autograd.grad(total / count, levels, allow_unused=True)
        rows.append(torch.cat([(x * 0 if g is None else g).flatten() for g, x in zip(gradients, levels, strict=True)]))
    stacked = torch.stack(rows)
    torch.testing.assert_close(step.gram, stacked @ stacked.T, rtol=NETWORK, atol=SMALL)


def test_a_common_scale_of_the_losses_scales_the_gram_matrix_and_nothing_else(toys):
    batch, grams = toys.make_batch(), []
    for factor in (1.0, 1e-8):
        engine = toys.make_engine("rotograd")
        for task in engine.tasks.values():
            loss = task.loss
            task.loss = lambda output, target, loss=loss, f=factor: (
                loss(output, target)[0] * f,
                loss(output, target)[1],
            )
        step = engine.train_step(batch)
        grams.append(step.gram / factor**2)
        weights = step.weights
    torch.testing.assert_close(grams[0], grams[1], rtol=NETWORK, atol=0)
    assert torch.isfinite(weights).all()


def test_a_step_outside_of_a_pass_names_what_it_does_not_know():
    class Reader(Balancer):
        needs = frozenset({"indicators"})

    step = Step(Reader(("a",)))
    with pytest.raises(ValueError, match=r"indicators.* is not known here. Read it in `objective`"):
        _ = step.indicators
    with pytest.raises(ValueError, match=r"local_gradients.* is not known here. Read it in `combine`"):
        _ = step.local_gradients
    step.note("key", 1)
    assert (step.noted("key"), step.noted("other")) == ([1], [])


@pytest.mark.parametrize("space", ["features", "last_layer", "parameters"])
def test_the_gram_matrix_does_not_depend_on_the_loss_scale(toys, space):
    class Reader(Balancer):
        needs, spaces = frozenset({"gram"}), ("features", "last_layer", "parameters")

        def combine(self, step):
            seen.append(step.gram)
            return super().combine(step)

    seen = []
    for scale in (1.0, 2.0**10):
        engine = toys.make_engine(Reader(toys.TASK_NAMES, space=space))
        backward = engine.accelerator.backward
        engine.accelerator.backward = lambda loss, backward=backward, scale=scale: backward(loss * scale)
        engine.train_step(toys.make_batch())
    torch.testing.assert_close(seen[1], seen[0], rtol=ROUNDING, atol=0)
