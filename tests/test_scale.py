"""Gradients of any size that float32 can hold: their squares are never lost, although float32 cannot hold them."""

import pytest
import torch

from mtlkit import BALANCERS
from mtlkit.balancer import Balancer
from mtlkit.gradients import inner_products, weighted_sum

CASES = [(name, space) for name in BALANCERS.names() for space in BALANCERS.get(name).spaces]
# By definition, a common scale of the losses matters beside a penalty or another loss.
OWN_SCALE = {"adversarial", "cosreg"}


def scaled(toys, name, space, factors):
    options = {"space": space} if len(BALANCERS.get(name).spaces) > 1 else {}
    return with_scales(toys.make_engine(name, options=options, precision="fp32"), factors)


def with_scales(engine, factors):
    for task, factor in zip(engine.tasks.values(), factors, strict=True):
        loss = task.loss
        task.loss = lambda output, target, loss=loss, f=factor: (loss(output, target)[0] * f, loss(output, target)[1])
    engine._update = lambda *_: None
    return engine


def encoder_gradient(engine):
    return torch.cat([p.grad.double().flatten() for p in engine.network.encoder.parameters()])


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize(("name", "space"), CASES)
def test_the_scale_of_all_losses_does_not_turn_the_encoders_gradient(toys, name, space, factor):
    found = []
    for scale in (1.0, factor):
        engine = scaled(toys, name, space, (scale,) * 3)
        engine.train_step(toys.make_batch())
        gradient = encoder_gradient(engine)
        assert torch.isfinite(gradient).all()
        assert gradient.any()
        found.append(gradient / gradient.norm())
    if name not in OWN_SCALE:
        # 3e-5: float32's 6e-8, times 100 for sums, and TorchJD's own threshold on lengths.
        assert found[0] @ found[1] > 1 - 3e-5


class Reader(Balancer):
    """Keeps the Gram matrices of a step."""

    needs = frozenset({"gram", "second_batch"})
    spaces = ("features", "last_layer", "parameters")

    def combine(self, step):
        self.gram = step.gram
        self.cross = step.cross_gram if self.space == "parameters" else None
        return super().combine(step)


class Differentiable(Balancer):
    """Keeps the Gram matrices before the backward pass."""

    needs = frozenset({"create_graph"})
    spaces = ("features", "last_layer")

    def objective(self, step):
        self.gram, self.cross = step.gram.detach(), None
        return super().objective(step)


@pytest.mark.parametrize(("cls", "space"), [(cls, space) for cls in (Reader, Differentiable) for space in cls.spaces])
def test_gram_matrices_of_tasks_of_every_size_are_those_of_float64(toys, cls, space):
    factors, found = (1e-25, 1.0, 1e25), []
    for precision in ("fp32", "fp64"):
        engine = with_scales(toys.make_engine(cls(toys.TASK_NAMES, space=space), precision=precision), factors)
        engine.train_step(toys.make_batch())
        found.append((engine.balancer.gram, engine.balancer.cross))
    for single, double in zip(*found, strict=True):
        if double is not None:
            lengths = double.diagonal().abs().sqrt()
            # 1e-4: some hundred float32 roundings with a margin. Relative to the lengths, because products may cancel.
            assert ((single - double) / lengths / lengths[:, None]).abs().max() < 1e-4
            assert single.abs().min() > 0


@pytest.mark.parametrize("n", [1, 5, 2**18 + 3])
def test_inner_products_equal_those_in_float64_block_by_block(n):
    g = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1e-37, 1e-30, 1.0, 1e30, 1e37, 0.0])[:, None]
    rows = (torch.randn(6, n, generator=g).clamp(-3, 3) * sizes).unbind()
    whole = torch.stack(rows).double()
    expected, lengths = whole @ whole.T, whole.norm(dim=1).clamp_min(1e-300)
    for found in (inner_products(rows), inner_products(rows, rows)):
        assert ((found - expected) / lengths / lengths[:, None]).abs().max() < 1e-5  # sums of n roundings of 6e-8
    assert inner_products([row[:0] for row in rows]).tolist() == [[0.0] * 6] * 6


def test_products_with_powers_of_two_are_exact():
    rows = [torch.tensor([2.0**-120, -(2.0**-121)]), torch.tensor([2.0**100, 2.0**101])]
    assert inner_products(rows).tolist() == [[1.25 * 2.0**-240, 0.0], [0.0, 5 * 2.0**200]]


def test_weights_beyond_float32_meet_gradients_that_bring_them_back():
    rows = [torch.tensor([1e-30, 2e-30]), None, torch.tensor([1e30, 0.0])]
    weights = torch.tensor([3e40, 1.0, 2e-40], dtype=torch.float64)
    found = weighted_sum(rows, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([3e10 + 2e-10, 6e10]), rtol=3e-7, atol=0)  # two roundings of 6e-8
    assert weighted_sum([None, None], weights[:2]) is None
