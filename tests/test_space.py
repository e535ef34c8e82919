"""Task gradients over the shared parameters, halves of a batch, and the losses after a step."""

import copy

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SMALL
from torch import nn

from mtlkit import BALANCERS, GramBalancer
from mtlkit.balancer import Balancer
from mtlkit.engine.evaluation import output_sizes
from mtlkit.engine.scalars import scalars_of


class InverseNorm(GramBalancer):
    """Gives every task the same gradient length."""

    def weights(self, gram):
        norms = gram.diagonal().sqrt()
        return norms.mean() / norms


class Probe(Balancer):
    """Plain summing that keeps what it sees."""

    spaces = ("features", "parameters")

    def combine(self, step):
        self.seen = self.look(step)
        return super().combine(step)


def textbook(engine, batch, rows=slice(None)):
    """Returns the losses and their gradients over the encoder, by one backward pass per task in a plain model."""
    image, targets = engine.prepare(batch)
    network = copy.deepcopy(engine.network)
    outputs = network(image[rows], engine.balancer.adapt, output_sizes(engine.tasks, targets))
    losses, gradients = [], []
    for name, task in engine.tasks.items():
        total, _ = task.loss(outputs[name], targets[name][rows])
        _, count = task.loss(engine.network(image)[name], targets[name])
        losses.append(total.detach() / count)
        found = torch.autograd.grad(
            total / count, list(network.encoder.parameters()), retain_graph=True, allow_unused=True
        )
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    return torch.stack(losses), torch.stack(gradients)


def encoder_gradient(engine):
    return torch.cat([p.grad.flatten() for p in engine.network.encoder.parameters()])


def gram_methods():
    return [n for n in BALANCERS.names() if issubclass(BALANCERS.get(n), GramBalancer)]


@pytest.mark.parametrize("name", [*gram_methods(), "own"])
def test_the_space_of_parameters_is_one_backward_pass_a_task(toys, name):
    options = {"space": "parameters"}
    balancer = InverseNorm(toys.TASK_NAMES, **options) if name == "own" else name
    engine = toys.make_engine(balancer, options=options)
    engine._update = lambda *_: None
    _, gradients = textbook(engine, toys.make_batch())
    step = engine.train_step(toys.make_batch())
    torch.testing.assert_close(step.gram, gradients @ gradients.T, rtol=NETWORK, atol=SMALL)
    torch.testing.assert_close(encoder_gradient(engine), step.weights @ gradients, rtol=NETWORK, atol=ROUNDING)
    if name == "own":
        norms = gradients.norm(dim=1)
        torch.testing.assert_close(step.weights, norms.mean() / norms)


def test_decoders_do_not_notice_the_space(toys):
    found = []
    for space in ("features", "parameters"):
        engine = toys.make_engine(InverseNorm(toys.TASK_NAMES, space=space))
        engine._update = lambda *_: None
        engine.train_step(toys.make_batch())
        found.append({n: p.grad for n, p in engine.network.decoders.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_gradient_over_the_parameters_may_be_given_whole(toys):
    class Signs(Balancer):
        """Returns the sum of the signs, which is no weighted sum of the task gradients."""

        spaces = ("parameters",)
        needs = frozenset({"gram", "jacobian"})

        def combine(self, step):
            return [step.jacobian.sign().sum(0)]

    engine = toys.make_engine(Signs(toys.TASK_NAMES, space="parameters"))
    engine._update = lambda *_: None
    _, gradients = textbook(engine, toys.make_batch())
    step = engine.train_step(toys.make_batch())
    expected = gradients.sign().sum(0)
    torch.testing.assert_close(encoder_gradient(engine), expected)
    scalars = scalars_of(step)
    cosines = torch.nn.functional.cosine_similarity(gradients, expected[None])
    for task, cosine in zip(step.tasks, cosines.tolist(), strict=True):
        assert scalars[f"direction/{task}"] == pytest.approx(cosine, rel=NETWORK)
    assert scalars["direction_norm"] == pytest.approx(expected.norm().item(), rel=NETWORK)


def test_a_gradient_at_the_features_may_be_given_whole_and_its_direction_is_logged(toys):
    class Doubled(Balancer):
        """Returns twice the first task's gradient."""

        needs = frozenset({"gram"})

        def combine(self, step):
            return [torch.zeros(()) if g is None else 2 * g for g in step.local_gradients[0]]

    engine = toys.make_engine(Doubled(toys.TASK_NAMES))
    scalars = scalars_of(engine.train_step(toys.make_batch()))
    assert scalars["direction/segmentation"] == pytest.approx(1)
    assert scalars["direction/depth"] == pytest.approx(scalars["cosine/segmentation/depth"])


def test_halves_of_a_batch_give_independent_gradients(toys):
    class Halves(Probe):
        """Reads both halves."""

        needs = frozenset({"gram", "jacobian", "second_batch"})

        def look(self, step):
            return step.cross_gram, step.jacobian

    engine = toys.make_engine(Halves(toys.TASK_NAMES, space="parameters"))
    engine._update = lambda *_: None
    batch = toys.make_batch()
    (_, even), (_, odd), (_, whole) = (
        textbook(engine, batch, rows) for rows in (slice(0, None, 2), slice(1, None, 2), slice(None))
    )
    engine.train_step(batch)
    cross, jacobian = engine.balancer.seen
    torch.testing.assert_close(cross, 4 * even @ odd.T, rtol=NETWORK, atol=SMALL)
    torch.testing.assert_close(jacobian, whole, rtol=NETWORK, atol=ROUNDING)


class Again(Balancer):
    """Reads the losses once more after the model has moved."""

    needs = frozenset({"second_forward"})

    def after_model(self, step):
        self.seen = step.losses.clone(), step.losses_after


def test_a_second_forward_pass_sees_the_moved_model(toys):
    engine = toys.make_engine(Again(toys.TASK_NAMES))
    before, _ = textbook(engine, toys.make_batch())
    engine.train_step(toys.make_batch())
    after, _ = textbook(engine, toys.make_batch())
    torch.testing.assert_close(engine.balancer.seen[0], before)
    torch.testing.assert_close(engine.balancer.seen[1], after)
    assert (after < before).any()


def test_a_second_forward_pass_leaves_batch_norm_alone(toys):
    states = []
    for balancer in (Again(toys.TASK_NAMES), "uniform"):
        engine = toys.make_engine(balancer)
        engine.network.decoders["depth"].fine = nn.Sequential(
            engine.network.decoders["depth"].fine, nn.BatchNorm2d(1, dtype=torch.float64)
        )
        engine.train_step(toys.make_batch())
        states.append(dict(engine.network.named_buffers()))
    assert states[0]["decoders.depth.fine.1.num_batches_tracked"] == 1
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key], value, rtol=0, atol=0)


def test_indicators_are_in_the_order_of_the_present_tasks(toys):
    class Indicators(Probe):
        """Reads the indicators of the tasks."""

        needs = frozenset({"indicators"})

        def look(self, step):
            return step.indicators

    engine = toys.make_engine(Indicators(toys.TASK_NAMES))
    engine.tasks["attributes"].indicator = lambda output, target: None
    batch = toys.without(toys.make_batch(), "segmentation")
    image, targets = engine.prepare(batch)
    outputs = engine.network(image, sizes=output_sizes(engine.tasks, targets))
    right, count = engine.tasks["depth"].indicator(outputs["depth"], targets["depth"])
    step = engine.train_step(batch)
    expected = [right / count, torch.tensor(step.raw_losses["attributes"]).neg().exp()]
    torch.testing.assert_close(engine.balancer.seen, torch.stack(expected).double())


def test_unknown_needs_and_spaces_are_refused():
    class Wrong(GramBalancer):
        """Misspells a need."""

        needs = frozenset({"grams"})

        def weights(self, gram):
            raise NotImplementedError

    with pytest.raises(ValueError, match="Did you mean 'gram'"):
        Wrong(("a",))
    with pytest.raises(ValueError, match="Did you mean 'parameters'"):
        InverseNorm(("a",), space="parameter")


def test_an_encoder_without_trainable_parameters_is_refused(toys):
    engine = toys.make_engine(InverseNorm(toys.TASK_NAMES, space="parameters"))
    engine.network.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="needs an encoder with trainable parameters"):
        engine.train_step(toys.make_batch())


def test_launchers_that_hide_the_parameters_are_refused():
    from mtlkit.engine.shards import check_launcher

    plain = BALANCERS.build("mgda", tasks=("a", "b"), space="parameters")
    nested = BALANCERS.build("cosreg", tasks=("a", "b"))
    check_launcher("FSDP", BALANCERS.build("mgda", tasks=("a", "b")))
    check_launcher("MULTI_GPU", plain)
    check_launcher("FSDP2", nested)
    with pytest.raises(ValueError, match="space=parameters needs the gradients of single parameters, and FSDP 1 hides"):
        check_launcher("FSDP", plain)
    with pytest.raises(ValueError, match=r"space=last_layer needs .* and DEEPSPEED hides"):
        check_launcher("DEEPSPEED", nested)
    nested.space = "features"
    with pytest.raises(ValueError, match="CosReg differentiates gradients once more"):
        check_launcher("DEEPSPEED", nested)


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
@pytest.mark.parametrize("case", ["one sample", "labels in one half", "labels in both"])
def test_weights_do_not_move_by_a_half_without_labels(toys, name, case):
    """The products with an empty half are 0, which would pull the weight towards a task that nothing is known of."""
    batch = toys.make_batch(size=1 if case == "one sample" else 8)
    if case == "labels in one half":
        batch["targets"]["depth"][1::2] = 0
    engine = toys.make_engine(BALANCERS.build(name, tasks=toys.TASK_NAMES))
    step = engine.train_step(batch)
    moved = [float(weight) for weight in engine.balancer.weight.values()]
    assert torch.isfinite(step.weights).all()
    assert (moved == pytest.approx([1 / len(moved)] * len(moved), rel=NETWORK)) == (case != "labels in both")
