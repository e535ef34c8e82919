"""Declared state: the values that a balancer keeps per task or pair of tasks, and how the engine moves them."""

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from mtlkit import GramBalancer
from mtlkit.balancer import Balancer
from mtlkit.run import checkpoint
from mtlkit.solvers import min_norm_point
from mtlkit.state import Kept

NAN = torch.nan


class AveragedMGDA(GramBalancer):
    """MGDA on a running average of the Gram matrix."""

    def __init__(self, tasks, rate) -> None:
        super().__init__(tasks)
        self.average = Kept(tasks, axes=2, start=torch.nan, rate=rate)

    def weights(self, gram):
        return min_norm_point(gram)

    def combine(self, step):
        step.keep(self.average, step.gram)
        old, rate = self.average.of(step.tasks), self.average.rate
        return self.weights(torch.where(old.isnan(), step.gram, (1 - rate) * old + rate * step.gram))


def test_the_average_of_a_gram_matrix_over_steps_and_micro_batches(toys):
    """The average equals the formula: a pair moves by the mean of the micro-batches that have it."""
    engine = toys.make_engine(AveragedMGDA(toys.TASK_NAMES, rate=0.25), accumulation=2)
    names = sorted(toys.TASK_NAMES)
    expected = torch.full((3, 3), NAN, dtype=torch.float64)
    for absent in (("depth", "depth"), ("depth", "attributes"), ("segmentation", "segmentation")):
        steps = [engine.train_step(toys.without(toys.make_batch(i), name)) for i, name in enumerate(absent)]
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                seen = [s.gram[s.tasks.index(a), s.tasks.index(b)] for s in steps if {a, b} <= set(s.tasks)]
                if seen:
                    mean, old = sum(seen) / len(seen), expected[i, j]
                    expected[i, j] = mean if old.isnan() else 0.75 * old + 0.25 * mean
        torch.testing.assert_close(engine.balancer.average.value, expected, equal_nan=True)
    assert not expected.isnan().all()


def test_by_hand():
    state = Kept(("b", "a", "c"), axes=2, start=NAN, rate=0.5)
    state.settle([(("a", "b"), torch.tensor([[1.0, 2.0], [2.0, 4.0]]))])
    expected = [[4.0, 2.0, NAN], [2.0, 1.0, NAN], [NAN, NAN, NAN]]  # in the order b, a, c
    torch.testing.assert_close(state.of(("b", "a", "c")), torch.tensor(expected).double(), equal_nan=True)
    state.settle([(("b", "a"), torch.tensor([[8.0, NAN], [4.0, 3.0]])), (("a",), torch.tensor([[5.0]]))])
    assert state.of(("a", "b")).tolist() == [[2.5, 3.0], [2.0, 6.0]]  # a: (1 + (3 + 5) / 2) / 2; NaN is ignored
    state.settle([])
    assert state.of(("a",)).tolist() == [[2.5]]
    assert Kept(("a", "b"), axes=1, start=0.5).of(("b",)).tolist() == [0.5]


def test_values_stay_in_float64_and_go_through_a_checkpoint(toys, tmp_path):
    engine, other = (toys.make_engine(AveragedMGDA(toys.TASK_NAMES, rate=0.5), precision="fp32") for _ in range(2))
    third = 1 / 3  # float32 cannot hold it
    engine.balancer.average.value.fill_(third)
    checkpoint.save_checkpoint(engine, tmp_path / "saved")
    checkpoint.load_checkpoint(other, tmp_path / "saved")
    for balancer in (engine.balancer.to(torch.float32), other.balancer):
        assert balancer.average.value.dtype == torch.float64
        assert (balancer.average.value == third).all()


class Notes(Balancer):
    """Plain summing that notes which micro-batch it saw."""

    def __init__(self, tasks) -> None:
        super().__init__(tasks)
        self.count = 0
        self.noted = []
        self.seen = Kept(tasks, axes=1, start=0.0)

    def combine(self, step):
        self.count += 1
        step.note("number", self.count)
        step.keep(self.seen, torch.full((len(step.tasks),), float(self.count)))
        return super().combine(step)

    def after_step(self, step):
        self.noted.append(list(step.noted("number")))


def test_what_is_noted_is_that_of_one_optimizer_step(toys):
    engine = toys.make_engine(Notes(toys.TASK_NAMES), accumulation=2)
    for number in range(4):
        engine.train_step(toys.make_batch(number))
    assert engine.balancer.noted == [[1, 2], [3, 4]]
    assert engine.balancer.seen.value.tolist() == [3.5, 3.5, 3.5]


def test_a_skipped_step_leaves_nothing_behind(toys):
    engine = toys.make_engine(Notes(toys.TASK_NAMES), precision="fp32")
    scaler = engine.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    engine.optimizer = AcceleratedOptimizer(engine.optimizer.optimizer, device_placement=False, scaler=scaler)
    hook = engine.network.encoder.first.weight.register_hook(lambda g: g * torch.inf)
    engine.train_step(toys.make_batch(0))
    assert engine.balancer.noted == []
    assert engine.balancer.seen.value.tolist() == [0.0, 0.0, 0.0]
    hook.remove()
    engine.train_step(toys.make_batch(1))
    assert engine.balancer.noted == [[2]]
    assert engine.balancer.seen.value.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("axes", [1, 2])
def test_the_order_in_which_tasks_are_listed_is_no_matter(axes):
    one, two = (Kept(names, axes=axes, start=0.0) for names in (("a", "b", "c"), ("c", "a", "b")))
    offered = torch.arange(2.0) if axes == 1 else torch.arange(4.0).view(2, 2)
    for state in (one, two):
        state.settle([(("c", "a"), offered)])
    assert torch.equal(one.of(("b", "c", "a")), two.of(("b", "c", "a")))
    assert torch.equal(one.of(("c", "a")), offered.double())


def test_values_of_another_shape_are_refused_with_the_balancers_name(toys):
    class Wrong(Notes):
        def combine(self, step):
            step.keep(self.seen, step.losses[:2])

    with pytest.raises(ValueError, match=r"Wrong keeps values of the shape \(2,\), where the state needs \(3,\)"):
        toys.make_engine(Wrong(toys.TASK_NAMES)).train_step(toys.make_batch())
