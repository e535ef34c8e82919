"""Compares each balancer with its formulas, computed again by plain autograd, with one backward pass per task."""

import copy
import math

import pytest
import torch
from tolerances import NETWORK, ROUNDING, SOLVED
from torch import nn

from mtlkit import BALANCERS, DECODERS, ENCODERS, TASKS, Decoder, Encoder, EncoderInfo
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.evaluation import output_sizes
from mtlkit.engine.model import MultiTaskModel
from mtlkit.state import stack


def textbook(engine, batch):
    """Returns losses, per-task gradients of every parameter, and gradients at the features, without mtlkit's step."""
    image, targets = engine.prepare(batch)
    network = copy.deepcopy(engine.network)
    levels = network.encoder(image)
    losses, at_features, at_parameters = [], [], []
    for name, task in engine.tasks.items():
        own = [level.view_as(level) for level in levels]
        output = network.decoders[name](engine.balancer.adapter(name, own))
        if task.dense:
            output = nn.functional.interpolate(output, output_sizes(engine.tasks, targets)[name], mode="bilinear")
        total, count = task.loss(output, targets[name])
        loss = total / count
        gradients = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        at_features.append(
            torch.cat([(o * 0 if g is None else g).flatten() for g, o in zip(gradients, own, strict=True)])
        )
        at_parameters.append(
            dict(
                zip(
                    dict(network.named_parameters()),
                    torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True),
                    strict=True,
                )
            )
        )
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(at_features), at_parameters


def gradients_of_step(engine, batch):
    """Returns one step and its gradients. No parameter moves."""
    engine._update = lambda *_: None
    step = engine.train_step(batch)
    return step, {name: p.grad for name, p in engine.network.named_parameters()}


def expected_gradients(at_parameters, weights):
    """The encoder gets the weighted sum, and each decoder gets the gradient of its own task."""
    found = {}
    for name in at_parameters[0]:
        parts = [
            (w if name.startswith("encoder") else 1.0, g[name]) for w, g in zip(weights, at_parameters, strict=True)
        ]
        found[name] = sum(w * g for w, g in parts if g is not None)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=NETWORK, atol=ROUNDING, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform", {}),
        ("fixed", {"weights": {"depth": 3.0, "attributes": 0.0}}),
        ("uncertainty", {}),
        ("gradnorm", {"space": "features"}),
        ("gradnorm", {"space": "last_layer"}),
    ],
)
def test_first_step_weighs_the_encoder_and_can_leave_decoders_plain(toys, name, options):
    engine = toys.make_engine(name, options=options, decoder_gradients="plain")
    batch = toys.make_batch()
    _, _, at_parameters = textbook(engine, batch)
    weights = {"uniform": (1, 1, 1), "fixed": (1, 3, 0), "uncertainty": (1, 0.5, 1), "gradnorm": (1, 1, 1)}[name]
    step, found = gradients_of_step(engine, batch)
    assert_same(found, expected_gradients(at_parameters, weights))
    torch.testing.assert_close(step.weights, torch.tensor(weights, dtype=torch.float64))


def test_weighted_decoders_get_the_weights_too(toys):
    weights = {"segmentation": 0.5, "depth": 3.0}
    engine = toys.make_engine("fixed", options={"weights": weights}, decoder_gradients="weighted", optimizer="sgd")
    batch = toys.make_batch()
    _, _, at_parameters = textbook(engine, batch)
    before = {name: p.detach().clone() for name, p in engine.network.named_parameters()}
    engine.train_step(batch)
    for name, parameter in engine.network.named_parameters():
        gradient = sum(
            weights.get(task, 1.0) * g[name]
            for task, g in zip(engine.tasks, at_parameters, strict=True)
            if g[name] is not None
        )
        torch.testing.assert_close(parameter, before[name] - 1e-2 * gradient, rtol=NETWORK, atol=ROUNDING)


def test_uncertainty_gradient_of_the_log_variances(toys):
    engine = toys.make_engine("uncertainty")
    batch = toys.make_batch()
    for task, value in zip(engine.tasks, (0.3, -0.2, 0.1), strict=True):
        engine.balancer.log_variance[task].data.fill_(value)
    losses, _, _ = textbook(engine, batch)
    gradients_of_step(engine, batch)
    factors = (1.0, 0.5, 1.0)  # depth is a regression task
    for task, loss, f in zip(engine.tasks, losses, factors, strict=True):
        s = engine.balancer.log_variance[task]
        assert s.grad.item() == pytest.approx((-f * torch.exp(-s) * loss + 0.5).item(), rel=NETWORK)


def test_uncertainty_as_published_code_has_it(toys):
    engine = toys.make_engine("uncertainty", options={"likelihood": "gaussian", "initial": -0.5})
    batch = toys.make_batch()
    losses, _, _ = textbook(engine, batch)
    gradients_of_step(engine, batch)
    for task, loss in zip(engine.tasks, losses, strict=True):
        s = engine.balancer.log_variance[task]
        assert s.item() == -0.5
        assert s.grad.item() == pytest.approx(0.5 - 0.5 * math.exp(0.5) * loss.item(), rel=NETWORK)


@pytest.mark.parametrize("space", ["features", "last_layer"])
def test_gradnorm_equals_a_hand_worked_step(toys, space):
    engine = toys.make_engine("gradnorm", options={"space": space, "alpha": 1.5, "lr": 0.025})
    engine.train_step(toys.make_batch(0))
    balancer, batch = engine.balancer, toys.make_batch(1)
    parameters = [balancer.weight[task] for task in balancer.tasks]
    w = torch.stack([p.detach() for p in parameters])
    losses, at_features, at_parameters = textbook(engine, batch)
    initial = stack(balancer.initial_loss, balancer.tasks)
    if space == "features":
        norms = at_features.norm(dim=1)
    else:
        norms = torch.stack([g["encoder.second.weight"].norm() for g in at_parameters])
    rate = (losses / initial) / (losses / initial).mean()
    target = (w * norms).mean() * rate**1.5
    gradient = norms * torch.sign(w * norms - target)

    m = torch.stack([engine.balancer_optimizer.state[p]["exp_avg"] for p in parameters])
    v = torch.stack([engine.balancer_optimizer.state[p]["exp_avg_sq"] for p in parameters])
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    moved = w - 0.025 * (m / (1 - 0.9**2)) / (v / (1 - 0.999**2)).sqrt()
    engine.train_step(batch)
    found = torch.stack([p.detach() for p in parameters])
    torch.testing.assert_close(found, moved * 3 / moved.sum(), rtol=SOLVED, atol=NETWORK)
    assert found.sum().item() == pytest.approx(3)


def test_rotograd_scales_and_aligns_as_published(toys):
    engine = toys.make_engine("rotograd", options={"update": "adam"})
    for base in engine.balancer.base.values():  # drawn in float32, so exact only to 1e-7
        base.data.copy_(torch.linalg.qr(base.data).Q * torch.linalg.qr(base.data).R.diagonal().sign())
    engine.train_step(toys.make_batch(0))
    balancer, batch = engine.balancer, toys.make_batch(1)
    _, gradients, at_parameters = textbook(engine, batch)
    norms = gradients.norm(dim=1)
    initial = stack(balancer.initial_norm, balancer.tasks)
    alpha = (norms / initial) / (norms / initial).sum()
    weights = (alpha * norms).sum() / norms

    # The deeper level is rotated: G~ = G R^T, and L_rot = -sum_n <R^T g~_n, v_n> with g~ and v constant.
    fine = 8 * 4 * 4 * 6
    expected = {}
    rows = [g[fine:].reshape(8, 6, -1).permute(0, 2, 1).reshape(-1, 6) for g in gradients]
    v = sum(g / n for g, n in zip(rows, norms, strict=True)) / 3
    for task, g in zip(engine.tasks, rows, strict=True):
        a = balancer.generator[task].detach().clone().requires_grad_()
        rotation = balancer.base[task].detach() @ torch.linalg.matrix_exp(a.tril(-1) - a.tril(-1).T)
        g_tilde = (g @ rotation.T).detach()
        (expected[task],) = torch.autograd.grad(-((g_tilde @ rotation) * v).sum(), a)
    _, found = gradients_of_step(engine, batch)
    assert_same(found, expected_gradients(at_parameters, weights))
    for task, gradient in expected.items():
        torch.testing.assert_close(balancer.generator[task].grad, gradient, rtol=SOLVED, atol=ROUNDING)


def test_rotograd_ablations(toys):
    batch = toys.make_batch()
    engine = toys.make_engine("rotograd", options={"rotate_only": True})
    step, _ = gradients_of_step(engine, batch)
    assert step.weights.tolist() == [1, 1, 1]
    engine = toys.make_engine("rotograd", options={"scale_only": True})
    assert not any(name.startswith("rotation") for name in engine.balancer.state_dict())
    step, _ = gradients_of_step(engine, batch)
    assert (step.weights * step.norms).std() < 1e-9  # all tasks have one length
    with pytest.raises(ValueError, match="exclude each other"):
        BALANCERS.build("rotograd", tasks=("a",), rotate_only=True, scale_only=True)


@pytest.mark.parametrize("space", ["features", "last_layer"])
@pytest.mark.parametrize("scale_by_loss", [False, True])
def test_cosreg_gradient_equals_finite_differences(toys, space, scale_by_loss):
    engine = toys.make_engine("cosreg", options={"space": space, "alpha": 2.0, "scale_by_loss": scale_by_loss})
    batch = toys.make_batch()
    losses, _, _ = textbook(engine, batch)
    alpha = 2.0 * (losses.mean().item() if scale_by_loss else 1.0)  # constant in the derivative

    def value():
        losses, at_features, at_parameters = textbook(engine, batch)
        rows = (
            at_features
            if space == "features"
            else torch.stack([g["encoder.second.weight"].flatten() for g in at_parameters])
        )
        unit = rows / rows.norm(dim=1, keepdim=True)
        cosines = unit @ unit.T - torch.eye(3)
        return (losses.sum() + alpha / 6 * cosines.square().sum()).item()

    step, found = gradients_of_step(engine, batch)
    assert step.extras["penalty"] > 1e-3  # the penalty is not zero
    for name, parameter in engine.network.named_parameters():
        flat = parameter.data.view(-1)
        for i in (0, len(flat) // 2, len(flat) - 1):
            old, h = flat[i].item(), 1e-5
            flat[i] = old + h
            up = value()
            flat[i] = old - h
            down = value()
            flat[i] = old
            # A central difference with h = 1e-5 has errors of h^2 = 1e-10 and of the rounding over h, 1e-11.
            assert found[name].view(-1)[i].item() == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=SOLVED), name


def test_cosreg_names_a_layer_without_double_backward(toys):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * 2

    engine = toys.make_engine("cosreg", options={"space": "features"})
    engine.network.decoders["depth"].register_forward_hook(lambda module, args, output: Once.apply(output))
    with pytest.raises(ValueError, match=r"(?s)double backward.*once_differentiable"):
        engine.train_step(toys.make_batch())


# -- the opposite-labels toy --------------------------------------------------------------------------------------


@ENCODERS.register("point_encoder")
class PointEncoder(Encoder):
    """Turns (B, 3, 1, 1) points into two features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
        self.info = EncoderInfo(channels=(2,), strides=(0,))

    @property
    def last_layer(self) -> nn.Module:
        return self.layers[-1]

    def forward(self, image):
        return [self.layers(image)]


@DECODERS.register("feature_sum")
class FeatureSum(Decoder):
    """Returns the sum of the features as the logit. It has nothing to learn."""

    dense = False

    def __init__(self, info: EncoderInfo, out_channels: int) -> None:
        super().__init__()

    def forward(self, features):
        return features[0].sum(dim=1, keepdim=True)


def train_opposites(balancer, seed, **options):
    """Returns the accuracies on a labelling and on its inverse."""
    from accelerate import Accelerator

    torch.manual_seed(seed)
    names = ("label", "inverse")
    tasks = [TASKS.build("multilabel", name, ("y",), decoder="feature_sum") for name in names]
    encoder = PointEncoder()
    model = MultiTaskModel(encoder, {task.name: task.decoder(encoder.info) for task in tasks})
    balancer = BALANCERS.build(balancer, tasks=names, **options)
    balancer.setup({task.name: task for task in tasks}, model.encoder_info)
    config = TrainerConfig(max_steps=1500, lr=1e-2)
    engine = Engine(model, tasks, balancer, config, accelerator=Accelerator(cpu=True), steps_per_epoch=10)
    points = torch.randn(512, 3, 1, 1)
    y = (points[:, :1, 0, 0] + points[:, 1:2, 0, 0] ** 2 > 1).float()
    batch = {"image": points, "targets": {"label": y, "inverse": 1 - y}}
    for _ in range(1500):
        engine.train_step(batch)
    with torch.no_grad():
        outputs = engine.network(points, engine.balancer.adapt)
    return [((outputs[name] > 0).float() == target).float().mean().item() for name, target in batch["targets"].items()]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotograd_resolves_opposite_labels_and_plain_summing_cannot(seed):
    label, inverse = train_opposites("rotograd", seed, lr=5e-3)
    assert min(label, inverse) > 0.95
    label, inverse = train_opposites("uniform", seed)
    assert label + inverse == pytest.approx(1)  # one task is right where the other is wrong


@pytest.mark.parametrize("name", BALANCERS.names())
def test_one_task_alone_trains_as_by_plain_summing(toys, name):
    batch = toys.without(toys.without(toys.make_batch(), "segmentation"), "attributes")
    options = {"rotate_only": True} if name == "rotograd" else {}
    engine, plain = toys.make_engine(name, options=options), toys.make_engine("uniform")
    step = engine.train_step(batch)
    assert step.tasks == ("depth",)
    # A rotation changes the forward pass. The other methods here give a single loss a weight that is not 1.
    others = ("rotograd", "rotograd_procrustes", "uncertainty", "db_mtl", "dtp", "nash", "fairgrad", "cagrad", "stch")
    if name not in others:
        plain.train_step(batch)
        assert_same(dict(engine.network.named_parameters()), dict(plain.network.named_parameters()))


class Keeps:
    """Replaces `combine` and keeps its results."""

    def __init__(self, combine) -> None:
        self.combine, self.found = combine, None  # stays None for methods with a double backward

    def __call__(self, step):
        self.found = self.combine(step)
        return self.found


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in BALANCERS.names()), ("moco", {"published": True})], ids=str
)
def test_float32_gives_what_float64_gives(toys, name, options):
    """Compares the first steps, where rounding errors have not added up yet. No gradient becomes float64 on its way."""
    engines = [toys.make_engine(name, options=options, precision=precision) for precision in ("fp32", "fp64")]
    found = []
    for engine in engines:
        engine._update = lambda *_: None
        engine.balancer.combine = Keeps(engine.balancer.combine)
        engine.train_step(toys.make_batch())
        found.append({key: p.grad.double() for key, p in engine.network.named_parameters()})
    given = engines[0].balancer.combine.found
    if isinstance(given, list):
        assert {level.dtype for level in given} == {torch.float32}
    for key, gradient in found[0].items():
        scale = found[1][key].abs().max()
        torch.testing.assert_close(gradient, found[1][key], rtol=0, atol=1e-4 * float(scale))
