"""Mistakes of plug-in authors: each raises a ValueError that names the class, what was expected and what to write."""

import pytest
import torch

from mtlkit.balancer import Balancer, GramBalancer, LossBalancer
from mtlkit.data.dataset import Dataset
from mtlkit.engine.evaluation import evaluate_model
from mtlkit.engine.losses import NonFiniteError
from mtlkit.engine.spaces import SPACES
from mtlkit.network import Decoder, Encoder
from mtlkit.registry import check_options
from mtlkit.target import DenseKind, Kind
from mtlkit.task import Task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, n: s / n, r"must return \(sum .*got a tensor of shape \(\)\. Return the sum and the number"),
        (lambda s, n: None, "must return .*got nothing"),
        (lambda s, n: (s, n, n), "must return .*got a tuple of 3"),
        (lambda s, n: (s.detach(), n), "This sum has no gradient.*leave out `detach`"),
        (lambda s, n: (s, int(n)), r"the number is int \d+\. Write valid\.sum\(\)"),
        (lambda s, n: (float(s.detach()), n), r"the sum is float .*Write errors\.sum\(\)"),
        (lambda s, n: (s.expand(2), n), r"the sum is a tensor of shape \(2,\)"),
    ],
)
def test_losses(toys, change, message):
    engine = toys.make_engine()
    task = engine.tasks["depth"]
    loss = task.loss
    task.loss = lambda output, target: change(*loss(output, target))
    with pytest.raises(ValueError, match=rf"(?s){type(task).__name__}\.loss of task 'depth'.*{message}"):
        engine.train_step(toys.make_batch())


def test_losses_in_the_first_evaluation(toys):
    engine = toys.make_engine()
    engine.tasks["depth"].loss = lambda output, target: output.mean()
    with pytest.raises(ValueError, match="loss of task 'depth' must return"):
        evaluate_model([toys.make_batch()], engine.predictor)


class Weights(GramBalancer):
    """Returns a given value."""

    def weights(self, gram):
        return self.give(gram)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (
            lambda gram: [1.0, 1.0, 1.0],
            r"a tensor \(3,\), got a list of 3 \(float, float, float\)\. Write torch\.tensor",
        ),
        (lambda gram: None, r"a tensor \(3,\), got nothing"),
        (lambda gram: gram.new_ones(2), r"got the shape \(2,\)"),
        (lambda gram: torch.ones(3, dtype=torch.int64), r"floating-point numbers, got torch\.int64"),
    ],
)
def test_weights(toys, give, message):
    engine = toys.make_engine(Weights(toys.TASK_NAMES))
    engine.balancer.give = give
    with pytest.raises(ValueError, match=rf"Weights\.weights must give .*segmentation, depth, attributes.*{message}"):
        engine.train_step(toys.make_batch())


def test_weights_of_losses_and_of_combine(toys):
    class OfLosses(LossBalancer):
        def weights(self, losses, tasks=None):
            return losses.tolist()

    class Combined(Balancer):
        def combine(self, step):
            return torch.ones(len(step.tasks), 1)

    for balancer, message in (
        (OfLosses, "weights must give .*got a list"),
        (Combined, r"combine must give .*\(3, 1\)"),
    ):
        with pytest.raises(ValueError, match=rf"{balancer.__name__}\.{message}"):
            toys.make_engine(balancer(toys.TASK_NAMES)).train_step(toys.make_batch())


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda step: None, "or a list of gradients, one tensor for each of .*got nothing"),
        (lambda step: [1.0, 2.0], r"got a list of 2 \(float, float\)"),
        (lambda step: step.local_features[:1], r"of the shapes \(8, 4, 4, 6\), \(8, 6, 2, 3\), got \(8, 4, 4, 6\)\."),
    ],
)
def test_gradients(toys, give, message):
    class Given(Balancer):
        def combine(self, step):
            return give(step)

    with pytest.raises(ValueError, match=rf"Given\.combine must return .*{message}"):
        toys.make_engine(Given(toys.TASK_NAMES)).train_step(toys.make_batch())


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda losses: losses, r"a tensor of shape \(\), got a tensor of shape \(3,\)\. Sum over the tasks"),
        (lambda losses: 1.0, r"got float 1\.0"),
        (lambda losses: losses.detach().sum(), r"`step\.losses` may not be detached"),
    ],
)
def test_objectives(toys, give, message):
    class Objective(Balancer):
        def objective(self, step):
            return give(step.losses)

    with pytest.raises(ValueError, match=rf"Objective\.objective must return one number.*{message}"):
        toys.make_engine(Objective(toys.TASK_NAMES)).train_step(toys.make_batch())


@pytest.mark.parametrize(
    "change", [lambda levels: levels[0], lambda levels: levels[:1], lambda levels: [x[:, :1] for x in levels]]
)
def test_adapters(toys, change):
    class Adapter(Balancer):
        def adapter(self, task, features):
            return change(features)

    engine = toys.make_engine(Adapter(toys.TASK_NAMES))
    with pytest.raises(ValueError, match=r"Adapter\.adapter of task 'segmentation' must return a list of levels"):
        engine.train_step(toys.make_batch())
    with pytest.raises(ValueError, match=r"Adapter\.adapter of task 'segmentation'"):
        engine.balancer.adapt([torch.ones(1, 4, 2, 2), torch.ones(1, 6, 1, 1)])


@pytest.mark.parametrize(
    ("base", "name", "meant"),
    [
        (Balancer, "after_setp", "after_step"),
        (Balancer, "afterModel", "after_model"),
        (Balancer, "objectve", "objective"),
        (Balancer, "need", "needs"),
        (LossBalancer, "weight", "weights"),
        (GramBalancer, "combined", "combine"),
        (Task, "indicater", "indicator"),
        (Task, "learn", "learns"),
        (Dataset, "camera_off", "camera_of"),
        (Dataset, "target", "targets"),
        (Encoder, "lastlayer", "last_layer"),
        (Decoder, "denses", "dense"),
        (Kind, "shapes", "shape"),
        (DenseKind, "flips", "flip"),
    ],
)
def test_misspelt_hooks_are_refused_when_the_class_is_made(base, name, meant):
    with pytest.raises(ValueError, match=rf"Own\.{name}: nothing calls that name\. Did you mean '{meant}'"):
        type("Own", (base,), {name: lambda self, step: None})


def test_helpers_with_other_names_are_free():
    type(
        "Own", (GramBalancer,), {"moved": None, "limit": None, "after": None, "_after_setp": None, "after_epoch": None}
    )


@pytest.mark.parametrize(
    ("hook", "read", "message"),
    [
        ("combine", lambda step: step.gram, r"reads `step\.gram` without declaring the need\. Write needs = .*'gram'"),
        ("combine", lambda step: step.norms, r"reads `step\.gram` without"),
        ("combine", lambda step: step.cross_gram, r"reads `step\.cross_gram` without .*'second_batch'"),
        ("combine", lambda step: step.jacobian, r"reads `step\.jacobian`.* only in .*'parameters'.*in 'features'"),
        ("after_model", lambda step: step.losses_after, r"reads `step\.losses_after` without .*'second_forward'"),
        ("objective", lambda step: step.indicators, r"reads `step\.indicators` without .*'indicators'"),
    ],
)
def test_what_was_not_declared_is_not_there(toys, hook, read, message):
    cls = type("Reader", (Balancer,), {hook: lambda self, step: read(step)})
    with pytest.raises(ValueError, match=rf"Reader {message}"):
        toys.make_engine(cls(toys.TASK_NAMES)).train_step(toys.make_batch())


def test_halves_are_compared_over_parameters_only(toys):
    needs = frozenset({"second_batch"})
    cls = type("Reader", (Balancer,), {"needs": needs, "combine": lambda self, step: step.cross_gram})
    with pytest.raises(ValueError, match=r"Reader reads `step\.cross_gram`.* only in .*'parameters'.*in 'features'"):
        toys.make_engine(cls(toys.TASK_NAMES)).train_step(toys.make_batch())


def test_halves_are_not_known_before_the_backward_pass(toys):
    known = {"needs": frozenset({"second_batch"}), "spaces": ("parameters",)}
    cls = type("Reader", (Balancer,), {**known, "objective": lambda self, step: step.cross_gram})
    with pytest.raises(ValueError, match=r"cross_gram.* is not known here. Read it in `combine`"):
        toys.make_engine(cls(toys.TASK_NAMES, space="parameters")).train_step(toys.make_batch())


@pytest.mark.parametrize(
    ("hook", "name", "where"),
    [
        ("objective", "gram", "combine"),
        ("objective", "local_gradients", "combine"),
        ("objective", "losses_after", "after_model"),
        ("after_step", "local_features", "combine"),
    ],
)
@pytest.mark.parametrize("space", ["features", "last_layer", "parameters"])
def test_what_is_read_at_the_wrong_time(toys, hook, name, where, space):
    needs = frozenset({"gram", "second_forward"})
    known = {"needs": needs, "spaces": tuple(SPACES), hook: lambda self, step: getattr(step, name)}
    cls = type("Reader", (Balancer,), known)
    with pytest.raises(ValueError, match=f"{name}.* is not known here. Read it in `{where}`"):
        toys.make_engine(cls(toys.TASK_NAMES, space=space)).train_step(toys.make_batch())


def test_decoders_and_tasks_say_what_they_are(toys, monkeypatch):
    task, info = toys.make_tasks()["depth"], toys.ToyEncoder().info
    monkeypatch.delattr(toys.ToyMap, "dense")
    with pytest.raises(ValueError, match=r"ToyMap lacks `dense`\. Write `dense = True` in the class if it gives a map"):
        task.decoder(info)


class NotANumber(Balancer):
    """Returns weights that are NaN."""

    def combine(self, step):
        return step.losses.new_full((len(step.tasks),), float("nan"))


def test_weights_that_are_not_finite_are_the_balancers_fault(toys):
    engine = toys.make_engine(NotANumber(toys.TASK_NAMES))
    with pytest.raises(
        NonFiniteError,
        match=r"gradient is nan at step 0.* are finite: NotANumber gave the weights nan, nan, nan; the model was left",
    ):
        engine.train_step(toys.make_batch())


def test_a_word_for_the_decoders_that_there_is_not(toys):
    balancer = Balancer(toys.TASK_NAMES)
    balancer.decoders = "weigthed"
    with pytest.raises(ValueError, match=r"Balancer\.decoders cannot be 'weigthed'\. Did you mean 'weighted'"):
        toys.make_engine(balancer)


def test_needs_that_are_no_set(toys):
    named = type("Named", (Balancer,), {"__doc__": "Names a need.", "needs": "gram"})
    with pytest.raises(ValueError, match=r"Named\.needs must be a set of names, such as frozenset"):
        named(toys.TASK_NAMES)


class Learned(GramBalancer):
    """A Gram method with a parameter of its own."""

    def __init__(self, tasks, *, space="features", lr=0.5):
        super().__init__(tasks, space=space, lr=lr)
        self.gain = torch.nn.Parameter(torch.ones(()))

    def weights(self, gram):
        return self.gain.detach().to(gram).expand(len(gram))

    def combine(self, step):
        step.add_gradient(self.gain, torch.ones(()))
        return super().combine(step)


@pytest.mark.parametrize("lr", [0.5, 0.125])
def test_the_parameters_of_a_gram_method_learn_at_its_rate(toys, lr):
    """The parameter moves by the learning rate, because that is the length of Adam's first step."""
    engine = toys.make_engine(Learned(toys.TASK_NAMES, lr=lr))
    engine.train_step(toys.make_batch())
    # Adam divides by the gradient's size plus 1e-8.
    assert float(engine.balancer.gain.detach()) == pytest.approx(1 - lr, abs=1e-6)


def test_a_rate_is_no_option_of_a_gram_method_without_parameters():
    check_options("balancer 'learned'", Learned, ["lr", "space"])
    with pytest.raises(ValueError, match="'weights' has no option 'lr'"):
        check_options("balancer 'weights'", Weights, ["lr"])
    with pytest.raises(TypeError, match="rate"):
        Weights(("a",), rate=1.0)
