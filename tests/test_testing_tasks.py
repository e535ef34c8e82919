"""The kit for tasks names a broken promise and the size of the difference."""

import numpy as np
import pytest
import torch
from torchmetrics import MeanSquaredError, MetricCollection

from mtlkit import KINDS, TASKS, Kind
from mtlkit.legend import Classes
from mtlkit.metrics import Pooled
from mtlkit.task import Chances, ErrorMap
from mtlkit.tasks import Depth, Regression
from mtlkit.testing import check_task


@pytest.fixture
def register():
    return lambda cls: TASKS.register("broken")(cls)


class Mean(Regression):
    """Returns the mean."""

    def loss(self, output, target):
        total, count = super().loss(output, target)
        return total / count


class Uneven(Regression):
    """Divides each batch's sum by the size of its largest target."""

    def loss(self, output, target):
        total, count = super().loss(output, target)
        return total / target.nan_to_num(0).abs().max().clamp_min(0.1), count


class Eager(Regression):
    """Counts one element where there is none."""

    def loss(self, output, target):
        total, count = super().loss(output, target)
        return total, count.clamp_min(1)


class Careless(Regression):
    """Counts unknown numbers as zeros, but only a little."""

    def loss(self, output, target):
        total, count = super().loss(output, target)
        return total + 1e-3 * output[target.isnan()].square().sum() * (count > 0), count


class Coarse(Regression):
    """Sums in the precision of the outputs."""

    def loss(self, output, target):
        known = ~target.isnan()
        errors = torch.where(known, output - target.to(output.dtype), 0)
        return errors.square().sum(), known.sum()


class Rooted(Regression):
    """Takes the root of a size. Its slope at zero is infinite."""

    def loss(self, output, target):
        known = ~target.isnan()
        return torch.where(known, output.float().abs().sqrt() + target.nan_to_num(0), 0).sum(), known.sum()


class Flat(Regression):
    """Predicts one number for all."""

    def predict(self, output):
        return output.float().mean(1)


class Grey(Regression):
    """Draws one channel."""

    def picture(self, value):
        return np.zeros((4, 4), np.uint8)


class Many(Regression):
    """Returns one constant per sample."""

    def constant(self, targets):
        return targets.nan_to_num(0)


class LastBatch(Pooled):
    """The error on the last batch."""

    higher_is_better = False

    def __init__(self):
        super().__init__(2)

    def update(self, prediction, target):
        known = ~target.isnan()
        self.sums = torch.stack([(prediction - target)[known].abs().sum(), known.sum()]).double()

    def compute(self):
        return self.sums[0] / self.sums[1]


class Forgets(Regression):
    """Forgets all batches except one."""

    def metrics(self):
        return MetricCollection({"error": LastBatch()})


class Unmasked(Regression):
    """Counts unknown numbers in the figure."""

    def metrics(self):
        return MetricCollection({"mse": MeanSquaredError()})


class Nowhere(LastBatch):
    """Adds up errors. The result is 0 if nothing is known."""

    def update(self, prediction, target):
        known = ~target.isnan()
        self.sums = self.sums + torch.stack([(prediction - target)[known].abs().sum(), known.sum()]).double()

    def compute(self):
        return self.sums[0] / self.sums[1].clamp_min(1)


class Zero(Regression):
    """Is perfect if nothing is known."""

    def metrics(self):
        return MetricCollection({"error": Nowhere()})


class Undirected(Pooled):
    """Does not say which figures are good."""

    def __init__(self):
        super().__init__(1)

    def update(self, prediction, target): ...

    def compute(self):
        return self.sums[0] * torch.nan


class Vague(Regression):
    """Has a metric without a direction."""

    def metrics(self):
        return MetricCollection({"thing": Undirected()})


class Greedy(Regression):
    """Counts unknown numbers among those that could be right."""

    def indicator(self, output, target):
        return ((output - target).abs() < 1).sum(), torch.tensor(target.numel())


class Short(Regression):
    """Shows only the first number."""

    def numbers(self, value):
        return value[:1]


class Sure(Regression):
    """Is sure of what is unknown, too."""

    def chances(self, prediction, target):
        return Chances("all", prediction.sigmoid().flatten(), (target > 0).flatten())


class Painted(Regression):
    """Names a colour."""

    def legend(self):
        return Classes([("a", "red")])


class Everywhere(Depth):
    """Has errors where nothing is known."""

    def errors(self, prediction, target):
        return ErrorMap((prediction - target).abs()[0])


@pytest.mark.parametrize(
    ("cls", "promise", "reason"),
    [
        (Short, "shown", r"the numbers of a prediction have the shape \(1,\), not \(3,\)"),
        (Sure, "shown", "18 probabilities count where nothing is known"),
        (Painted, "shown", r"the legend has the colour \['red'\], not one such as #20a0ff"),
        (Everywhere, "shown", "the errors are not NaN exactly where the target is unknown"),
        (Mean, "loss_is_a_sum", r"ValueError: Mean\.loss .* must return \(sum"),
        (
            Uneven,
            "parts_add_up",
            r"the sum of a batch is \S+, those of its parts add up to \S+: the largest difference",
        ),
        (Eager, "nothing_valid", r"the loss is \(0, 1\)"),
        (Careless, "unknown_elements", r"a gradient of \d\.\de-03 reaches unknown ones"),
        (Coarse, "half_precision", r"the sum is torch\.bfloat16: write output\.float\(\)"),
        (Rooted, "extreme_outputs", r"of 18 gradients are not finite for outputs of about 0"),
        (Flat, "prediction", r"`predict` gives the shape \(6,\), `constant` spreads to \(6, 3\)"),
        (Grey, "prediction", r"the picture of a prediction is uint8 \(4, 4\), not uint8 \(H, W, 3\)"),
        (Many, "constant", r"`constant` gives the shape \(6, 3\), not one prediction \(1, \.\.\.\)"),
        (Forgets, "metrics_pool", r"'error' over two halves differs from the whole: the largest difference is \d"),
        (Unmasked, "constant", "every figure of the constant is NaN"),
        (Zero, "metrics_pool", "'error' is 0 where nothing is known, not NaN"),
        (Vague, "metrics_pool", r"Undirected \('thing'\) does not say `higher_is_better`"),
        (Greedy, "indicator", "18 elements are counted where nothing is known"),
    ],
)
def test_a_broken_promise_is_named(register, cls, promise, reason):
    register(cls)
    with pytest.raises(AssertionError, match=rf"(?s)broken breaks the promise '{promise}': .*{reason}"):
        check_task("broken", only=(promise,))


def test_what_there_is_not_is_refused():
    with pytest.raises(LookupError, match="Did you mean 'depth'"):
        check_task("deph")
    with pytest.raises(ValueError, match=r"task\.checked\.loss: expected .* found 'berhuu'\. Did you mean 'berhu'"):
        check_task("depth", loss="berhuu")
    with pytest.raises(ValueError, match=r"There is no promise 'constants'\. Did you mean 'constant'"):
        check_task("depth", only=("constants",))


def test_a_task_without_a_kind_is_told_what_to_write(register):
    register(type("Any", (Regression,), {"__doc__": "Learns anything.", "learns": ""}))
    with pytest.raises(ValueError, match=r"Any does not say which kind of target it learns\. Write learns = "):
        check_task("broken")
    register(type("Wrong", (Regression,), {"__doc__": "Misspells.", "learns": "regresion", "__qualname__": "Any"}))
    with pytest.raises(LookupError, match="Did you mean 'regression'"):
        check_task("broken")


@pytest.mark.parametrize("name", ["segmentation", "depth", "disparity", "normals", "multilabel", "classification"])
def test_the_examples_of_a_kind_fit_it_and_have_known_and_unknown_parts(name):
    kind, draw = KINDS.build(name, ("a", "b", "c")), torch.Generator().manual_seed(0)
    values = torch.stack([kind.example(5, 7, draw) for _ in range(20)])
    assert not any(kind.problem(value) for value in values)
    assert values.shape == (20, *kind.shape(5, 7))
    assert values.dtype == kind.dtype
    assert 0 < kind.valid(values).double().mean() < 1


def test_an_example_that_does_not_fit_is_the_kinds_fault(register):
    @KINDS.register("unit_pairs")
    class UnitPairs(Kind):
        """Two numbers that add up to one."""

        def shape(self, height, width):
            return (2,)

        def problem(self, value):
            return "" if abs(value.nansum() - 1) < 1e-3 else "add up to 1"  # the tolerance is a thousandth

    register(type("Pair", (Regression,), {"__doc__": "Learns pairs.", "learns": "unit_pairs"}))
    with pytest.raises(ValueError, match=r"UnitPairs\.example returns a value that does not add up to 1: override it"):
        check_task("broken")
