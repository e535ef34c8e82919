"""Numbers worked out by hand, for cases that no formula covers, and for faults that tests once missed."""

import math
import sys
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from mtlkit.balancer import Balancer
from mtlkit.engine import losses
from mtlkit.engine.losses import FirstLosses, loss_of
from mtlkit.run import checkpoint
from mtlkit.sample_group import SampleGroup
from mtlkit.state import Kept, per_task

sys.path.insert(0, str(Path(__file__).parent))
from tolerances import ROUNDING


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_resumed_run_divides_by_the_first_losses_of_the_run(toys, tmp_path):
    def engine():
        return toys.make_engine(normalize_losses=2, optimizer="sgd", momentum=0.0)

    whole, second = engine(), engine()
    for number in range(3):
        whole.train_step(toys.make_batch(number))
    checkpoint.save_checkpoint(whole, tmp_path / "saved")
    checkpoint.load_checkpoint(second, tmp_path / "saved")
    one, two = (e.train_step(toys.make_batch(3)) for e in (whole, second))
    assert torch.equal(one.losses, two.losses)
    raw = float64(*one.raw_losses.values())
    assert (one.losses - raw).abs().min() > 1e-3  # the divisors are not 1
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_losses_are_divided_by():
    assert FirstLosses().scale("a", 5.0, number=0) == 1  # by default, losses are not divided
    first = FirstLosses(steps=2)
    assert [first.scale("a", loss, number) for number, loss in enumerate((2.0, 4.0, 9.0))] == [2, 3, 3]
    assert first.scale("late", 7.0, number=5) == 7
    assert first.scale("zero", 0.0, number=5) == 1  # a loss of zero divides nothing
    again = FirstLosses(steps=2, again=5)
    losses = enumerate((2.0, 4.0, 9.0, 9.0, 9.0, 1.0, 2.0, 9.0))
    assert [again.scale("a", loss, number) for number, loss in losses] == [2, 3, 3, 3, 3, 1, 1.5, 1.5]


class Counting(Balancer):
    """Keeps a number that grows by 3, and learns a number whose gradient is 5, in every micro-batch."""

    def __init__(self, tasks):
        super().__init__(tasks, lr=0.0)
        self.number = per_task(tasks, torch.zeros(()))
        self.learned = per_task(tasks, torch.zeros(()), learned=True)
        self.gradients = []

    def combine(self, step):
        for task in step.tasks:
            step.add_change(self.number[task], torch.tensor(3.0))
            step.add_gradient(self.learned[task], torch.tensor(5.0))
        return super().combine(step)

    def after_model(self, step):
        self.gradients += [float(self.learned[task].grad) for task in self.tasks]


@pytest.mark.parametrize("scale", [None, 2.0**10])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_neither_a_loss_scale_nor_accumulation_is_left_in_what_a_balancer_adds(toys, scale, accumulation):
    engine = toys.make_engine(Counting(toys.TASK_NAMES), precision="fp32", accumulation=accumulation)
    if scale is not None:
        scaler = engine.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        engine.optimizer = AcceleratedOptimizer(engine.optimizer.optimizer, device_placement=False, scaler=scaler)
    for number in range(accumulation):
        engine.train_step(toys.make_batch(number))
    assert engine.step == 1
    # Powers of two and small whole numbers are exact.
    assert [float(number) for number in engine.balancer.number.values()] == [3.0] * 3
    assert engine.balancer.gradients == [5.0] * 3


@pytest.mark.parametrize("loss", [0.0, -2.0])
def test_a_first_loss_that_is_not_positive_divides_nothing(loss):
    assert FirstLosses(steps=1).scale("a", loss, number=0) == 1


@pytest.mark.parametrize("valid", [0.0, 0.5, 1.0])
def test_a_sum_without_gradient_is_a_mistake_wherever_something_is_valid(toys, valid):
    task, output = toys.make_tasks()["depth"], torch.ones(2, requires_grad=True)
    task.loss = lambda output, target: (output.detach().sum(), torch.tensor(valid))
    if valid == 0:
        assert loss_of(task, output, output)[1] == 0
    else:
        with pytest.raises(ValueError, match=r"^Depth\.loss of task 'depth' must return .* no gradient"):
            loss_of(task, output, output)


@pytest.mark.parametrize("found", [torch.ones(2), {"sum": 1, "number": 2}, [1.0]])
def test_a_loss_is_a_pair(toys, found):
    task = toys.make_tasks()["depth"]
    task.loss = lambda output, target: found
    with pytest.raises(ValueError, match=r"^Depth\.loss of task 'depth' must return .* the sum and the number"):
        loss_of(task, torch.ones(2), torch.ones(2))


class Looks(Balancer):
    """Plain summing that keeps the losses of the batch after the step."""

    needs = frozenset({"second_forward"})

    def after_model(self, step):
        self.after = step.losses_after


def test_losses_divided_by_their_first_value_in_gradients_and_after_the_step(toys):
    plain, divided = (
        toys.make_engine(Looks(toys.TASK_NAMES), normalize_losses=n, optimizer="sgd", momentum=0.0, lr=1e-12)
        for n in (0, 1)
    )
    grads = []
    for engine in (plain, divided):
        update, kept = engine._update, {}

        def look(one, again, engine=engine, update=update, kept=kept):
            kept.update({n: p.grad.clone() for n, p in engine.network.decoders.named_parameters()})
            update(one, again)

        engine._update = look
        step = engine.train_step(toys.make_batch())
        grads.append(kept)
    assert min(abs(loss - 1) for loss in step.raw_losses.values()) > 0.01
    for key, gradient in grads[0].items():
        first = step.raw_losses[key.split(".")[0]]
        torch.testing.assert_close(grads[1][key], gradient / first)
    torch.testing.assert_close(divided.balancer.after, torch.ones(3, dtype=torch.float64))  # nothing has moved


@pytest.mark.parametrize("words", ["derivative for aten::x is not implemented", "trying to differentiate twice a node"])
def test_a_missing_double_backward_is_said_in_words(toys, words):
    class Needs(Balancer):
        needs = frozenset({"create_graph"})

        def objective(self, step):
            raise RuntimeError(words)

    with pytest.raises(ValueError, match="Needs needs a double backward that a layer of this model does not have"):
        toys.make_engine(Needs(toys.TASK_NAMES)).train_step(toys.make_batch())


class Features(Balancer):
    """Plain summing that keeps the gradients at the features, in either space."""

    spaces = ("features", "parameters")

    def combine(self, step):
        self.seen = [[g if g is None else g.clone() for g in row] for row in step.local_gradients]
        return super().combine(step)


def test_the_gradients_at_the_features_are_the_same_in_the_space_of_the_parameters(toys):
    seen = []
    for space in ("features", "parameters"):
        engine = toys.make_engine(Features(toys.TASK_NAMES, space=space))
        engine.train_step(toys.make_batch())
        seen.append(engine.balancer.seen)
    for one, two in zip(*seen, strict=True):
        for a, b in zip(one, two, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


class Gives(Balancer):
    """Plain summing that computes the sum itself."""

    def combine(self, step):
        return [sum(g for g in level if g is not None) for level in zip(*step.local_gradients, strict=True)]


def test_a_gradient_that_a_balancer_gives_counts_like_any_other_with_accumulation(toys):
    found = []
    for balancer in (Gives(toys.TASK_NAMES), "uniform"):
        engine = toys.make_engine(balancer, accumulation=2)
        engine._update = lambda *_: None
        for number in range(2):
            engine.train_step(toys.make_batch(number))
        found.append([p.grad for p in engine.network.encoder.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("share", [1e-9, 0.1, 1 / 3, 0.7, 1e6])
def test_a_loss_has_the_same_value_on_every_process(share: float) -> None:
    """The value is equal to the last bit on all processes, because each process computes weights from it."""

    class Three(SampleGroup):
        size = 3

        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.7], [3.0]], dtype=torch.float64)

    mine = torch.tensor(share, dtype=torch.float64, requires_grad=True)
    means = losses.LossMeans({"a": (mine, torch.tensor(1.0))}, {"a": mine}, FirstLosses(), 0, Three())
    (mean,) = means.means()
    assert mean.item() == means.values.item() == 0.7 / 3
    mean.backward()
    assert mine.grad is not None
    assert mine.grad.item() == 1.0  # 3 processes / 3 labels: DDP divides by the number of processes


def test_one_label_in_the_world_is_enough_for_an_indicator() -> None:
    pair = (torch.tensor(2.0, requires_grad=True), torch.tensor(1.0))
    right = (torch.tensor(1.0), torch.tensor(1.0))
    told = {"a": right, "b": None}
    means = losses.LossMeans({"a": pair, "b": pair}, {}, FirstLosses(), number=7, indicators=told)
    assert means.indicators() == [1.0, pytest.approx(math.exp(-2.0), rel=ROUNDING)]
    assert means.after({"a": (torch.tensor(6.0), torch.tensor(2.0)), "b": pair}) == [3.0, 2.0]
    with pytest.raises(losses.NonFiniteError, match="task 'b' is no longer finite on the batch of step 7"):
        means.after({"a": pair, "b": (torch.tensor(torch.inf), torch.tensor(1.0))})


def test_a_kept_average_has_all_digits_of_float64() -> None:
    average = Kept(("a",), axes=1, start=math.nan)
    average.settle([(("a",), float64(1 / 3)), (("a",), float64(1 / 3))])
    assert average.of(("a",)).item() == 1 / 3
