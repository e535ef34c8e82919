"""The decoders' gradients for three settings: those of their own loss, or these times the balancer's weights."""

import copy

import pytest
import torch
from torch.nn import functional as F

from mtlkit import BALANCERS
from mtlkit.balancer import Balancer, GramBalancer, LossBalancer
from mtlkit.engine.decoder_gradients import DecoderGradients

# Sums of a few hundred float64 terms of size one have rounding errors below 1e-13.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
#: These methods work on single elements of the gradients, so a task has no single weight.
WITHOUT_WEIGHTS = ("graddrop", "moco")


def losses_of(engine, batch, network):
    """Returns the tasks' mean losses, from a plain forward pass of a copy of the network."""
    image, targets = engine.prepare(batch)
    levels = network.encoder(image)
    for name, task in engine.tasks.items():
        output = network.decoders[name](engine.balancer.adapter(name, levels))
        if output.ndim == 4:
            output = F.interpolate(output, size=targets[name].shape[-2:], mode="bilinear")
        total, count = task.loss(output, targets[name])
        yield total / count


def own_gradients(engine, batch):
    """Returns for each task the gradients of its own loss by its decoder's parameters."""
    network = copy.deepcopy(engine.network)
    losses = dict(zip(engine.tasks, losses_of(engine, batch, network), strict=True))
    return {
        name: torch.autograd.grad(loss, list(network.decoders[name].parameters()), retain_graph=True)
        for name, loss in losses.items()
    }


def train(engine, *batches):
    """Runs the steps and leaves the gradients in place."""
    engine._update = lambda *_: None
    return [engine.train_step(batch) for batch in batches]


def found_gradients(engine):
    return {name: [p.grad for p in decoder.parameters()] for name, decoder in engine.network.decoders.items()}


def expect(engine, expected):
    for name, gradients in found_gradients(engine).items():
        for found, wanted in zip(gradients, expected[name], strict=True):
            torch.testing.assert_close(found, wanted, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


class LateWeights(GramBalancer):
    """Knows its weights only inside the backward pass."""

    decoders = "weighted"

    def weights(self, gram):
        return 1 / gram.diagonal().sqrt()


class OwnGradient(Balancer):
    """Gives the encoder a gradient and the decoders weights."""

    decoders = "weighted"

    def combine(self, step):
        step.decoder_weights = step.losses.new_tensor([3.0, 0.0, -1.0])
        levels = zip(*step.local_gradients, strict=True)
        return [sum(g for g in level if g is not None) for level in levels]


class Squared(Balancer):
    """Differentiates an objective in which the losses have weights."""

    needs = frozenset({"create_graph"})
    decoders = "weighted"

    def objective(self, step):
        return step.losses.square().sum()


def test_uncertainty_is_kendalls_objective_in_encoder_and_decoders(toys):
    engine, batch = toys.make_engine("uncertainty"), toys.make_batch()
    values = {"segmentation": 0.3, "depth": -0.7, "attributes": 1.1}
    for task, value in values.items():
        engine.balancer.log_variance[task].data.fill_(value)
    network = copy.deepcopy(engine.network)
    logs = {task: torch.tensor(value, dtype=torch.float64, requires_grad=True) for task, value in values.items()}
    objective = torch.zeros((), dtype=torch.float64)
    for (task, s), loss in zip(logs.items(), losses_of(engine, batch, network), strict=True):
        half = 0.5 if task == "depth" else 1.0  # a Gaussian likelihood, or Boltzmann's
        objective = objective + half * torch.exp(-s) * loss + s / 2
    objective.backward()
    train(engine, batch)
    for (name, found), (_, wanted) in zip(engine.network.named_parameters(), network.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, **EXACT, msg=lambda m, n=name: f"{n}: {m}")
    for task, s in logs.items():
        torch.testing.assert_close(engine.balancer.log_variance[task].grad, s.grad, **EXACT)


@pytest.mark.parametrize("setting", ["published", "plain", "weighted"])
@pytest.mark.parametrize("name", BALANCERS.names())
def test_every_method_gives_the_decoders_what_it_says(toys, name, setting):
    batch = toys.make_batch()
    engine = toys.make_engine(name, decoder_gradients=setting)
    own = own_gradients(engine, batch)
    differentiated = "create_graph" in engine.balancer.needs
    if setting == "weighted" and name in WITHOUT_WEIGHTS:
        with pytest.raises(ValueError, match="combines gradients without weights"):
            train(engine, batch)
        return
    (step,) = train(engine, batch)
    weighted = setting == "weighted" or (setting == "published" and engine.balancer.decoders == "weighted")
    assert engine.decoder_gradients.given == ("weighted" if weighted else "plain")
    if differentiated:
        return  # by definition, its penalty reaches the decoders
    weights = step.weights if step.decoder_weights is None else step.decoder_weights
    factors = weights.tolist() if weighted else [1.0] * len(step.tasks)
    expect(engine, {task: [f * g for g in own[task]] for task, f in zip(step.tasks, factors, strict=True)})


@pytest.mark.parametrize("balancer", ["uncertainty", "nash", LateWeights], ids=str)
def test_every_micro_batch_has_weights_of_its_own(toys, balancer):
    """Decoders get the mean over the micro-batches of their gradients, each times the weights of its micro-batch."""
    batches = [toys.make_batch(0), toys.make_batch(1), toys.without(toys.make_batch(2), "depth")]
    made = balancer if isinstance(balancer, str) else balancer(toys.TASK_NAMES)
    engine = toys.make_engine(made, accumulation=3, decoder_gradients="weighted")
    own = [own_gradients(engine, batch) for batch in batches]
    steps = train(engine, *batches)
    expected = {}
    for task in toys.TASK_NAMES:
        parts = [
            [step.weights[step.tasks.index(task)] * g / 3 for g in gradients[task]]
            for step, gradients in zip(steps, own, strict=True)
            if task in step.tasks
        ]
        expected[task] = [sum(values) for values in zip(*parts, strict=True)]
    assert steps[0].weights.tolist() != steps[1].weights.tolist() or balancer == "uncertainty"
    expect(engine, expected)


def test_an_own_gradient_may_come_with_weights_for_the_decoders(toys):
    engine, batch = toys.make_engine(OwnGradient(toys.TASK_NAMES)), toys.make_batch()
    own = own_gradients(engine, batch)
    train(engine, batch)
    factors = {"segmentation": 3.0, "depth": 0.0, "attributes": -1.0}
    expect(engine, {task: [factors[task] * g for g in own[task]] for task in own})


@pytest.mark.parametrize("setting", ["published", "weighted"])
def test_a_differentiated_objective_weighs_the_decoders_once(toys, setting):
    engine, batch = toys.make_engine(Squared(toys.TASK_NAMES), decoder_gradients=setting), toys.make_batch()
    own = own_gradients(engine, batch)
    (step,) = train(engine, batch)
    losses = dict(zip(step.tasks, step.losses, strict=True))
    expect(engine, {task: [2 * losses[task] * g for g in own[task]] for task in own})


def test_a_differentiated_objective_with_weights_cannot_leave_the_decoders_plain(toys):
    engine = toys.make_engine(Squared(toys.TASK_NAMES), decoder_gradients="plain")
    with pytest.raises(ValueError, match=r"=plain: Squared differentiates its whole objective.*=weighted"):
        train(engine, toys.make_batch())


@pytest.mark.parametrize(("base", "given"), [(Balancer, "plain"), (GramBalancer, "plain"), (LossBalancer, "weighted")])
def test_what_a_strangers_method_gives_if_it_says_nothing(base, given):
    assert base.decoders == given


def test_a_launcher_that_does_not_show_gradients_is_refused():
    DecoderGradients("published", BALANCERS.build("uniform", tasks=("a", "b")), "DEEPSPEED")
    DecoderGradients("plain", BALANCERS.build("uncertainty", tasks=("a", "b")), "DEEPSPEED")
    with pytest.raises(ValueError, match=r"Uncertainty: each decoder gets .* times the weight.*DEEPSPEED does not"):
        DecoderGradients("published", BALANCERS.build("uncertainty", tasks=("a", "b")), "DEEPSPEED")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("plain", "each decoder gets the gradient of its own loss (trainer.decoder_gradients=plain)"),
        (
            "weighted",
            "each decoder gets the gradient of its own loss times the weight of its task "
            "(trainer.decoder_gradients=weighted)",
        ),
        (
            "published",
            "each decoder gets the gradient of its own loss (as the method is published; "
            "trainer.decoder_gradients=published)",
        ),
    ],
)
def test_the_line_of_the_log_says_what_decoders_get(toys, setting, words):
    assert str(toys.make_engine("pcgrad", decoder_gradients=setting).decoder_gradients) == words


@pytest.mark.parametrize(("setting", "waits"), [("plain", True), ("weighted", False)])
def test_plain_gradients_are_summed_once_per_step(toys, setting, waits):
    """Processes sum plain gradients once per step. They must sum weighted ones after every micro-batch."""
    engine = toys.make_engine("gradnorm", decoder_gradients=setting, accumulation=2)
    assert engine.decoder_gradients.held_back(engine.model) == ([engine.model] if waits else [])
